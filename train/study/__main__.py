"""`python -m train.study`, see `train.study.command`."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
