"""The nodes run as ComfyUI runs them: `execute` in inference mode, on
the CPU, with the mini files that come with the pack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

Run = Callable[..., tuple]


@pytest.fixture(scope="session")
def run(pack: dict[str, type]) -> Run:
    """`run(node_id, **inputs)` -> the node's outputs; widgets that are left out have their defaults."""

    def execute(node_id: str, **inputs: Any) -> tuple:
        node = pack[node_id]
        defaults = {i.id: i.default for i in node.define_schema().inputs if getattr(i, "default", None) is not None}
        with torch.inference_mode():
            return node.execute(**{**defaults, **inputs}).result

    return execute


@pytest.fixture(scope="session")
def core(comfy: object) -> Any:
    """ComfyUI's own module `nodes`, with the core nodes."""
    import importlib

    return importlib.import_module("nodes")


@pytest.fixture(scope="session")
def encoder(run: Run) -> Any:
    return run("FaceCLIPEncoderLoader", encoder_name="faceclip_mini_encoder.safetensors", dtype="fp32")[0]


@pytest.fixture(scope="session")
def crops(run: Run, astronaut: np.ndarray) -> torch.Tensor:
    """Three different aligned crops [3, 448, 448, 3]: the photo's face, mirrored, and darker."""
    detector = run("FaceCLIPFaceDetectorLoader", backend="dlib")[0]
    face = run("FaceCLIPDetectFaces", image=as_image(astronaut), detector=detector)[0]
    return torch.cat([face, face.flip(2), face * 0.5])


@pytest.fixture(scope="session")
def identity(run: Run, encoder: Any, crops: torch.Tensor) -> Any:
    return run("FaceCLIPEncodeIdentity", encoder=encoder, faces=crops)[0]


@pytest.fixture(scope="session")
def model(run: Run) -> Any:
    return run("FaceCLIPUNetLoader", unet_name="faceclip_mini_unet.safetensors")[0]


@pytest.fixture(scope="session")
def prompt(run: Run, encoder: Any) -> Callable[..., list]:
    """`prompt(text, identity)` -> conditioning at 128 x 128."""

    def encode(text: str, identity: Any = None, **widgets: Any) -> list:
        sized = {"encoder": encoder, "width": 128, "height": 128, **widgets}
        return run("FaceCLIPTextEncode", prompt=text, identity=identity, **sized)[0]

    return encode


@pytest.fixture(scope="session")
def sample(core: Any) -> Callable[..., torch.Tensor]:
    """Two steps of the core's KSampler with CFG on a latent of 128 x 128 -> latents [B, 4, 16, 16]."""

    def sampled(model: Any, positive: list, negative: list, batch: int = 1) -> torch.Tensor:
        latent = {"samples": torch.zeros(batch, 4, 16, 16)}
        with torch.inference_mode():
            result = core.KSampler().sample(model, 7, 2, 5.0, "euler", "normal", positive, negative, latent)
        return result[0]["samples"]

    return sampled


@pytest.fixture
def model_folder(comfy: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """`model_folder("loras")` -> a temporary folder that ComfyUI looks into for such files during this test."""
    import folder_paths

    def registered(name: str) -> Path:
        paths, extensions = folder_paths.folder_names_and_paths[name]
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, ([*paths, str(folder)], extensions))
        return folder

    yield registered
    folder_paths.filename_list_cache.clear()  # it would list the temporary files on


def as_image(picture: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, 3] -> ComfyUI's IMAGE [1, H, W, 3]."""
    return torch.from_numpy(picture).float()[None] / 255


class Bar:
    """ComfyUI's hook of the progress bar; at the message `cancel_at`, the user presses Cancel."""

    def __init__(self, cancel_at: int = 0):
        self.shown: list[tuple[int, int]] = []
        self.cancel_at = cancel_at

    def __call__(self, value: int, total: int, preview: object = None, node_id: object = None) -> None:
        import comfy.model_management as management

        self.shown.append((value, total))
        if len(self.shown) == self.cancel_at:
            management.interrupt_current_processing(True)


@pytest.fixture
def bar(pack_module: Any, comfy: Any, monkeypatch: pytest.MonkeyPatch) -> Bar:
    """What the progress bar is told, each time that there is something to tell."""
    import sys

    import comfy.utils

    monkeypatch.setattr(sys.modules[f"{pack_module.__name__}.nodes.watch"], "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", shown := Bar())
    return shown
