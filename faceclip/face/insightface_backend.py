"""Faces with InsightFace: the better detector, whose model packs are for non-commercial use."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ..file_names import is_portable
from .photo import resize_to
from .protocol import DetectorUnavailableError, Face, FaceError, Pause

logger = logging.getLogger(__name__)

Provider = Literal["auto", "cuda", "coreml", "cpu"]
Task = Literal["detection", "recognition"]

PACK_URL = "https://github.com/deepinsight/insightface/releases/download/v0.7/{pack}.zip"
INSTALL_COMMAND = "pip install insightface onnxruntime"
# Sides of the square, in pixels, into which the picture is fitted: the usual one, one for faces that fill the frame
# (which the network misses at 640), one for small faces, one for the closest portraits.
SIZES = (640, 320, 1280, 160)
# Everything this sure is reported; what the artist wants to see of it is for `detect_faces` to say.
LOWEST_CONFIDENCE = 0.1

_PROVIDERS = {"cuda": "CUDAExecutionProvider", "coreml": "CoreMLExecutionProvider", "cpu": "CPUExecutionProvider"}


class InsightFaceDetector:
    """The detector of an InsightFace pack (SCRFD), run through the `insightface` package.

    Raises:
        DetectorUnavailableError: the package, the pack or the provider is missing; says how to get it.
    """

    tried = f"looked at {', '.join(map(str, SIZES))} px"

    def __init__(self, pack: str = "buffalo_l", provider: Provider = "auto", roots: Sequence[Path] = ()) -> None:
        self._model = load_pack_model(pack, "detection", provider, roots)
        self._model.prepare(ctx_id=0, input_size=(SIZES[0], SIZES[0]), det_thresh=LOWEST_CONFIDENCE)
        self.name = f"InsightFace {pack} ({provider_in_use(self._model)})"
        logger.info("Face detector: %s", self.name)

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces found by the usual look at `image`, uint8 [H, W, 3] RGB."""
        return next(self.passes(image))

    def passes(self, image: np.ndarray, pause: Pause | None = None) -> Iterator[list[Face]]:
        """Yield the faces found at the usual size, then at others."""
        for size in SIZES:
            yield self._look(image, size)

    def _look(self, image: np.ndarray, size: int) -> list[Face]:
        # InsightFace resizes without averaging, so a large photo is shrunk here first.
        small, scale = resize_to(image, size) if max(image.shape[:2]) > size else (image, 1.0)
        boxes, landmarks = self._model.detect(np.ascontiguousarray(small[:, :, ::-1]), input_size=(size, size))
        faces = []
        for (x0, y0, x1, y1, confidence), points in zip(boxes, landmarks, strict=True):
            x0, y0, x1, y1 = ((np.array([x0, y0, x1, y1]) + 0.5) / scale - 0.5).tolist()
            faces.append(Face((x0, y0, x1, y1), ((points + 0.5) / scale - 0.5).astype(np.float32), "arcface", float(confidence)))
        return faces


def find_pack(pack: str, roots: Sequence[Path] = ()) -> Path:
    """Return the folder with the `.onnx` files of `pack`.

    Looks below each root, plain or in `models/`, then in `~/.insightface`. Some archives unpack to a folder
    within a folder of the same name (antelopev2): both are read.

    Raises:
        DetectorUnavailableError: names the folders searched and where the pack can be downloaded.
        FaceError: `pack` is no plain name but leads to another folder.
    """
    if not is_portable(pack):
        raise FaceError(f"{pack!r} is not the name of a pack. Packs are folders below models/insightface, such as buffalo_l.")
    tried, zipped = [], None
    for root in (*roots, Path.home() / ".insightface"):
        for folder in (root / pack, root / "models" / pack):
            tried.append(folder)
            for place in (folder, folder / pack):
                if any(place.glob("*.onnx")):
                    return place
            zipped = zipped or next(
                (path for path in (folder.with_name(f"{pack}.zip"), folder / f"{pack}.zip") if path.is_file()), None
            )
    # `models/insightface/models/PACK` is where the other packs for ComfyUI expect it: best to recommend the same.
    wanted = tried[1]
    if zipped:
        raise DetectorUnavailableError(
            f"InsightFace's pack '{pack}' is still packed: unpack the .onnx files of {zipped} into {wanted}. "
            "The detector yunet needs no pack."
        )
    raise DetectorUnavailableError(
        f"InsightFace's pack '{pack}' was not found. Download {PACK_URL.format(pack=pack)} and unpack its .onnx files "
        f"into {wanted}, or run `faceclip download {pack}`. Searched: {', '.join(map(str, tried))}. The packs are for "
        "non-commercial use; the detector yunet comes with FaceCLIP."
    )


def load_pack_model(pack: str, task: Task, provider: Provider, roots: Sequence[Path]) -> Any:
    """Return InsightFace's model object for `task` of `pack`.

    Raises:
        DetectorUnavailableError: the package, the pack, its model for that task or the provider is missing.
    """
    if find_spec("insightface") is None or find_spec("onnxruntime") is None:
        raise DetectorUnavailableError(
            f"InsightFace is not installed. Run `{INSTALL_COMMAND}` in ComfyUI's Python (with an NVIDIA card "
            "`onnxruntime-gpu` instead of `onnxruntime`), then restart."
        )
    folder = find_pack(pack, roots)
    get_model = _start()
    providers = choose_providers(provider)
    path = _file_for(task, folder)
    try:
        model = get_model(str(path), providers=on_this_gpu(providers))
    except Exception as error:  # onnxruntime's errors have no public base class
        model = _on_the_cpu(get_model, path, provider, providers, error)
    if provider != "auto" and provider_in_use(model) != provider:
        logger.warning("onnxruntime could not start %s and runs %s on %s", provider, path.name, provider_in_use(model))
    return model


def _start() -> Any:
    """Return InsightFace's `get_model`, with everything imported that it needs.

    Raises:
        DetectorUnavailableError: one of the packages is there and does not start; says which.
    """
    name = "onnxruntime"
    try:
        import onnxruntime  # noqa: F401

        name = "onnx"
        import onnx  # noqa: F401

        name = "insightface"
        from insightface.model_zoo import get_model
    # A DLL that does not load, another numpy's ABI, another protobuf: what an import raises has no common class.
    except Exception as error:
        text = " ".join(str(error).split())
        dll = " On Windows a DLL that does not load wants Microsoft's Visual C++ Redistributable." if "DLL" in text else ""
        raise DetectorUnavailableError(
            f"InsightFace is installed but {name} does not start ({type(error).__name__}: {text}). Run `{INSTALL_COMMAND} "
            f"onnx --upgrade --force-reinstall --no-deps` in ComfyUI's Python, then restart.{dll} The detector yunet, "
            "which comes with FaceCLIP, needs neither."
        ) from error
    return get_model


def _on_the_cpu(get_model: Any, path: Path, provider: Provider, providers: list[str], error: Exception) -> Any:
    """Load a model that did not load on `providers` on the CPU alone: then
    the file is sound, and the GPU's libraries are not.

    Raises:
        DetectorUnavailableError: it does not load there either, or the user insists on the GPU; says what to do.
    """
    cpu = _PROVIDERS["cpu"]
    try:
        if providers == [cpu]:
            raise error
        model = get_model(str(path), providers=[cpu])
    except Exception as again:
        raise DetectorUnavailableError(f"{path} could not be loaded ({again}). Download the pack again.") from again
    if provider != "auto":
        raise DetectorUnavailableError(
            f"onnxruntime cannot start {provider} here ({error}); the pack is sound. Install the version of onnxruntime-gpu "
            "that fits your CUDA and cuDNN, or choose the provider 'auto' or 'cpu'."
        ) from error
    logger.warning("onnxruntime could not start %s (%s): %s runs on the CPU", providers[0], error, path.name)
    return model


def choose_providers(provider: Provider) -> list[str]:
    """Return onnxruntime's names for `provider`, the CPU last as the one that takes what another cannot.

    Raises:
        DetectorUnavailableError: the installed onnxruntime cannot run there; names the package that can.
    """
    if provider not in get_args(Provider):
        raise FaceError(f"There is no provider '{provider}'. Choose one of: {', '.join(get_args(Provider))}.")
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if provider == "auto":
        return [name for name in _PROVIDERS.values() if name in available]
    if _PROVIDERS[provider] not in available:
        remedy = {
            "cuda": "run `pip uninstall -y onnxruntime` and `pip install onnxruntime-gpu`",
            "coreml": "CoreML exists on a Mac only",
            "cpu": "install onnxruntime again",
        }[provider]
        raise DetectorUnavailableError(
            f"onnxruntime cannot use {provider} here (it offers {', '.join(available)}): {remedy}, or choose 'auto'."
        )
    return list(dict.fromkeys([_PROVIDERS[provider], "CPUExecutionProvider"]))


def on_this_gpu(providers: list[str]) -> list[Any]:
    """The providers, CUDA's on the GPU that torch computes on here.

    Of several ranks each has its own; onnxruntime alone would take the first for all.
    """
    import torch

    if providers[0] != _PROVIDERS["cuda"] or not torch.cuda.is_available() or not torch.cuda.current_device():
        return list(providers)
    return [(providers[0], {"device_id": torch.cuda.current_device()}), *providers[1:]]


def provider_in_use(model: Any) -> str:
    """Say where the model really runs: onnxruntime falls back to the CPU without raising."""
    names = {name: short for short, name in _PROVIDERS.items()}
    first: str = model.session.get_providers()[0]
    return names.get(first) or first


def _file_for(task: Task, folder: Path) -> Path:
    """Return the pack's file for `task`, told by its graph, since every pack names its files differently."""
    for path in sorted(folder.glob("*.onnx")):
        input_sides, outputs = _signature(path)
        # A detector answers scores, boxes and landmarks at three scales; the embedding network reads ArcFace's 112 px.
        if task == "detection" and outputs >= 9:
            return path
        if task == "recognition" and outputs == 1 and input_sides == [112, 112]:
            return path
    raise DetectorUnavailableError(f"The pack in {folder} has no model for face {task}: it is incomplete. Download it again.")


def _signature(path: Path) -> tuple[list[int], int]:
    """Return the [height, width] of a model's input (0 where free) and how many outputs it has."""
    import onnx

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
        return [side.dim_value for side in graph.input[0].type.tensor_type.shape.dim[2:]], len(graph.output)
    except Exception as error:  # protobuf's DecodeError, whose home moves between versions; IndexError: an empty file
        raise DetectorUnavailableError(f"{path} is empty, cut short or no ONNX model. Download the pack again.") from error
