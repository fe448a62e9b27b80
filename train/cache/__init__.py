"""Compute what is frozen once: `python -m train.cache pretrain ...` or `python -m train.cache latents ...`."""
