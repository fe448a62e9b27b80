"""Example workflows that begin with a picture: another picture after it, another face in it, and its pose."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .format import Graph, Node, Place, Socket
from .parts import (
    BLUE,
    GREEN,
    OFFICIAL,
    PHOTO,
    PROMPTS,
    PURPLE,
    Column,
    download,
    explain,
    one_person,
    sample_from,
    write_prompt,
)

IMG2IMG_NOTE = """
## A picture after a picture

*The picture to start from* gives layout and colours, your photo gives the face. **denoise** in *KSampler* says how much is made
new: 0.5 stays close, 0.8 keeps the layout alone.
"""
FACE_SWAP_NOTE = """
## Another face in a picture

The face in *The picture to change* is found, its box grown and its border softened. Painted is only there, with the face of your
photo; outside the mask every pixel stays as it was.

- Not like the person? **denoise** up to 0.8. Light or angle wrong? Down to 0.5.
- Hair should change, too? Grow the mask.
- Say in the prompt what the face does and what light it is in.

Change pictures of people only where they agree to it.
"""

POSE_NET = download("OpenPoseXL2.safetensors", "thibaud/controlnet-openpose-sdxl-1.0", "controlnet")
POSE_NOTE = f"""
## A pose from a skeleton

A **ControlNet** of SDXL holds the pose, FaceCLIP the face: both go through the conditioning and do not meet.

- Download [{POSE_NET["name"]}]({POSE_NET["url"]}) (5 GB; its licence is on its page) into `models/controlnet`. Others for SDXL do
  as well, for depth or edges, too.
- *The pose* wants a picture of an **OpenPose skeleton**, not a photo. Packs with preprocessors, such as *comfyui_controlnet_aux*,
  draw one after a photo: put *DWPose Estimator* between the two.
- Face not like? Leave the face's dots out of the skeleton, or lower **strength** and **end_percent**: the pose is settled early.
"""


def img2img(graph: Graph) -> None:
    encoder, unet, vae, identity = one_person(graph, "1. The person")
    column = Column(graph, 1260)
    start = column.add("LoadImage", 370, "The picture to start from", image=PHOTO)
    fitted = column.add("ImageScale", 130, "At the picture's size", image=start["IMAGE"], **_SCALE)
    latent = column.add("VAEEncode", 60, pixels=fitted["IMAGE"], vae=vae["VAE"])
    column.group("3. Start", BLUE)
    prompts = _prompts(graph, encoder, identity, "an oil painting of a person in a garden, thick brush strokes", 1660)
    last = Column(graph, 2220)
    picture = sample_from(last, (unet, vae), prompts, latent["LATENT"], OFFICIAL, denoise=0.65)
    _save(graph, last, picture["IMAGE"], "img2img")
    explain(graph, IMG2IMG_NOTE)


def face_swap(graph: Graph) -> None:
    encoder, unet, vae, identity = one_person(graph, "1. The person")
    column = Column(graph, 1260)
    target = column.add("LoadImage", 370, "The picture to change", image=PHOTO)
    fitted = column.add("ImageScale", 130, "At the picture's size", image=target["IMAGE"], **_SCALE)
    found = column.add("FaceCLIPDetectFaces", 520, "Which face to change", image=fitted["IMAGE"])
    column.group("3. The face to change", BLUE)
    mask = Column(graph, 0, y=760)
    grown = mask.add("GrowMask", 90, mask=found["mask"], expand=32, tapered_corners=True)
    grey = mask.add("MaskToImage", 40, mask=grown["MASK"])
    soft = mask.add("ImageBlur", 90, image=grey["IMAGE"], blur_radius=31, sigma=10.0)
    more = Column(graph, 360, y=760)
    border = more.add("ImageToMask", 60, "Soft border", image=soft["IMAGE"], channel="red")
    latent = more.add("VAEEncode", 60, pixels=fitted["IMAGE"], vae=vae["VAE"])
    masked = more.add("SetLatentNoiseMask", 60, samples=latent["LATENT"], mask=border["MASK"])
    graph.group("4. Paint here alone", PURPLE, [*mask.nodes, *more.nodes])
    prompts = _prompts(graph, encoder, identity, "the face of a person, looking at the camera, daylight, photograph", 1660)
    last = Column(graph, 2220)
    picture = sample_from(last, (unet, vae), prompts, masked["LATENT"], OFFICIAL, denoise=0.65)
    whole = last.add(
        "ImageCompositeMasked",
        140,
        "All else as it was",
        destination=fitted["IMAGE"],
        source=picture["IMAGE"],
        mask=border["MASK"],
    )
    _save(graph, last, whole["IMAGE"], "face_swap")
    explain(graph, FACE_SWAP_NOTE)


def pose(graph: Graph) -> None:
    encoder, unet, vae, identity = one_person(graph, "1. The person")
    column = Column(graph, 1260)
    figure = column.add("LoadImage", 370, "The pose, as a skeleton", image=PHOTO)
    net = column.add("ControlNetLoader", 60, models=[POSE_NET], control_net_name=POSE_NET["name"])
    column.group("3. Pose", BLUE)
    words = "a person in a white tracksuit dancing on a stage, full body, photograph"
    positive, negative = _prompts(graph, encoder, identity, words, 1660)
    last = Column(graph, 2220)
    posed = last.add(
        "ControlNetApplyAdvanced",
        190,
        positive=positive,
        negative=negative,
        control_net=net["CONTROL_NET"],
        image=figure["IMAGE"],
        strength=0.8,
        end_percent=0.8,
    )
    latent = last.add("EmptyLatentImage", 120, width=OFFICIAL.width, height=OFFICIAL.height)
    picture = sample_from(last, (unet, vae), (posed["positive"], posed["negative"]), latent["LATENT"], OFFICIAL)
    _save(graph, last, picture["IMAGE"], "pose")
    explain(graph, POSE_NOTE)


_SCALE = {"upscale_method": "lanczos", "width": OFFICIAL.width, "height": OFFICIAL.height, "crop": "center"}


def _prompts(graph: Graph, encoder: Node, identity: Socket, words: str, x: int) -> tuple[Socket, Socket]:
    prompts = write_prompt(graph, encoder, words, Place(x, 0, 480, PROMPTS), identity)
    graph.group("Prompts", GREEN, [prompts])
    return prompts["conditioning"], prompts["negative"]


def _save(graph: Graph, column: Column, picture: Socket, prefix: str) -> None:
    saved = graph.add("SaveImage", Place(column.x + 380, 0, 480, 640), images=picture, filename_prefix=f"FaceCLIP/{prefix}")
    graph.group("Picture", PURPLE, [*column.nodes, saved])


EDITS: Mapping[str, Callable[[Graph], None]] = {
    "Image to image": img2img,
    "Face swap": face_swap,
    "Pose": pose,
}
