"""The paper in miniature: teachers, judges and measurements for the synthetic world of `train.synthetic`.

Nothing here is needed to train on photographs. What it proves, and what it cannot, is in docs/proof.md.
"""
