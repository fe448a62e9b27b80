"""Judges and detectors of several ranks compute on as many GPUs."""

from __future__ import annotations

import pytest
import torch

from faceclip.face import insightface_backend as backend


def test_each_rank_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert backend.on_this_gpu(providers) == providers  # no GPU at all
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert backend.on_this_gpu(providers) == providers
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert backend.on_this_gpu(providers) == [("CUDAExecutionProvider", {"device_id": 3}), "CPUExecutionProvider"]
    assert backend.on_this_gpu(["CPUExecutionProvider"]) == ["CPUExecutionProvider"]
