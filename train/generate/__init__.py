"""Make a protocol's pictures: `python -m train.generate TODO.csv ...`."""
