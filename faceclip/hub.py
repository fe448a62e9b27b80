"""The one table of downloadable files: where each comes from, where ComfyUI looks for it, and under which licence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .tensor_file import CheckpointError

# The repository's README says CC BY-NC 4.0, its model card says MIT: the stricter one is what users are told.
FACECLIP_LICENCE = "CC BY-NC 4.0"
INSIGHTFACE_LICENCE = "non-commercial research only"


@dataclass(frozen=True)
class RemoteFile:
    """One file to download.

    name: what the file is called on disk, and in the widgets. folder: below ComfyUI's `models/`.
    size: bytes; sha256: of the whole file, lower-case hex. None where no authoritative figure was at hand: none is guessed.
    """

    name: str
    url: str
    folder: str
    licence: str
    contents: str
    size: int | None = None
    sha256: str | None = None

    @property
    def page(self) -> str:
        """The web page a person opens: the file's own on Hugging Face, else where the releases are listed."""
        if "/resolve/" in self.url:
            return self.url.replace("/resolve/", "/blob/", 1)
        return self.url.split("/download/")[0]


def _on_hugging_face(repo: str, path: str) -> str:
    return f"https://huggingface.co/{repo}/resolve/main/{path}"


def _pack(name: str) -> RemoteFile:
    return RemoteFile(
        name=f"{name}.zip",
        url=f"https://github.com/deepinsight/insightface/releases/download/v0.7/{name}.zip",
        folder=f"insightface/models/{name}",
        licence=INSIGHTFACE_LICENCE,
        contents=f"InsightFace's detector and recognition models, pack {name}; its .onnx files go into the folder",
    )


FILES: tuple[RemoteFile, ...] = (
    # Size and checksum of the first two are unknown here: the release publishes none outside the files' own pages.
    RemoteFile(
        name="face_clip_encoder.pt",
        url=_on_hugging_face("ByteDance/FaceCLIP", "model/face_clip_encoder.pt"),
        folder="faceclip",
        licence=FACECLIP_LICENCE,
        contents="the FaceCLIP encoder: both branches, 1,573,352,072 values",
    ),
    RemoteFile(
        name="unet.pt",
        url=_on_hugging_face("ByteDance/FaceCLIP", "model/unet.pt"),
        folder="faceclip",
        licence=FACECLIP_LICENCE,
        contents="the SDXL UNet fine-tuned with it, in diffusers format",
    ),
    RemoteFile(
        name="sdxl_vae.safetensors",
        url=_on_hugging_face("stabilityai/sdxl-vae", "sdxl_vae.safetensors"),
        folder="vae",
        licence="MIT",
        contents="SDXL's autoencoder, fp32",
        size=334_641_164,
        sha256="63aeecb90ff7bc1c115395962d3e803571385b61938377bc7089b36e81e92e2e",
    ),
    _pack("buffalo_l"),
    _pack("antelopev2"),
)


def find(name: str) -> RemoteFile | None:
    """The file of that name, or None for a file that is not in the table (a user's own, say)."""
    return next((file for file in FILES if file.name == name), None)


def get(name: str) -> RemoteFile:
    """The file of that name. Raises KeyError naming those there are."""
    file = find(name)
    if file is None:
        raise KeyError(f"No file called {name!r} is listed. There are: {', '.join(file.name for file in FILES)}.")
    return file


def missing_message(path: str | Path) -> str:
    """What to tell the artist when there is no file at `path`: for a known file its address, folder and licence."""
    path = Path(path)
    file = find(path.name)
    if file is None:
        return f"There is no file {path}. Check the name and the folder."
    size = f", {file.size / 1e6:,.0f} MB" if file.size else ""
    return (
        f"There is no file {path}. It holds {file.contents}{size}. Download {file.url} "
        f"into that folder (ComfyUI looks in models/{file.folder}). Licence: {file.licence}."
    )


def require_files(*paths: str | Path) -> None:
    """Raise CheckpointError, with `missing_message`, unless there is something at each path."""
    for path in paths:
        if not Path(path).exists():
            raise CheckpointError(missing_message(path))
