"""Take the pictures of the help pages: each node in a graph that has run, in ComfyUI's real editor.

    python scripts/make_help_pictures.py PHOTO [FOLDER]       (default folder: web/docs/images)

The graph has every node of the pack, on the mini model; those for FLUX, of which there is no small model,
stand in it without having run. PHOTO should show one face, as models/people/ada.jpg does. Needs what
`comfy_editor` does.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Beside this file, where Python looks first for a script's imports.
from comfy_editor import ROOT, comfyui, editor
from PIL import Image
from workflows.format import Graph, Node, Place

from demo.graph import to_prompt

WIDTH, HEIGHT, MARGIN, TITLE = 1500, 900, 26, 30
QUALITY = 80
SIZE: Mapping[str, Any] = {"width": 128, "height": 128}
SAMPLING: Mapping[str, Any] = {
    "seed": 42,
    "steps": 20,
    "cfg": 2.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "denoise": 1.0,
}
PROMPT = "a close-up of a person on a sandy beach by the sea, wearing a red hoodie"
_FRAMED = """(ids) => {
    const { graph, canvas } = window.app
    for (const node of graph.nodes) {  // the others out of sight, with the texts that lie on them
        node.home ??= [...node.pos]
        node.pos = ids.includes(node.id) ? [...node.home] : [node.home[0] + 100_000, node.home[1]]
    }
    const boxes = graph.nodes.filter((node) => ids.includes(node.id)).map((node) => [...node.pos, ...node.size])
    const left = Math.min(...boxes.map((b) => b[0])) - MARGIN
    const top = Math.min(...boxes.map((b) => b[1])) - MARGIN - TITLE
    const right = Math.max(...boxes.map((b) => b[0] + b[2])) + MARGIN
    const bottom = Math.max(...boxes.map((b) => b[1] + b[3])) + MARGIN
    if (!canvas.framed) {  // once: only the wires between these nodes
        const { renderLink } = canvas
        canvas.renderLink = (context, from, to, link, ...rest) => {
            if (link && canvas.framed.includes(link.origin_id) && canvas.framed.includes(link.target_id))
                renderLink.call(canvas, context, from, to, link, ...rest)
        }
    }
    canvas.framed = ids
    canvas.ds.scale = 1
    canvas.ds.offset = [ORIGIN[0] - left, ORIGIN[1] - top]
    canvas.setDirty(true, true)
    return [right - left, bottom - top]
}"""
# The editor loads a picture when it first draws the node that shows it.
_DRAWN = """(ids) => window.app.graph.nodes.every(
    (n) => !ids.includes(n.id) || !KINDS.includes(n.type) || n.imgs?.every((i) => i.naturalWidth > 0)
)""".replace("KINDS", "['PreviewImage', 'LoadImage', 'FaceCLIPExampleFace', 'FaceCLIPDetectFaces']")
ORIGIN = (90, 90)  # right of the side bar and below the tabs


def draw(graph: Graph, photo: str) -> dict[str, list[Node]]:
    """Every node of the pack at work; returns what belongs into the picture of each, the neighbours with it."""
    image = graph.add("LoadImage", Place(0, 0, 300, 330), title="Your photo", image=photo)
    faces = graph.add("FaceCLIPDetectFaces", Place(350, 0, 320, 260), image=image["IMAGE"])
    detector = graph.add("FaceCLIPFaceDetectorLoader", Place(0, 3600, 300, 110))
    chosen = graph.add("FaceCLIPDetectFaces", Place(350, 3600, 320, 260), image=image["IMAGE"], detector=detector["detector"])
    graph.add("PreviewImage", Place(720, 3600, 260, 290), images=chosen["preview"])  # has it run
    encoder = graph.add("FaceCLIPEncoderLoader", Place(310, 340, 360, 90), encoder_name="faceclip_mini_encoder.safetensors")
    unet = graph.add("FaceCLIPUNetLoader", Place(0, 2000, 360, 90), unet_name="faceclip_mini_unet.safetensors")
    vae = graph.add("VAELoader", Place(0, 2140, 360, 60), vae_name="zz_faceclip_mini_vae.safetensors")
    person = graph.add("FaceCLIPEncodeIdentity", Place(720, 340, 320, 90), encoder=encoder["encoder"], faces=faces["faces"])
    saved = graph.add("FaceCLIPSaveIdentity", Place(1090, 340, 300, 90), identity=person["identity"], name="ada")
    loaded = graph.add("FaceCLIPLoadIdentity", Place(720, 500, 320, 60), file_name="friend.safetensors")
    blend = graph.add(
        "FaceCLIPBlendIdentities", Place(1090, 500, 300, 90), first=person["identity"], second=loaded["identity"], ratio=0.3
    )
    words: dict[str, Any] = {"encoder": encoder["encoder"], **SIZE}
    positive = graph.add(
        "FaceCLIPTextEncode",
        Place(1440, 340, 380, 230),
        title="Prompt, with the face",
        prompt=PROMPT,
        identity=blend["identity"],
        **words,
    )
    negative = graph.add(
        "FaceCLIPTextEncode", Place(1440, 640, 380, 230), title="Negative prompt, no face", prompt="blurry, low quality", **words
    )
    latent = graph.add("EmptyLatentImage", Place(0, 2260, 360, 110), batch_size=2, **SIZE)
    wires = {"model": unet["model"], "positive": positive["conditioning"], "negative": negative["conditioning"]}
    sampler = graph.add("KSampler", Place(420, 2000, 300, 270), **wires, latent_image=latent["LATENT"], **SAMPLING)
    decoded = graph.add("VAEDecode", Place(420, 2330, 300, 50), samples=sampler["LATENT"], vae=vae["VAE"])
    both = graph.add("ImageBatch", Place(0, 1020, 300, 60), image1=image["IMAGE"], image2=decoded["IMAGE"])
    rank = graph.add("FaceCLIPFaceSimilarity", Place(350, 1020, 320, 110), images=both["IMAGE"], reference=faces["faces"])
    scores = graph.add("PreviewAny", Place(720, 1020, 300, 200), title="Scores", source=rank["scores"])
    best = graph.add("PreviewImage", Place(1070, 1020, 230, 260), title="Most similar", images=rank["best"])
    made = graph.add(
        "PreviewImage", Place(770, 2000, 380, 290), title="Pictures (mini model, which knows drawings)", images=decoded["IMAGE"]
    )
    whole = graph.add(
        "FaceCLIPLoader",
        Place(0, 4000, 360, 160),
        encoder_name="faceclip_mini_encoder.safetensors",
        unet_name="faceclip_mini_unet.safetensors",
        vae_name="zz_faceclip_mini_vae.safetensors",
    )
    example = graph.add("FaceCLIPExampleFace", Place(0, 4300, 300, 330))
    found = graph.add("FaceCLIPDetectFaces", Place(350, 4300, 340, 500), image=example["image"])
    who = graph.add("FaceCLIPEncodeIdentity", Place(420, 4000, 300, 110), encoder=whole["encoder"], faces=found["faces"])
    prompts = graph.add(
        "FaceCLIPTextEncode", Place(770, 4000, 380, 420), encoder=whole["encoder"], prompt=PROMPT, identity=who["identity"]
    )
    empty = graph.add("EmptyLatentImage", Place(770, 4500, 300, 110), batch_size=1, **SIZE)
    wires = {"model": whole["model"], "positive": prompts["conditioning"], "negative": prompts["negative"]}
    drawn = graph.add("KSampler", Place(1200, 4000, 300, 270), **wires, latent_image=empty["LATENT"], **SAMPLING)
    last = graph.add("VAEDecode", Place(1200, 4360, 300, 50), samples=drawn["LATENT"], vae=whole["vae"])
    graph.add("PreviewImage", Place(1200, 4500, 300, 290), images=last["IMAGE"])
    return _flux(graph, loaded) | {
        "FaceCLIPLoader": [whole, who, prompts],
        "FaceCLIPExampleFace": [example, found],
        "FaceCLIPFaceDetectorLoader": [detector, chosen],
        "FaceCLIPDetectFaces": [example, found],
        "FaceCLIPEncoderLoader": [encoder, person],
        "FaceCLIPEncodeIdentity": [whole, who],
        "FaceCLIPSaveIdentity": [person, saved],
        "FaceCLIPLoadIdentity": [loaded, blend],
        "FaceCLIPBlendIdentities": [person, loaded, blend],
        "FaceCLIPTextEncode": [who, prompts],
        "FaceCLIPUNetLoader": [unet, vae, latent, sampler, decoded, made],
        "FaceCLIPFaceSimilarity": [rank, scores, best],
    }


def _flux(graph: Graph, identity: Node) -> dict[str, list[Node]]:
    """The nodes for FLUX; nothing that shows a picture hangs on them, so they do not run."""
    clip = graph.add(
        "DualCLIPLoader",
        Place(0, 3000, 340, 130),
        clip_name1="t5xxl_fp16.safetensors",
        clip_name2="clip_l.safetensors",
        type="flux",
        device="default",
    )
    facet5 = graph.add("FaceCLIPT5Loader", Place(0, 3190, 340, 90), facet5_name="face_t5_encoder.pt")
    words: dict[str, Any] = {"clip": clip["CLIP"], "facet5": facet5["facet5"]}
    prompts = graph.add(
        "FaceCLIPT5TextEncode",
        Place(420, 3000, 380, 320),
        prompt=PROMPT,
        negative_prompt="blurry, low quality",
        identity=identity["identity"],
        **words,
    )
    return {
        "FaceCLIPT5Loader": [clip, facet5, prompts],
        "FaceCLIPT5TextEncode": [clip, facet5, prompts],
    }


def take(address: str, workflow: Mapping[str, Any], frames: Mapping[str, list[Node]], folder: Path) -> None:
    """Open the workflow in the editor, run it, and write FOLDER/NODE_ID.webp for each frame."""
    with editor(address, WIDTH, HEIGHT) as page:
        page.evaluate("(graph) => window.app.loadGraphData(graph)", workflow)
        page.wait_for_timeout(1_500)
        page.get_by_role("button", name="Run", exact=True).click()
        page.wait_for_function(
            "() => window.app.graph.nodes.filter((n) => n.type === 'PreviewImage').every((n) => window.app.nodeOutputs[n.id])",
            timeout=600_000,
        )
        page.wait_for_timeout(12_000)  # until the word that the job is done has gone
        script = _FRAMED.replace("MARGIN", str(MARGIN)).replace("TITLE", str(TITLE)).replace("ORIGIN", json.dumps(ORIGIN))
        for name, nodes in frames.items():
            width, height = page.evaluate(script, [node.id for node in nodes])
            page.wait_for_function(_DRAWN, arg=[node.id for node in nodes], timeout=60_000)
            page.wait_for_timeout(700)
            clip = {"x": ORIGIN[0], "y": ORIGIN[1], "width": width, "height": height}
            picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
            picture.save(folder / f"{name}.webp", quality=QUALITY, method=6)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Take the pictures of the help pages.")
    parser.add_argument("photo", type=Path, help="a photo with one face")
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "web" / "docs" / "images")
    options = parser.parse_args(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    with comfyui() as (address, client):
        photo = client.upload_photo("photo.png", options.photo.read_bytes())
        client.run(_friend(photo))
        graph = Graph("help pictures", client.get("/object_info"))
        frames = draw(graph, photo)
        workflow = graph.to_dict()
        to_prompt(workflow, client.get("/object_info"))  # raises where the graph and the nodes disagree
        take(address, workflow, frames, options.folder)


def _friend(photo: str) -> dict[str, dict[str, Any]]:
    """A saved identity for Load Identity to show."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": photo}},
        "3": {
            "class_type": "FaceCLIPDetectFaces",
            "inputs": {
                "image": ["1", 0],
                "order": "largest",
                "index": 0,
                "count": 1,
                "min_confidence": 0.5,
                "on_no_face": "error",
            },
        },
        "4": {
            "class_type": "FaceCLIPEncoderLoader",
            "inputs": {"encoder_name": "faceclip_mini_encoder.safetensors", "dtype": "default"},
        },
        "5": {
            "class_type": "FaceCLIPEncodeIdentity",
            "inputs": {"encoder": ["4", 0], "faces": ["3", 0], "combine": "first"},
        },
        "6": {"class_type": "FaceCLIPSaveIdentity", "inputs": {"identity": ["5", 0], "name": "friend"}},
    }


if __name__ == "__main__":
    main()
