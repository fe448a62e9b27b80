"""`python -m train.generate`, see `train.generate.command`."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
