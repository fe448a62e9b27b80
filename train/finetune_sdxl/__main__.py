"""`python -m train.finetune_sdxl`, see `train.finetune_sdxl.command`."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
