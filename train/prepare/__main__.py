"""`python -m train.prepare`, see `train.prepare.command`."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
