"""Training FaceCLIP: data, contrastive pretraining, and SDXL with the joint condition. Stands on `faceclip`."""
