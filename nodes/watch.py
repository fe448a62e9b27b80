"""Work that takes more than a second moves the progress bar, and stops when somebody presses Cancel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.utils
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

SECONDS_BETWEEN = 0.1  # two messages to the editor


class Watch:
    """Told of progress, however often, it looks at the Cancel button each time and moves the bar ten times a second."""

    def __init__(self):
        self._bar = comfy.utils.ProgressBar(1)
        self._shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if done == total or time.monotonic() - self._shown > SECONDS_BETWEEN:
            self._shown = time.monotonic()
            self._bar.update_absolute(done, total)


@contextmanager
def watched(layers: Sequence[nn.Module], passes: int = 1) -> Iterator[None]:
    """Look at the Cancel button, and move the progress bar, at every layer: a CPU spends seconds on one prompt.

    `passes` is how often each layer is to run. The first weighted words
    with a person take one more: the bar is full early.
    """
    watch, done = Watch(), 0

    def before(layer: nn.Module, inputs: object) -> None:
        nonlocal done
        done += 1
        watch(done, passes * len(layers))

    # Taken off again: what a hook holds would keep a large encoder in memory that nothing else wants.
    handles = [layer.register_forward_pre_hook(before) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watched_building(watch: Watch, total: int, placed: Callable[[], None]) -> Iterator[None]:
    """Stop on Cancel while ComfyUI's core makes a network.

    Move the bar towards `total`, by one for each of the weights that it gets. `placed` is called each time that
    all weights handed out so far are in their layers.

    The core tells nothing of either, but torch does: of each layer that becomes part of another, and of each that
    is given weights. Nothing of this is left on the network.
    """
    done, handles = 0, dict[int, Any]()

    def made(parent: nn.Module, name: str, layer: nn.Module | None) -> None:
        watch(done, total)
        if layer is not None and id(layer) not in handles:  # torch before 2.5 has the hook under the private name only
            handles[id(layer)] = layer._register_load_state_dict_pre_hook(weighted, with_module=True)

    def weighted(layer: nn.Module, *others: object) -> None:
        nonlocal done
        placed()
        done = min(total - 1, done + len(layer._parameters))  # not full before the end
        watch(done, total)

    registration = register_module_module_registration_hook(made)
    try:
        yield
        placed()
    finally:
        for handle in (registration, *handles.values()):
            handle.remove()
