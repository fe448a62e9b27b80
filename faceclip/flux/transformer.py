"""FLUX.1's transformer under its two sets of names: diffusers' (the
released `dit.pt`) and the core's, which joins q, k and v."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..tensor_file import CheckpointError, Entry, require_names

_OUTSIDE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
_DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_DOUBLE_NORMS = {
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
}
_DOUBLE_JOINED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_SINGLE = {"modulation.lin": "norm.linear", "linear2": "proj_out"}
_SINGLE_NORMS = {"norm.query_norm": "attn.norm_q", "norm.key_norm": "attn.norm_k"}
_SINGLE_JOINED = {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")}


@dataclass(frozen=True)
class _Source:
    """What a tensor of the core is made of: diffusers' tensors, one below the other.

    Or one whose halves change places.
    """

    names: tuple[str, ...]
    halves_swapped: bool = False


def is_diffusers(names: Collection[str]) -> bool:
    """Whether a FLUX transformer's tensors have diffusers' names."""
    return any(name.startswith("transformer_blocks.") for name in names)


def in_core_form(entries: Mapping[str, Entry], path: str | Path) -> dict[str, Entry]:
    """A transformer in diffusers' form as the core keeps it. Raises CheckpointError for one that is not whole."""
    sources = _sources(entries, "transformer_blocks", "single_transformer_blocks")
    wanted = {name for source in sources.values() for name in source.names}
    require_names(Path(path), entries.keys(), wanted, "FLUX.1-dev transformer", "Download dit.pt again.")
    return {name: _joined([entries[part] for part in source.names], source.halves_swapped) for name, source in sources.items()}


def in_diffusers_form(entries: Mapping[str, Entry], path: str | Path) -> dict[str, Entry]:
    """Inverse of `in_core_form`. Raises CheckpointError."""
    sources = _sources(entries, "double_blocks", "single_blocks")
    result: dict[str, Entry] = {}
    for core, source in sources.items():
        if core not in entries:
            raise CheckpointError(f"{path} is not a whole FLUX.1-dev transformer: it lacks {core}. Convert dit.pt again.")
        if source.halves_swapped:
            result[source.names[0]] = _joined([entries[core]], halves_swapped=True)
        elif len(source.names) == 1:
            result[source.names[0]] = entries[core]
        else:
            result.update(_parted(entries[core], source.names, _width(entries)))
    return result


def _width(entries: Mapping[str, Entry]) -> int:
    return entries["img_in.weight"].shape[0]


def _sources(names: Collection[str], double: str, single: str) -> dict[str, _Source]:
    """Every tensor of the core, for as many blocks as there are of `double` and `single`."""
    found = {core + end: _Source((ours + end,)) for core, ours in _OUTSIDE.items() for end in (".weight", ".bias")}
    for end in (".weight", ".bias"):
        found[f"final_layer.adaLN_modulation.1{end}"] = _Source((f"norm_out.linear{end}",), halves_swapped=True)
    for blocks, core, ours, plain, norms, joined in (
        (double, "double_blocks", "transformer_blocks", _DOUBLE, _DOUBLE_NORMS, _DOUBLE_JOINED),
        (single, "single_blocks", "single_transformer_blocks", _SINGLE, _SINGLE_NORMS, _SINGLE_JOINED),
    ):
        for i in range(_count(names, blocks)):
            for end in (".weight", ".bias"):
                found |= {f"{core}.{i}.{a}{end}": _Source((f"{ours}.{i}.{b}{end}",)) for a, b in plain.items()}
                found |= {
                    f"{core}.{i}.{a}{end}": _Source(tuple(f"{ours}.{i}.{part}{end}" for part in parts))
                    for a, parts in joined.items()
                }
            found |= {f"{core}.{i}.{a}.scale": _Source((f"{ours}.{i}.{b}.weight",)) for a, b in norms.items()}
    return found


def _count(names: Collection[str], blocks: str) -> int:
    """How many blocks there are, by the highest number.

    A number beyond all that the tensors could fill counts as one more.
    """
    numbers = [int(match[1]) for name in names if (match := re.match(rf"{blocks}\.(\d{{1,9}})\.", name))]
    return min(max(numbers, default=-1), len(names)) + 1


def _joined(parts: list[Entry], halves_swapped: bool) -> Entry:
    if len(parts) == 1 and not halves_swapped:
        return parts[0]

    def read() -> Tensor:
        tensors = [part.read() for part in parts]
        return torch.cat(tensors[0].chunk(2)[::-1] if halves_swapped else tensors)

    return Entry(parts[0].dtype, (sum(part.shape[0] for part in parts), *parts[0].shape[1:]), read)


def _parted(entry: Entry, names: tuple[str, ...], width: int) -> dict[str, Entry]:
    """Queries, keys and values of `width` rows each; what is left, if anything, is the last part's."""
    starts = [width * i for i in range(len(names))]
    ends = [*starts[1:], entry.shape[0]]

    def rows(start: int, end: int) -> Entry:
        return Entry(entry.dtype, (end - start, *entry.shape[1:]), lambda: entry.read()[start:end].clone())

    return {name: rows(start, end) for name, start, end in zip(names, starts, ends, strict=True)}
