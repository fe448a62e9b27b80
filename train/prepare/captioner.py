"""Captions for photographs that have none, by any image-to-text model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

MAX_TOKENS = 60


class Captioner:
    """Photographs -> captions, greedily, so that the same photographs always get the same ones."""

    def __init__(self, model: Any, processor: Any, prompt: str):
        self._model, self._processor, self._prompt = model, processor, prompt
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is not None:
            tokenizer.padding_side = "left"  # what is generated follows the prompt, however long the others' are

    @torch.no_grad()
    def __call__(self, photos: Sequence[np.ndarray]) -> list[str]:
        """`photos`, each uint8 [H, W, 3] RGB, seen together -> a line of text each."""
        given: dict[str, Any] = {"images": list(photos), "return_tensors": "pt"}
        if self._prompt:
            given |= {"text": [self._prompt] * len(photos), "padding": True}
        inputs = self._processor(**given).to(self._model.device, self._model.dtype)  # of what has a fraction, alone
        tokens = self._model.generate(**inputs, do_sample=False, max_new_tokens=MAX_TOKENS)
        texts = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.removeprefix(self._prompt).split()) for text in texts]


def load_captioner(model: str, prompt: str = "", device: str = "cpu") -> Captioner:
    """Load an image-to-text model by name or folder, in bf16 on a GPU, in fp32 on a CPU.

    Raises:
        OSError: transformers finds no such model.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    network: Any = AutoModelForImageTextToText.from_pretrained(model, dtype=dtype)
    return Captioner(network.eval().to(device), AutoProcessor.from_pretrained(model), prompt)
