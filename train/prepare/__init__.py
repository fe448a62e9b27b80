"""Photographs with captions become shards: `python -m train.prepare SOURCE OUT`."""
