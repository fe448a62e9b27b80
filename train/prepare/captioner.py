"""Captions for photographs that have none, by any image-to-text model of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

MAX_TOKENS = 60


class Captioner:
    """Photograph -> caption, greedily, so that the same photograph always gets the same one."""

    def __init__(self, model: Any, processor: Any, prompt: str):
        self._model, self._processor, self._prompt = model, processor, prompt

    @torch.no_grad()
    def __call__(self, photo: np.ndarray) -> str:
        """`photo` uint8 [H, W, 3] RGB -> one line of text."""
        given = {"images": photo, "return_tensors": "pt"}
        inputs = self._processor(**given, text=self._prompt) if self._prompt else self._processor(**given)
        tokens = self._model.generate(**inputs.to(self._model.device), do_sample=False, max_new_tokens=MAX_TOKENS)
        text = self._processor.batch_decode(tokens, skip_special_tokens=True)[0]
        return " ".join(text.removeprefix(self._prompt).split())


def load_captioner(model: str, prompt: str = "") -> Captioner:
    """Load an image-to-text model by name or folder.

    Raises:
        OSError: transformers finds no such model.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network: Any = AutoModelForImageTextToText.from_pretrained(model)
    return Captioner(network.eval().to(device), AutoProcessor.from_pretrained(model), prompt)
