"""What stands around a node in the graph that runs, and what does not fit there.

For what a node says and refuses, never for what it gives: ComfyUI keeps that while its own inputs stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..faceclip import Identity

_ENDS = {"positive", "negative"}
_Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Latent:
    """An empty latent that a sampler starts from, in pixels of the picture."""

    width: int
    height: int
    batch: int


class Neighbours:
    """The graph around the node that runs; nothing outside of a graph, or where ComfyUI does not tell."""

    def __init__(self, graph: Any, node_id: str):
        self._graph, self._id = graph, node_id

    @staticmethod
    def of(node: type[io.ComfyNode]) -> Neighbours:
        """Of a node whose schema asks for the hidden `dynprompt`, while it runs."""
        try:
            from comfy_execution.utils import get_executing_context
        except ImportError:
            return Neighbours(None, "")
        context, hidden = get_executing_context(), getattr(node, "hidden", None)
        return Neighbours(getattr(hidden, "dynprompt", None), context.node_id if context else "")

    def is_negative(self, slot: int) -> bool:
        """Whether all that an output leads to is a negative prompt: of a sampler, or of a node on the way to one."""
        ends: set[str] = set()
        for fed, _ in self._below(slot, lambda fed, _: bool(fed & _ENDS)):
            ends |= fed & _ENDS
        return ends == {"negative"}

    def latents(self, slot: int) -> list[Latent]:
        """The empty latents of the samplers that an output leads to, where their size is a number."""
        found = []
        for _, inputs in self._below(slot, _is_sampler):
            source = self._inputs(inputs.get("latent_image"))
            size = [number for name in ("width", "height", "batch_size") if isinstance(number := source.get(name), int)]
            if len(size) == 3:
                found.append(Latent(*size))
        return list(dict.fromkeys(found))

    def unets(self, slot: int) -> list[str]:
        """Names of the model files of the samplers that an output leads to, through nodes that change a model.

        UNets, transformers, and whole checkpoints.
        """
        found = []
        for _, inputs in self._below(slot, _is_sampler):
            source, seen = self._inputs(inputs.get("model")), 0
            while "model" in source and "unet_name" not in source and seen < 100:
                source, seen = self._inputs(source["model"]), seen + 1
            found += [name for key in ("unet_name", "ckpt_name") if isinstance(name := source.get(key), str)]
        return list(dict.fromkeys(found))

    def _below(self, slot: int, is_last: Callable[[set[str], _Inputs], bool]) -> Iterator[tuple[set[str], _Inputs]]:
        """What an output leads to, directly or through other nodes: for each link, the inputs that it feeds, and all.

        is_last: of the same two, whether the way ends there.
        """
        waiting: list[tuple[str, int | None]] = [(self._id, slot)]
        seen: set[str] = set()
        while waiting:
            source = waiting.pop()
            for node, inputs in self._nodes():
                fed = {name for name, value in inputs.items() if _comes_from(value, *source)}
                if fed:
                    yield fed, inputs
                if fed and node not in seen and not is_last(fed, inputs):
                    seen.add(node)
                    waiting.append((node, None))

    def _nodes(self) -> list[tuple[str, _Inputs]]:
        if self._graph is None or not self._graph.has_node(self._id):
            return []
        return [(node, self._graph.get_node(node)["inputs"]) for node in sorted(self._graph.all_node_ids())]

    def _inputs(self, link: Any) -> _Inputs:
        return self._graph.get_node(link[0])["inputs"] if _is_link(link) and self._graph.has_node(link[0]) else {}


def face_status(identity: Identity | None, around: Neighbours) -> str:
    """That there is no face, where there could be one; a prompt that is only somebody's negative needs none."""
    if identity is None:
        return "" if around.is_negative(0) else "No identity is connected: text alone."
    without = len(identity) - int(identity.present.sum())
    if without == len(identity):
        return "There is no face in the identity: text alone."
    return f"{without} of {len(identity)} people have no face: text alone for them." if without else ""


def batch_status(identity: Identity | None, latent: Latent) -> str:
    """That there are more people, or fewer, than pictures to draw."""
    people = 1 if identity is None else len(identity)
    if people in (1, latent.batch):
        return ""
    return f"{people} people and a batch of {latent.batch}: set batch_size of the latent to {people}."


def _is_sampler(fed: set[str], inputs: _Inputs) -> bool:
    return "latent_image" in inputs


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _comes_from(value: Any, node: str, slot: int | None) -> bool:
    """Whether an input is a link from an output of a node; from any of them where `slot` is None."""
    return _is_link(value) and str(value[0]) == node and slot in (None, value[1])
