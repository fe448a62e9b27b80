"""Captions as token ids.

Reading threads make them, since a thousand take a third of a second; the step adds the prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from faceclip.model.text_tower import END_OF_TEXT
from faceclip.prompt import tokenize


def caption_ids(caption: str) -> Tensor:
    """[77] int64: a caption alone. It is plain text: its brackets are no weights."""
    return tokenize(caption.replace("(", r"\(").replace(")", r"\)"), False).input_ids[0]


def with_prefix(ids: Tensor, has_face: Tensor) -> Tensor:
    """Captions [b, 77] as FaceCLIP reads them: with the identity prefix in the rows where `has_face` [b] is true."""
    only_prefix = tokenize("", True).input_ids[0]
    length = int((only_prefix == END_OF_TEXT).int().argmax())  # of the start token and the prefix
    shifted = torch.cat([only_prefix[:length].expand(len(ids), -1), ids[:, 1 : 1 - length]], dim=1)
    # A caption that was pushed over the end is cut there.
    pushed_over = (ids == END_OF_TEXT).int().argmax(dim=1) + length - 1 >= ids.shape[1]
    shifted[pushed_over, -1] = END_OF_TEXT
    return torch.where(has_face[:, None], shifted, ids)


def token_ids(captions: Sequence[str], has_face: Sequence[bool]) -> Tensor:
    """[b, 77] int64: captions as FaceCLIP reads them, with the identity prefix where there is a face."""
    return with_prefix(torch.stack([caption_ids(caption) for caption in captions]), torch.tensor(has_face))
