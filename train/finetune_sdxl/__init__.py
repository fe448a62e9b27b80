"""Finetune SDXL's UNet on the joint condition.

By `python -m train.finetune_sdxl`, or under torchrun or `accelerate launch`.
"""
