"""What the proof's training starts from, itself trained on drawn pictures."""
