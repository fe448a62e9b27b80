"""`faceclip convert`: a released file, whichever it is, as a smaller and safer one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .. import hub
from ..recognize import FACET5, FLUX, recognize
from ..tensor_file import CheckpointError, TensorFile, open_tensor_file
from .options import CONVERT_DTYPES

if TYPE_CHECKING:
    from tqdm import tqdm


def convert_file(options: argparse.Namespace) -> None:
    """Convert `options.source` as fits its kind, and tell what came of it. Raises CheckpointError."""
    hub.require_files(options.source)
    targets = [path for path in (options.target, options.t5xxl, options.clip_l) if path]
    if len({path.absolute() for path in targets}) < len(targets):
        raise CheckpointError("Two of the files to write have the same name. Give each its own.")
    for target in targets:
        if target.exists() and target.samefile(options.source):
            raise CheckpointError(f"{target} is the file to convert itself. Choose another name for the result.")
    kind = recognize(open_tensor_file(options.source).entries).name
    if kind != FACET5 and (options.t5xxl or options.clip_l or options.class_head):
        raise CheckpointError(f"--t5xxl, --clip-l and --class-head are for face_t5_encoder.pt; {options.source} is a {kind}.")
    if kind != FLUX and options.dtype == "fp8":
        raise CheckpointError("fp8 is for the FLUX transformer (dit.pt) alone: encoders lose too much by it. Choose bf16.")
    bar = _Bar()
    dtype = CONVERT_DTYPES[options.dtype]
    if kind == FLUX:
        from ..flux.convert import convert_transformer

        convert_transformer(options.source, options.target, dtype, bar)
    elif kind == FACET5:
        from ..flux.convert import convert_facet5

        convert_facet5(
            options.source,
            options.target,
            dtype,
            bar,
            t5xxl=options.t5xxl,
            clip_l=options.clip_l,
            class_head=options.class_head,
        )
    else:
        from ..convert import convert

        convert(options.source, options.target, dtype, bar)
    bar.close()
    before = hub.size_text(options.source.stat().st_size)
    for target in targets:
        written = open_tensor_file(target)
        after = hub.size_text(target.stat().st_size)
        more = _contents(kind, target, written, options)
        print(f"{target}: {after} in {options.dtype}, from {before}. {len(written.entries)} tensors{more}.")


def _contents(kind: str, target: Path, written: TensorFile, options: argparse.Namespace) -> str:
    if kind == FLUX:
        return ", in the core's form, for Load Diffusion Model"
    if kind == FACET5:
        titles = {options.t5xxl: "T5 in the core's names", options.clip_l: "CLIP-L in the core's names"}
        head = "with" if options.class_head else "without"
        return f", {titles.get(target, f'FaceT5 itself, {head} its class head')}"
    towers = {name.split(".")[0] for name in written.entries if ".face_encoder." in name}
    return f", {'one face tower, shared by the branches' if len(towers) == 1 else 'a face tower per branch: they differ'}"


class _Bar:
    """A progress bar, made when there is something to show: an error stays alone on its line."""

    def __init__(self):
        self._bar: tqdm | None = None

    def __call__(self, done: int, total: int) -> None:
        from tqdm import tqdm

        self._bar = self._bar or tqdm(desc="write and verify", total=total, unit=" tensors")
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar:
            self._bar.close()
