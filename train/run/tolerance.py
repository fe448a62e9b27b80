"""Samples that turned out unusable while a run goes on: told by name, counted over all ranks and starts, and
few at most."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch.distributed as dist

from ..data.stacking import DataError
from .ranks import Ranks

logger = logging.getLogger(__name__)

Found = Iterable[tuple[str, str]]
"""Samples' keys, and what is wrong with each."""


class TooManyUnusableError(DataError):
    """More samples cannot be used than the run is to tolerate; raised on all ranks alike."""


class Tolerance:
    """The keys of the samples that the run has had to replace so far, the same on every rank."""

    def __init__(self, most: int, ranks: Ranks, known: Iterable[str] = ()):
        """`most`: so many in all, `known` among them, and no more."""
        self.most = most
        self.known = set(known)
        self._ranks = ranks

    def heed(self, found: Found, tell: Callable[[str, str], None]) -> None:
        """Count those that this rank's batch stands in for, and tell each that is new; collective, and the same on
        all ranks.

        Raises TooManyUnusableError when there are more than `most`.
        """
        new = {key: fault for key, fault in found if key not in self.known}
        if not any(self._ranks.any(bool(new))):
            return
        for key, fault in sorted(self._of_all(new).items()):
            self.known.add(key)
            if len(self.known) > self.most:
                raise TooManyUnusableError(
                    f"{len(self.known)} samples cannot be used, and the run was to tolerate {self.most}. The last: {fault} Look "
                    "at the disk that they lie on. With a larger --tolerate the same command goes on from the last checkpoint."
                )
            tell(key, fault)
            logger.warning("%s The next row takes its place (%d of %d that are tolerated).", fault, len(self.known), self.most)

    def _of_all(self, new: dict[str, str]) -> dict[str, str]:
        if self._ranks.world_size == 1:
            return new
        parts: list[dict[str, str]] = [{}] * self._ranks.world_size
        dist.all_gather_object(parts, new)
        return {key: fault for part in parts for key, fault in part.items()}
