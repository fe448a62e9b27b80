"""Pretrain FaceCLIP: `python -m train.pretrain`, or under torchrun or `accelerate launch`."""
