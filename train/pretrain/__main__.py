"""`python -m train.pretrain`, see `train.pretrain.command`."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
