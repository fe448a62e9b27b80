"""What the commands of both stages do around `build`: read the configuration, find the other ranks, run, explain what fails."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

from .checkpointing import CheckpointWriteError
from .config import Config, parse
from .distributed import Ranks, distributed
from .loop import NonFiniteLossError, Task, run


def train(kind: type[Config], build: Callable[[Config, Ranks], Task], argv: Sequence[str] | None) -> int:
    """Train what `build` makes of a command line of `kind`; return the process's exit code.

    0 when finished or stopped by SIGTERM, 1 for an error that it explains on stderr, on any rank.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        config = parse(kind, argv)
        with distributed() as ranks:
            run(build(config, ranks), config, ranks)
    except (ValueError, CheckpointWriteError, NonFiniteLossError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0
