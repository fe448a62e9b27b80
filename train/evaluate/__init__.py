"""Measure folders of generated images: `python -m train.evaluate --protocol P --images DIR [DIR ...]`."""
