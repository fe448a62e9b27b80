"""`python -m train.evaluate`, see `train.evaluate.command`."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
