"""The names and shapes in `face_t5_encoder.pt`, and what each tensor is
to us, to the core's T5 and to the core's CLIP-L.

FaceT5's own part begins with `encoder_2.`, T5 with `encoder_2.t5_encoder.`, CLIP-L with `encoder_1.`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal

from ..model.face_tower import FaceTower
from ..ops import without_values
from .config import CLIPConfig, FaceT5Config, ReleaseConfig, T5Config

Shape = tuple[int, ...]
Part = Literal["facet5", "t5xxl", "clip_l"]

OWN, T5, CLIP = "encoder_2.", "encoder_2.t5_encoder.", "encoder_1."

_CORE_T5 = (
    (r"embed_tokens\.", "shared."),
    (r"block\.(\d+)\.self_attention_layer\.self_attention\.W([qkv])\.", r"encoder.block.\1.layer.0.SelfAttention.\2."),
    (r"block\.(\d+)\.self_attention_layer\.self_attention\.o\.", r"encoder.block.\1.layer.0.SelfAttention.o."),
    (
        r"block\.0\.self_attention_layer\.self_attention\.pe_encoding\.relative_attention_bias\.",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.",
    ),
    (r"block\.(\d+)\.self_attention_layer\.layer_norm\.", r"encoder.block.\1.layer.0.layer_norm."),
    (r"block\.(\d+)\.ff_layer\.act\.wi_([01])\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_\2."),
    (r"block\.(\d+)\.ff_layer\.wo\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
    (r"block\.(\d+)\.ff_layer\.layer_norm\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"final_layer_norm\.", "encoder.final_layer_norm."),
)


def part_of(name: str) -> Part:
    """Which of the three models a tensor of the release belongs to."""
    return "clip_l" if name.startswith(CLIP) else "t5xxl" if name.startswith(T5) else "facet5"


def in_core(name: str) -> str:
    """A T5 or CLIP-L tensor's name in the core's `t5xxl_*.safetensors` and `clip_l.safetensors`."""
    if name.startswith(CLIP):
        return name.removeprefix(CLIP)
    rest = name.removeprefix(T5)
    for pattern, replacement in _CORE_T5:
        found, count = re.subn(f"^{pattern}", replacement, rest)
        if count:
            return found
    raise KeyError(f"{name} is not a tensor of T5.")


def own_sources(names: Iterable[str], config: FaceT5Config, class_head: bool) -> dict[str, tuple[str, int]]:
    """Which tensors of the release FaceT5's own part is made of, in effect.

    Our name -> (the release's name, how many of its first rows to leave out). What has no effect on the
    embeddings is left out: the last face layer and the face half of the last cross-attention, the queries and
    keys of the face layers, the projection of face positions, `enc_output*`, and the class head, unless
    `class_head` asks for it.
    """
    last = config.fusion.layers - 1
    dead = [
        r"face_pos_proj\.",
        r"fuser\.enc_output",
        rf"fuser\.encoder\.layers\.{last}\.",
        rf"fuser\.encoder\.fusion_layers\.{last}\.(gamma_v|attn\.values_l_proj\.|attn\.out_v_proj\.)",
        *([] if class_head else [r"face_encoder\.(mask_token|feature\.)"]),
    ]
    sources = {}
    for name in names:
        ours = name.removeprefix(OWN)
        if part_of(name) != "facet5" or any(re.match(pattern, ours) for pattern in dead):
            continue
        packed = re.fullmatch(r"(fuser\.encoder\.layers\.\d+\.self_attn\.)in_proj_(weight|bias)", ours)
        if packed:
            sources[f"{packed[1]}value_proj.{packed[2]}"] = (name, 2 * config.width)
        else:
            sources[ours] = (name, 0)
    return sources


def own_shapes(config: FaceT5Config, class_head: bool) -> dict[str, Shape]:
    """Names and shapes of FaceT5's own part as we keep it."""
    whole = {f"{OWN}{name}": shape for name, shape in _own(config)}
    sources = own_sources(whole, config, class_head)
    return {ours: (whole[name][0] - skip, *whole[name][1:]) if skip else whole[name] for ours, (name, skip) in sources.items()}


def released_shapes(config: ReleaseConfig) -> dict[str, Shape]:
    """Names and shapes of all tensors of `face_t5_encoder.pt` (958 in the full size)."""
    return {
        **{f"{CLIP}text_model.{name}": shape for name, shape in _clip(config.clip)},
        **{f"{T5}{name}": shape for name, shape in _t5(config.t5)},
        **{f"{OWN}{name}": shape for name, shape in _own(config.own)},
    }


def _linear(name: str, out: int, width: int) -> list[tuple[str, Shape]]:
    return [(f"{name}.weight", (out, width)), (f"{name}.bias", (out,))]


def _norm(name: str, width: int) -> list[tuple[str, Shape]]:
    return [(f"{name}.weight", (width,)), (f"{name}.bias", (width,))]


def _clip(config: CLIPConfig) -> Iterator[tuple[str, Shape]]:
    width = config.width
    yield "embeddings.token_embedding.weight", (config.vocabulary, width)
    yield "embeddings.position_embedding.weight", (config.context, width)
    for i in range(config.layers):
        layer = f"encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{layer}self_attn.{name}", width, width)
        yield from _linear(f"{layer}mlp.fc1", config.feedforward, width)
        yield from _linear(f"{layer}mlp.fc2", width, config.feedforward)
        yield from _norm(f"{layer}layer_norm1", width)
        yield from _norm(f"{layer}layer_norm2", width)
    yield from _norm("final_layer_norm", width)


def _t5(config: T5Config) -> Iterator[tuple[str, Shape]]:
    width, inner = config.width, config.heads * config.head_width
    yield "embed_tokens.weight", (config.vocabulary, width)
    bias = "block.0.self_attention_layer.self_attention.pe_encoding.relative_attention_bias.weight"
    yield bias, (config.buckets, config.heads)
    for i in range(config.layers):
        attention, feedforward = f"block.{i}.self_attention_layer.", f"block.{i}.ff_layer."
        for name in ("Wq", "Wk", "Wv"):
            yield f"{attention}self_attention.{name}.weight", (inner, width)
        yield f"{attention}self_attention.o.weight", (width, inner)
        yield f"{attention}layer_norm.weight", (width,)
        for name in ("wi_0", "wi_1"):
            yield f"{feedforward}act.{name}.weight", (config.feedforward, width)
        yield f"{feedforward}wo.weight", (width, config.feedforward)
        yield f"{feedforward}layer_norm.weight", (width,)
    yield "final_layer_norm.weight", (width,)


def _own(config: FaceT5Config) -> Iterator[tuple[str, Shape]]:
    width, face, fusion = config.width, config.face, config.fusion
    yield "positional_embedding", (1, config.context, width)
    yield from _face_tower(config)
    yield from _linear("face_patch_proj", width, face.width)
    yield from _linear("face_pos_proj", width, face.width)
    for i in range(fusion.layers):
        for stem, feedforward in (("layers", fusion.face_feedforward), ("text_layers", fusion.text_feedforward)):
            layer = f"fuser.encoder.{stem}.{i}."
            yield f"{layer}self_attn.in_proj_weight", (3 * width, width)
            yield f"{layer}self_attn.in_proj_bias", (3 * width,)
            yield from _linear(f"{layer}self_attn.out_proj", width, width)
            yield from _linear(f"{layer}linear1", feedforward, width)
            yield from _linear(f"{layer}linear2", width, feedforward)
            yield from _norm(f"{layer}norm1", width)
            yield from _norm(f"{layer}norm2", width)
        cross = f"fuser.encoder.fusion_layers.{i}."
        yield f"{cross}gamma_v", (width,)
        yield f"{cross}gamma_l", (width,)
        yield from _norm(f"{cross}layer_norm_v", width)
        yield from _norm(f"{cross}layer_norm_l", width)
        for name in ("v_proj", "l_proj", "values_v_proj", "values_l_proj"):
            yield from _linear(f"{cross}attn.{name}", fusion.cross_width, width)
        for name in ("out_v_proj", "out_l_proj"):
            yield from _linear(f"{cross}attn.{name}", width, fusion.cross_width)
    yield from _linear("fuser.enc_output", width, width)
    yield from _norm("fuser.enc_output_norm", width)


def _face_tower(config: FaceT5Config) -> Iterator[tuple[str, Shape]]:
    with without_values():
        tower = FaceTower(config.face)
    yield from ((f"face_encoder.{name}", tuple(tensor.shape)) for name, tensor in tower.state_dict().items())
