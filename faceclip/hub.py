"""The one table of downloadable files: where each comes from, where
ComfyUI looks for it, and under which licence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .tensor_file import CheckpointError

FACECLIP_LICENCE = "CC BY-NC 4.0"
FLUX_LICENCE = "FLUX.1 [dev] Non-Commercial License"
SDXL_LICENCE = "CreativeML Open RAIL++-M"
INSIGHTFACE_LICENCE = "non-commercial research only"
# Where each licence can be read before it is accepted.
LICENCE_PAGES = {
    FACECLIP_LICENCE: "https://creativecommons.org/licenses/by-nc/4.0/legalcode",
    INSIGHTFACE_LICENCE: "https://github.com/deepinsight/insightface#license",
    FLUX_LICENCE: "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
    "MIT": "https://opensource.org/license/mit",
    SDXL_LICENCE: "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
    "Apache 2.0": "https://www.apache.org/licenses/LICENSE-2.0",
}

TRAINING_FOLDER = "faceclip_training"
"""Below ComfyUI's models, yet in none of the folders that its loaders list."""

HUGGING_FACE = "https://huggingface.co"


def size_text(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return "size unknown"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


@dataclass(frozen=True)
class RemoteFile:
    """One file to download.

    name: what the file is called on disk, and in the widgets. folder: below ComfyUI's `models/`.
    size: bytes; sha256: of the whole file, lower-case hex. None where no
        authoritative figure was at hand: none is guessed.
    about: the rounded size that the file's page shows, where the exact one was not at hand.
    built_on: the licence of what it was made from, where that holds, too.
    members: of an archive, the files that come out of it into the folder,
        with their sizes in bytes; empty for a plain file.
    """

    name: str
    url: str
    folder: str
    licence: str
    contents: str
    size: int | None = None
    sha256: str | None = None
    about: str = ""
    built_on: str = ""
    members: tuple[tuple[str, int], ...] = ()

    @property
    def licences(self) -> tuple[str, ...]:
        """All that are to be accepted."""
        return (self.licence, self.built_on) if self.built_on else (self.licence,)

    @property
    def licence_told(self) -> str:
        """The licence for people."""
        return f"{self.licence}, on top of the {self.built_on}" if self.built_on else self.licence

    @property
    def on_hub(self) -> tuple[str, str] | None:
        """Repository and path within it, for a file on Hugging Face; None for one that lies elsewhere."""
        if not self.url.startswith(f"{HUGGING_FACE}/"):
            return None
        repo, path = self.url.removeprefix(f"{HUGGING_FACE}/").split("/resolve/main/")
        return repo, path

    @property
    def targets(self) -> dict[str, int | None]:
        """What lies in the folder afterwards: names and sizes in bytes (None where unknown)."""
        return dict(self.members) if self.members else {self.name: self.size}

    @property
    def size_told(self) -> str:
        """The size for people."""
        return self.about if self.size is None and self.about else size_text(self.size)

    @property
    def page(self) -> str:
        """The web page a person opens: the file's own on Hugging Face, else where the releases are listed."""
        if "/resolve/" in self.url:
            return self.url.replace("/resolve/", "/blob/", 1)
        return self.url.split("/download/")[0]


def _on_hugging_face(repo: str, path: str) -> str:
    return f"https://huggingface.co/{repo}/resolve/main/{path}"


# In every pack: landmarks in 3D and 2D, age and sex, and SCRFD-10GF, the detector, under the pack's own name for it.
_PACK_MEMBERS = (("1k3d68.onnx", 143_607_619), ("2d106det.onnx", 5_030_888), ("genderage.onnx", 1_322_532))
_SCRFD_SIZE = 16_923_827


def _pack(name: str, size: int, sha256: str, *members: tuple[str, int]) -> RemoteFile:
    return RemoteFile(
        name=f"{name}.zip",
        url=f"https://github.com/deepinsight/insightface/releases/download/v0.7/{name}.zip",
        folder=f"insightface/models/{name}",
        licence=INSIGHTFACE_LICENCE,
        contents=f"InsightFace's detector and recognition models, pack {name}; its .onnx files go into the folder",
        size=size,
        sha256=sha256,
        members=(*_PACK_MEMBERS, *members),
    )


FILES: tuple[RemoteFile, ...] = (
    RemoteFile(
        name="face_clip_encoder.pt",
        url=_on_hugging_face("ByteDance/FaceCLIP", "model/face_clip_encoder.pt"),
        folder="faceclip",
        licence=FACECLIP_LICENCE,
        contents="the FaceCLIP encoder: both branches, 1,573,352,072 values in bf16",
        about="3.15 GB",
        sha256="0f821204adf88a8c6888b59cc90dd8a4787db41cb0fecf3f88950b56070b237d",
    ),
    RemoteFile(
        name="unet.pt",
        url=_on_hugging_face("ByteDance/FaceCLIP", "model/unet.pt"),
        folder="faceclip",
        licence=FACECLIP_LICENCE,
        contents="the SDXL UNet fine-tuned with it, in diffusers format",
        about="5.1 GB",
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
    RemoteFile(
        name="face_t5_encoder.pt",
        url=_on_hugging_face("ByteDance/FaceCLIP", "model/face_t5_encoder.pt"),
        folder="faceclip",
        licence=FACECLIP_LICENCE,
        built_on=FLUX_LICENCE,
        contents="FaceT5 for FLUX, with the T5 and the CLIP-L that it came with: 6,274,222,594 values in bf16",
        about="12.5 GB",
    ),
    RemoteFile(
        name="dit.pt",
        url=_on_hugging_face("ByteDance/FaceCLIP", "model/dit.pt"),
        folder="diffusion_models",
        licence=FACECLIP_LICENCE,
        built_on=FLUX_LICENCE,
        contents="the FLUX.1-dev transformer fine-tuned with FaceT5, in diffusers format, 11,901,408,320 values in bf16",
        about="23.8 GB",
        sha256="5c2c641e3672108ce51eed29065d066d150863e3ce65b59581c19171398cccb4",
    ),
    # What every FLUX user has; the checksums are those that many tools list.
    RemoteFile(
        name="t5xxl_fp16.safetensors",
        url=_on_hugging_face("comfyanonymous/flux_text_encoders", "t5xxl_fp16.safetensors"),
        folder="text_encoders",
        licence="Apache 2.0",
        contents="T5-XXL v1.1's encoder, fp16",
        size=9_787_841_024,
        sha256="6e480b09fae049a72d2a8c5fbccb8d3e92febeb233bbe9dfe7256958a9167635",
    ),
    RemoteFile(
        name="clip_l.safetensors",
        url=_on_hugging_face("comfyanonymous/flux_text_encoders", "clip_l.safetensors"),
        folder="text_encoders",
        licence="MIT",
        contents="CLIP-L's text encoder, fp16",
        size=246_144_152,
        sha256="660c6f5b1abae9dc498ac2d21e1347d2abdb0cf6c0c0c8576cd796491d9a6cdd",
    ),
    RemoteFile(
        name="ae.safetensors",
        url=_on_hugging_face("Comfy-Org/z_image_turbo", "split_files/vae/ae.safetensors"),
        folder="vae",
        licence="Apache 2.0",
        contents="FLUX's autoencoder, fp32, as published with FLUX.1-schnell",
        size=335_304_388,
        sha256="afc8e28272cd15db3919bacdb6918ce9c1ed22e96cb12c4d5ed0fba823529e38",
    ),
    # What training starts from; ArcFace's ViT-L is on OneDrive and Baidu alone (docs/training.md).
    RemoteFile(
        name="l14_fullcc2.5b.pt",
        url="https://dl.fbaipublicfiles.com/MMPT/metaclip/l14_fullcc2.5b.pt",
        folder=TRAINING_FOLDER,
        licence=FACECLIP_LICENCE,
        contents="MetaCLIP's ViT-L-14 of 2.5 billion pairs, with quick GELU: FaceCLIP-L's text tower and image teacher",
        about="1.7 GB",
    ),
    RemoteFile(
        name="open_clip_pytorch_model.bin",
        url=_on_hugging_face("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", "open_clip_pytorch_model.bin"),
        folder=TRAINING_FOLDER,
        licence="MIT",
        contents="LAION's ViT-bigG-14, with plain GELU: FaceCLIP-bigG's text tower and image teacher",
        about="10.2 GB",
    ),
    RemoteFile(
        name="G14_fullcc2.5b.pt",
        url="https://dl.fbaipublicfiles.com/MMPT/metaclip/G14_fullcc2.5b.pt",
        folder=TRAINING_FOLDER,
        licence=FACECLIP_LICENCE,
        contents="MetaCLIP's ViT-bigG-14 of 2.5 billion pairs, with quick GELU: an image teacher for FaceCLIP-bigG",
        about="10.2 GB",
    ),
    RemoteFile(
        name="diffusion_pytorch_model.fp16.safetensors",
        url=_on_hugging_face("stabilityai/stable-diffusion-xl-base-1.0", "unet/diffusion_pytorch_model.fp16.safetensors"),
        folder=TRAINING_FOLDER,
        licence=SDXL_LICENCE,
        contents="SDXL base's UNet in diffusers' naming, fp16: what finetuning starts from",
        about="5.14 GB",
    ),
    _pack(
        "buffalo_l",
        288_621_354,
        "80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
        ("det_10g.onnx", _SCRFD_SIZE),
        ("w600k_r50.onnx", 174_383_860),
    ),
    _pack(
        "antelopev2",
        360_662_982,
        "8e182f14fc6e80b3bfa375b33eb6cff7ee05d8ef7633e738d1c89021dcf0c5c5",
        ("scrfd_10g_bnkps.onnx", _SCRFD_SIZE),
        ("glintr100.onnx", 260_665_334),
    ),
)

# What the workflows need; the detector packs are the user's choice.
NEEDED = ("face_clip_encoder.pt", "unet.pt", "sdxl_vae.safetensors")
GROUPS = {
    "facet5": ("face_t5_encoder.pt", "dit.pt"),
    "flux": ("t5xxl_fp16.safetensors", "clip_l.safetensors", "ae.safetensors"),
    "training": (
        "l14_fullcc2.5b.pt",
        "open_clip_pytorch_model.bin",
        "diffusion_pytorch_model.fp16.safetensors",
        "sdxl_vae.safetensors",
    ),
}
"""Several files by one name: the release's for FLUX, FLUX's own that go
with them, and what training starts from."""


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
    return (
        f"There is no file {path}. It holds {file.contents} ({file.size_told}). Download {file.url} "
        f"into that folder (ComfyUI looks in models/{file.folder}), or run `faceclip download {file.name}`. "
        f"Licence: {file.licence_told}."
    )


def require_files(*paths: str | Path) -> None:
    """Raise CheckpointError, with `missing_message`, unless there is something at each path."""
    for path in paths:
        if not Path(path).exists():
            raise CheckpointError(missing_message(path))
