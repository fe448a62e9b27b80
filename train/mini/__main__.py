"""`python -m train.mini`, see `train.mini.command`."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
