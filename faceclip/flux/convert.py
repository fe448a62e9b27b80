"""`faceclip convert` for FLUX: the released files made smaller, tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import torch

from ..encoder_file import Job, Progress, write_converted
from ..recognize import FLUX, recognize
from ..tensor_file import CheckpointError, open_tensor_file
from .config import METADATA_KEY
from .file import open_facet5_file
from .names import Part, in_core, part_of
from .transformer import in_core_form, is_diffusers


def convert_facet5(
    source: str | Path,
    target: str | Path,
    dtype: torch.dtype,
    progress: Progress | None = None,
    *,
    t5xxl: str | Path | None = None,
    clip_l: str | Path | None = None,
    class_head: bool = False,
) -> None:
    """Write FaceT5's own part of `face_t5_encoder.pt`, or of what was made
    of it, without the weights that have no effect.

    t5xxl, clip_l: where to write T5 and CLIP-L, in the core's names, for
        people who have none; None leaves them out.
    class_head: keep what gives class tokens, so that identities made with
        the file serve FaceCLIP-SDXL, too (0.17 GB in bf16).

    Each target appears whole and verified, or not at all. `progress(done, total)` counts tensors read; each is
    read twice. Raises CheckpointError, also for T5 or CLIP-L of a file that has neither, and for values that
    `dtype` cannot hold.
    """
    file = open_facet5_file(source, class_head)
    if class_head and not file.class_head:
        raise CheckpointError(f"{source} has no class head: convert face_t5_encoder.pt itself.")
    requested: dict[Part, str | Path | None] = {"t5xxl": t5xxl, "clip_l": clip_l}
    wanted = {part: path for part, path in requested.items() if path}
    if wanted and not file.released:
        raise CheckpointError(f"{source} holds FaceT5's own part alone: {' and '.join(wanted)} can be had of face_t5_encoder.pt.")
    metadata = {"format": "facet5_encoder", METADATA_KEY: file.config.to_json()}
    jobs: list[Job] = [(target, file.entries, metadata)]
    for part, path in wanted.items():
        jobs.append((path, {in_core(n): e for n, e in file.released.items() if part_of(n) == part}, {"format": "pt"}))
    write_converted(jobs, dtype, progress)


def convert_transformer(source: str | Path, target: str | Path, dtype: torch.dtype, progress: Progress | None = None) -> None:
    """Write a FLUX transformer (`dit.pt`) as safetensors in the core's form:
    Load Diffusion Model reads it without renaming.

    Memory holds one of its largest tensors and what it is joined of. The target appears whole and verified, or
    not at all. Raises CheckpointError, also for values that `dtype` cannot hold.
    """
    file = open_tensor_file(source)
    kind = recognize(file.entries)
    if kind.name != FLUX:
        raise CheckpointError(f"{source} is not a FLUX transformer: it looks like this: {kind}")
    entries = in_core_form(file.entries, source) if is_diffusers(file.entries) else dict(file.entries)
    write_converted([(target, entries, {"format": "pt"})], dtype, progress)
