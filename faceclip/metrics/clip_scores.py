"""CLIP-T and CLIP-I: how well a picture fits its prompt, and how much it resembles another picture, to any CLIP."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .errors import MetricError, MetricUnavailableError, require

BATCH = 32


class ClipScorer:
    """An open_clip model as a judge of pictures and prompts.

    Scores of two models, told apart by `name`, do not compare.
    """

    def __init__(
        self, model: Any, preprocess: Callable[[Image.Image], Tensor], tokenizer: Callable[[list[str]], Tensor], name: str
    ):
        self.name = name
        self._model = model.train(False).requires_grad_(False)
        self._preprocess = preprocess
        self._tokenizer = tokenizer

    @torch.no_grad()
    def images(self, images: Iterable[np.ndarray], progress: Callable[[int], None] | None = None) -> Tensor:
        """Images uint8 [H, W, 3] RGB of any size -> unit vectors float32 [N, D], on the CPU.

        `progress` is called with the number of images done.
        """
        device = next(self._model.parameters()).device
        done, waiting = [], []

        def flush() -> None:
            done.append(F.normalize(self._model.encode_image(torch.stack(waiting).to(device)).float(), dim=-1).cpu())
            waiting.clear()
            if progress is not None:
                progress(sum(map(len, done)))

        for image in images:
            waiting.append(self._preprocess(Image.fromarray(image)))
            if len(waiting) == BATCH:
                flush()
        if waiting:
            flush()
        if not done:
            raise MetricError("There is no image for CLIP to look at.")
        return torch.cat(done)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors float32 [N, D], on the CPU. What is beyond CLIP's 77 tokens is cut off."""
        if not texts:
            raise MetricError("There is no text for CLIP to read.")
        device = next(self._model.parameters()).device
        parts = [list(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
        rows = [self._model.encode_text(self._tokenizer(part).to(device)).float() for part in parts]
        return F.normalize(torch.cat(rows), dim=-1).cpu()


def load_clip(model: str, pretrained: str | Path, device: torch.device | str = "cpu") -> ClipScorer:
    """Load a CLIP of open_clip as a judge.

    Args:
        model: a name of `open_clip.list_models()`, or the path of a model configuration in open_clip's JSON format.
        pretrained: a tag of `open_clip.list_pretrained()` (downloaded once), or the path of a checkpoint.

    Raises:
        MetricError: an unknown model or tag, or a checkpoint that does not fit.
        MetricUnavailableError: open_clip is not installed, or the weights cannot be downloaded.
    """
    require("open_clip", "open_clip_torch", "CLIP scores")
    import open_clip

    if model.endswith(".json"):
        if not Path(model).is_file():
            raise MetricError(f"There is no CLIP configuration at {model}.")
        open_clip.add_model_config(Path(model))
        model = Path(model).stem
    if model not in open_clip.list_models():
        raise MetricError(f"open_clip has no model {model!r}. Choose one of its list, such as ViT-L-14 or ViT-B-32.")
    pretrained = str(pretrained)
    tags = open_clip.list_pretrained_tags_by_model(model)
    is_file = Path(pretrained).is_file()
    if not is_file and pretrained not in tags:
        raise MetricError(
            f"{pretrained!r} is neither a file nor weights that open_clip knows for {model} ({', '.join(tags) or 'none'}). "
            "Scores of untrained weights mean nothing, so there is no default."
        )
    try:
        network, _, preprocess = open_clip.create_model_and_transforms(model, pretrained=pretrained, device=device)
    except (OSError, RuntimeError) as error:
        if is_file:
            raise MetricError(f"{pretrained} does not fit the CLIP model {model}: {error}") from error
        raise MetricUnavailableError(
            f"The weights {pretrained} of {model} could not be downloaded ({error}). Get the checkpoint on a machine with "
            "network and name its file instead of the tag."
        ) from error
    shown = Path(pretrained).name if is_file else pretrained
    return ClipScorer(network, preprocess, open_clip.get_tokenizer(model), f"{model} ({shown})")  # type: ignore[arg-type]


def paired_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of row i with row i, [N] float64: CLIP-T of images [N, D] and
    their prompts, CLIP-I of images and references.

    Raises:
        MetricError: shapes that differ.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise MetricError(f"Cosines of pairs need two equal shapes [N, D]; found {list(first.shape)} and {list(second.shape)}.")
    return F.cosine_similarity(first.double(), second.double(), dim=-1)
