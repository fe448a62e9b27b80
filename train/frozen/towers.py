"""Where a run starts: open_clip's towers, InsightFace's ArcFace ViT, or a FaceCLIP encoder file.

And what then stays frozen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from faceclip import FaceCLIPConfig, FaceCLIPEncoder
from faceclip.checkpoint import read_state_dict
from faceclip.model.branch import FaceCLIPBranch

from .config import TowerConfig


def weights_digest(weights: nn.Module | Mapping[str, Tensor]) -> str:
    """A short hex digest of a module's weights, or of a state dict, by 64 values of each: the same in every
    precision that holds bf16's, since a cache may be made in another one than the run that reads it."""
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().flatten()[:: max(1, tensor.numel() // 64)].to(torch.bfloat16).float().cpu()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + values.numpy().tobytes())
    return digest.hexdigest()[:16]


_ARCFACE_RUN = "state_dict_backbone."  # in what arcface_torch saves to go on from


class InitError(ValueError):
    """A file that a run cannot start from: what is wrong, what was found, what to do."""


def new_encoder(config: TowerConfig, dropout: float = 0.0) -> FaceCLIPEncoder:
    """The encoder of one branch that a run starts from, in fp32 on the CPU; all ranks get the same.

    Raises InitError.

    `dropout` is the fusion module's, whatever the preset or file says.
    """
    whole = FaceCLIPConfig.preset(config.size).only(config.branch)
    branch = whole.branches[config.branch]
    shape = FaceCLIPConfig({config.branch: replace(branch, fusion=replace(branch.fusion, dropout=dropout))})
    if config.init_encoder:
        return _from_encoder(config.init_encoder, shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = FaceCLIPEncoder(shape)
    if config.clip_file:
        load_text_tower(encoder.branches[config.branch], Path(config.clip_file))
    if config.face_file:
        load_face_tower(encoder.branches[config.branch], config.face_file)
    return encoder


def load_text_tower(branch: FaceCLIPBranch, path: Path) -> None:
    """Copy the text tower of a CLIP checkpoint into a branch (`read_clip` says in which formats).

    Raises InitError for another model's. Which activation weights were trained with no file tells: OpenAI's and
    MetaCLIP's ViT-L-14 use quick GELU, as FaceCLIP's `l` does, LAION's plain GELU.
    """
    tensors = {name.removeprefix("text."): tensor for name, tensor in read_clip(path).items()}
    own = {name: tensor for name, tensor in branch.state_dict().items() if _is_text_tower(name)}
    found = {name: tensor for name, tensor in tensors.items() if _is_text_tower(name)} or tensors
    _copy(own, found, path, "the CLIP that FaceCLIP's text tower is", "ViT-L-14-quickgelu for `l`, ViT-bigG-14 for `g`")


def read_clip(path: Path) -> dict[str, Tensor]:
    """The tensors of a CLIP checkpoint under open_clip's names.

    Takes open_clip's `.safetensors`, `.bin` and training checkpoints, MetaCLIP's `.pt` (with `state_dict` around
    and `module.` before, or without), and OpenAI's TorchScript archives. Raises InitError for Hugging Face's
    naming.
    """
    tensors = read_state_dict(path)
    if any(name.startswith(("text_model.", "vision_model.")) for name in tensors):
        raise InitError(
            f"{path} is a CLIP in Hugging Face's naming (`text_model.encoder...`); --init-clip reads open_clip's. Use the file "
            "of the same model for open_clip: OpenAI's ViT-L-14.pt, MetaCLIP's .pt, or the open_clip_model.safetensors or "
            "open_clip_pytorch_model.bin that lies beside it on its web page."
        )
    return {_without(("module.", "_orig_mod."), name): tensor for name, tensor in tensors.items()}


def load_face_tower(branch: FaceCLIPBranch, path: Path) -> None:
    """Copy an InsightFace ArcFace ViT checkpoint into a branch: `model.pt` or `backbone.pth`, or what a run of
    arcface_torch saves to go on from. Raises InitError for another model's.

    Names and shapes, for L: `patch_embed.proj` [768, 3, 9, 9], `pos_embed` [1, 144, 768], `mask_token` [1, 1,
    768] (used in ArcFace's own training only, so it may be absent), 24 `blocks` of `norm1`, `attn.qkv` (no bias),
    `attn.proj`, `norm2`, `mlp.fc1` [3072, 768], `mlp.fc2`; `norm`; the head `feature`: 0 [768, 110592], 1
    BatchNorm, 2 [512, 768], 3 BatchNorm.
    """
    tensors = read_state_dict(path)
    if any(name.startswith(_ARCFACE_RUN) for name in tensors):  # beside it lie the optimiser and the classifier of the run
        tensors = {name.removeprefix(_ARCFACE_RUN): t for name, t in tensors.items() if name.startswith(_ARCFACE_RUN)}
    tensors = {_without(("module.", "backbone."), name): tensor for name, tensor in tensors.items()}
    found = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    optional = {"mask_token"} - found.keys()
    own = {name: tensor for name, tensor in branch.face_encoder.state_dict().items() if name not in optional}
    own = {name: tensor for name, tensor in own.items() if not name.endswith("num_batches_tracked")}
    _copy(own, found, path, "the ArcFace ViT that FaceCLIP's face tower is", "InsightFace's vit_l_dp005_mask_005")


def join(first: FaceCLIPEncoder, second: FaceCLIPEncoder) -> FaceCLIPEncoder:
    """One encoder of two that were trained apart: SDXL takes CLIP-L's branch and bigG's.

    The face tower is kept once.

    Raises InitError if both have the same branch, or face towers that differ.
    """
    branches = {**first.branches, **second.branches}
    if len(branches) < len(first.branches) + len(second.branches):
        raise InitError(f"Both encoders have a branch {set(first.branches) & set(second.branches)}; one `l` and one `g` join.")
    if not torch.equal(first.signature(), second.signature()):
        raise InitError("The two encoders were trained on different face towers, so one identity cannot serve both.")
    names = [name for name in ("l", "g") if name in branches]
    configs = {**first.config.branches, **second.config.branches}
    joined = FaceCLIPEncoder(FaceCLIPConfig({name: configs[name] for name in names}))
    joined.load_state_dict({**first.state_dict(), **second.state_dict()})
    return joined.eval().requires_grad_(False)


def _from_encoder(path: Path, shape: FaceCLIPConfig) -> FaceCLIPEncoder:
    name = next(iter(shape.branches))
    loaded = FaceCLIPEncoder.from_file(path, torch.device("cpu"), torch.float32)
    if name not in loaded.branches:
        raise InitError(f"{path} has no branch {name!r}; it has {', '.join(loaded.branches)}. Choose --branch accordingly.")
    encoder = FaceCLIPEncoder(shape)
    tensors = {n: t for n, t in loaded.state_dict().items() if n.startswith(f"face_clip_{name}.")}
    _copy(encoder.state_dict(), tensors, path, f"a FaceCLIP encoder of this size ({name})", "the file of the same --size")
    return encoder


def _is_text_tower(name: str) -> bool:
    return name.startswith(("token_embedding.", "transformer.", "ln_final.")) or name in (
        "positional_embedding",
        "text_projection",
    )


def _without(prefixes: tuple[str, ...], name: str) -> str:
    while name.startswith(prefixes):
        name = name.split(".", 1)[1]
    return name


def _copy(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path, what: str, advice: str) -> None:
    """Fill `own` from `tensors`, which must have the same names and shapes and no others. Raises InitError."""
    wrong = [name for name in own if name not in tensors or tensors[name].shape != own[name].shape]
    if wrong:
        found = list(tensors[wrong[0]].shape) if wrong[0] in tensors else "nothing of that name"
        raise InitError(
            f"{path} is not {what}: {wrong[0]} should have shape {list(own[wrong[0]].shape)}, found {found}"
            f"{'' if wrong[0] in tensors else _looks_like(tensors)}. Use {advice}."
        )
    unknown = sorted(tensors.keys() - own.keys())
    if unknown:
        raise InitError(
            f"{path} is not {what}: it has {len(unknown)} tensors that this one has not, among them {', '.join(unknown[:3])}. "
            f"Use {advice}."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _looks_like(tensors: Mapping[str, Tensor]) -> str:
    return f" (its tensors are {', '.join(sorted(tensors)[:3])}, ...)" if tensors else ""
