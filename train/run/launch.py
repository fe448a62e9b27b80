"""What the commands of both stages do around `build`: read the
configuration, find the other ranks, run, explain what fails."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence

from .checkpointing import CheckpointWriteError
from .command_line import Config, parse, run_command
from .folder_lock import held
from .logs import require_loggers
from .loop import NonFiniteLossError, Task, run
from .ranks import Ranks, distributed

logger = logging.getLogger(__name__)


def train(kind: type[Config], build: Callable[[Config, Ranks], Task], argv: Sequence[str] | None) -> int:
    """Train what `build` makes of a command line of `kind`; return the process's exit code.

    0 when finished or stopped by SIGTERM, 1 for an error that it explains on stderr, on any rank.
    """
    logging.getLogger("train").setLevel(logging.INFO)  # grain has set the root up by now, to warnings alone

    def work() -> None:
        config = parse(kind, argv)
        require_loggers(config)
        with distributed() as ranks:
            if ranks.is_main and config.out.is_dir():  # a run that is refused leaves no folder
                with held(config.out):  # asked once before the models are read, and kept when the run begins
                    pass
            task = build(config, ranks)
            if ranks.is_main:
                rows = config.batch_size // ranks.world_size
                logger.info("Training on %d ranks (%s), %d rows each.", ranks.world_size, ranks.device.type, rows)
                _warn_of_ignored(os.environ)
            run(task, task.config, ranks)  # what the task made of it: written, and compared on resuming, as it is

    return run_command(work, CheckpointWriteError, NonFiniteLossError, level=logging.WARNING)


def _warn_of_ignored(environment: Mapping[str, str]) -> None:
    """accelerate only starts the processes here: say so to who expects more of it."""
    asked = [name for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM") if environment.get(f"ACCELERATE_USE_{name}") == "true"]
    if environment.get("ACCELERATE_MIXED_PRECISION", "no") != "no":
        asked.append("mixed precision")
    if asked:
        logger.warning("accelerate's %s is not used: see --dtype, --shard-optimizer and --micro-batch.", " and ".join(asked))
