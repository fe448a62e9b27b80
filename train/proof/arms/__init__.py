"""What the proof compares: its arms, how they are trained, and what is measured of them."""
