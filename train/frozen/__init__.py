"""What training starts from and never moves: face and text towers, the teacher, the VAE."""
