"""Train a mini model as the pack's is laid out: `python -m train.mini --out RUNS`.

It goes on where it was stopped.
"""
