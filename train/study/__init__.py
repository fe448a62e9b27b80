"""A blind comparison of two folders of pictures: `python -m train.study DIR_A DIR_B` (paper, section 4.4)."""
