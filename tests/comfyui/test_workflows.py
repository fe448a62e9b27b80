"""Every workflow with the released weights, run in a real ComfyUI on the mini files in their place."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from demo.client import ComfyClient, Prompt
from demo.graph import read_workflow, shown_pictures, template, to_prompt, with_photo
from demo.link import ROOT
from train.finetune_sdxl.command import main as finetune
from train.synthetic.command import main as draw

pytestmark = pytest.mark.server

MINI = {
    "face_clip_encoder.pt": "faceclip_mini_encoder.safetensors",
    "unet.pt": "faceclip_mini_unet.safetensors",
    "sdxl_vae.safetensors": "zz_faceclip_mini_vae.safetensors",
    "my_style.safetensors": "mini_style.safetensors",
    "my_few_steps.safetensors": "mini_style.safetensors",
    "sd_xl_base_1.0.safetensors": "mini_base.safetensors",
    "my_sdxl_checkpoint.safetensors": "mini_own.safetensors",
    "OpenPoseXL2.safetensors": "mini_pose.safetensors",
}
UNET_METADATA = {"prediction": "v", "zero_terminal_snr": "true"}
SMALL, LARGE = (128, 128), 256
SIZES = {"FaceCLIP 10 Face swap": (LARGE, LARGE), "FaceCLIP 09 Group photo": (2 * LARGE, LARGE)}
"""Of the pictures, width and height in pixels: small, but where faces have to be found in them."""


def on_mini(workflow: Path, client: ComfyClient, photo: str) -> Prompt:
    """The workflow with a photo, the pack's own files, small pictures and few steps."""
    prompt = with_photo(to_prompt(read_workflow(workflow), client.get("/object_info")), photo)
    size = dict(zip(("width", "height"), SIZES.get(workflow.stem, SMALL), strict=True))
    for node in prompt.values():
        inputs = node["inputs"]
        inputs.update({name: MINI[value] for name, value in inputs.items() if isinstance(value, str) and value in MINI})
        inputs.update({name: value for name, value in size.items() if name in inputs})
        if node["class_type"] == "KSampler":
            inputs["steps"] = 3
    return prompt


@pytest.fixture(autouse=True, scope="module")
def _own_files(server_base: Path, mini_controlnet: dict[str, torch.Tensor]) -> None:
    """What an artist would bring, at the mini UNet's size: a LoRA, a
    ControlNet, SDXL's base, and a checkpoint of their own."""
    save_file(mini_controlnet, server_base / "models" / "controlnet" / MINI["OpenPoseXL2.safetensors"])
    unet = load_file(ROOT / "models" / "faceclip" / MINI["unet.pt"])
    random = torch.Generator().manual_seed(0)
    for name, change in (("mini_base", 0.05), ("mini_own", 0.1)):
        noisy = {k: (t * (1 + change * torch.randn(t.shape, generator=random))).to(t.dtype) for k, t in unet.items()}
        save_file(noisy, server_base / "models" / "checkpoints" / f"{name}.safetensors", UNET_METADATA)
    projection = unet["mid_block.attentions.0.proj_in.weight"]
    up, down = (torch.randn(shape, generator=random) for shape in ((len(projection), 4), (4, projection.shape[1])))
    key = "diffusion_model.middle_block.1.proj_in"
    lora = {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
    save_file(lora, server_base / "models" / "loras" / "mini_style.safetensors")


@pytest.fixture(scope="module")
def trained_lora(server_base: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a LoRA that training made on the mini model in a short run."""
    pytest.importorskip("peft", reason="LoRA needs the extra `lora`")
    work = tmp_path_factory.mktemp("lora")
    assert draw(f"{work / 'world'} --people 4 --pictures 4 --size 128 --held-out-people 1 --guided 4".split()) == 0
    mini = {"encoder": "faceclip_mini_encoder", "unet": "faceclip_mini_unet"}
    files = [
        word for flag, name in mini.items() for word in (f"--{flag}", str(ROOT / "models" / "faceclip" / f"{name}.safetensors"))
    ]
    vae = ROOT / "models" / "vae" / "zz_faceclip_mini_vae.safetensors"
    flags = f"--config mini_sdxl --data {work / 'world' / 'train'} --vae {vae} --out {work / 'run'} --lora 4 --lr 2e-3 --steps 30"
    assert finetune([*flags.split(), *files, "--batch-size", "4"]) == 0
    shutil.copy(work / "run" / "lora.safetensors", server_base / "models" / "loras" / "mini_trained.safetensors")
    return "mini_trained.safetensors"


def pictures(client: ComfyClient, prompt: Prompt) -> list[np.ndarray]:
    """All that the workflow makes: uint8 [H, W, 3] each."""
    run = client.run(prompt)
    return [np.asarray(picture) for picture in client.pictures(run, shown_pictures(prompt)["result"])]


def only(prompt: Prompt, kind: str) -> dict:
    (node,) = [node for node in prompt.values() if node["class_type"] == kind]
    return node["inputs"]


def test_a_workflow_runs_on_the_mini_files(sdxl_workflow: Path, client: ComfyClient, photo: str) -> None:
    prompt = on_mini(sdxl_workflow, client, photo)
    for node in prompt.values():
        if node["class_type"] == "FaceCLIPDetectFaces":
            node["inputs"]["on_no_face"] = "text only"  # of a picture made so small, none may be found
    made = pictures(client, prompt)
    assert made
    for picture in made:
        assert picture.std() > 2, "the picture is all one colour"


def test_a_lora_changes_the_picture_as_far_as_its_strength_says(client: ComfyClient, photo: str) -> None:
    prompt = on_mini(template("Style LoRA"), client, photo)
    style, sampler = only(prompt, "LoraLoaderModelOnly"), only(prompt, "KSampler")
    (styled, *_) = pictures(client, prompt)
    style["strength_model"] = 0.0
    (without, *_) = pictures(client, prompt)
    sampler["model"] = style["model"]
    (plain, *_) = pictures(client, prompt)
    assert np.array_equal(without, plain) and not np.array_equal(styled, plain)


def test_a_lora_that_training_made_changes_the_picture(trained_lora: str, client: ComfyClient, photo: str) -> None:
    prompt = on_mini(template("Style LoRA"), client, photo)
    style, sampler = only(prompt, "LoraLoaderModelOnly"), only(prompt, "KSampler")
    made = {}
    for strength in (0.0, 1.0):
        style.update(lora_name=trained_lora, strength_model=strength)
        (made[strength], *_) = pictures(client, prompt)
    sampler["model"] = style["model"]
    (plain, *_) = pictures(client, prompt)
    assert np.array_equal(made[0.0], plain)
    assert np.abs(made[1.0].astype(float) - plain).mean() > 1


def test_a_transplant_adds_what_faceclip_added_to_the_base(client: ComfyClient, photo: str) -> None:
    prompt = on_mini(template("Own checkpoint"), client, photo)
    sampler, add = only(prompt, "KSampler"), only(prompt, "ModelMergeAdd")
    own = prompt[add["model1"][0]]["inputs"]
    own["unet_name"] = MINI["sd_xl_base_1.0.safetensors"]  # onto the base itself: FaceCLIP's own UNet comes out
    (carried, *_) = pictures(client, prompt)
    found = {}
    for name, source in (("base", add["model1"]), ("faceclip", only(prompt, "ModelMergeSubtract")["model1"])):
        sampler["model"] = source
        (found[name], *_) = pictures(client, prompt)
    apart = {name: np.abs(carried.astype(float) - picture).mean() for name, picture in found.items()}
    assert apart["faceclip"] < 2 and apart["base"] > 3 * apart["faceclip"], apart


def test_a_folder_gives_a_picture_of_everyone_and_skips_photos_without_a_face(
    client: ComfyClient, photo: str, server_base: Path
) -> None:
    prompt = on_mini(template("Folder of photos"), client, photo)
    both = pictures(client, prompt)
    assert len(both) == 2 and not np.array_equal(*both)
    folder = only(prompt, "LoadImageDataSetFromFolder")
    more = shutil.copytree(server_base / "input" / folder["folder"], server_base / "input" / "people_and_a_wall")
    Image.new("RGB", (300, 200), "grey").save(more / "a_wall.png")
    folder["folder"] = more.name
    assert {p.tobytes() for p in pictures(client, prompt)} == {p.tobytes() for p in both}
    only(prompt, "FaceCLIPDetectFaces")["on_no_face"] = "text only"
    assert len(pictures(client, prompt)) == 3


def test_several_references_are_one_person_and_each_of_them_counts(client: ComfyClient, photo: str, other_photo: str) -> None:
    same = on_mini(template("Several photos"), client, photo)
    (first, *_) = pictures(client, same)
    loaders = [node for node in same.values() if node["class_type"] == "LoadImage"]
    assert len(loaders) == 3
    for loader in loaders:
        loader["inputs"]["image"] = other_photo
        (changed, *_) = pictures(client, same)
        assert not np.array_equal(first, changed)
        loader["inputs"]["image"] = photo


def test_a_blend_begins_with_the_first_person_and_ends_with_the_second(client: ComfyClient, photo: str, other_photo: str) -> None:
    prompt = on_mini(template("Blend two people"), client, photo)
    loaders = [node["inputs"] for node in prompt.values() if node["class_type"] == "LoadImage"]
    blend = only(prompt, "FaceCLIPBlendIdentities")
    (same, *_) = pictures(client, prompt)  # one person twice, mixed
    blend["ratio"] = 0.0
    (one, *_) = pictures(client, prompt)
    assert np.abs(same.astype(int) - one).max() <= 1  # equal but for the mix's rounding, which differs between processors
    loaders[1]["image"] = other_photo
    (start, *_) = pictures(client, prompt)
    blend["ratio"] = 1.0
    (end, *_) = pictures(client, prompt)
    loaders[0]["image"] = other_photo
    (other, *_) = pictures(client, prompt)
    assert np.array_equal(start, one) and np.array_equal(end, other) and not np.array_equal(start, end)


def test_a_saved_identity_makes_the_very_picture_that_its_photo_makes(client: ComfyClient, photo: str) -> None:
    keeping = on_mini(template("Save a person"), client, photo)
    only(keeping, "FaceCLIPSaveIdentity")["name"] = "kept by a test"
    (with_photo_, *_) = pictures(client, keeping)
    loading = on_mini(template("Saved person"), client, photo)
    only(loading, "FaceCLIPLoadIdentity")["file_name"] = "kept by a test.safetensors"
    words = next(
        n["inputs"]["prompt"] for n in keeping.values() if n["class_type"] == "FaceCLIPTextEncode" and "identity" in n["inputs"]
    )
    for node in loading.values():
        if node["class_type"] == "FaceCLIPTextEncode" and "identity" in node["inputs"]:
            node["inputs"]["prompt"] = words
    (without, *_) = pictures(client, loading)
    assert np.array_equal(with_photo_, without)


def test_the_face_has_no_say_before_its_part_of_the_steps(client: ComfyClient, photo: str, other_photo: str) -> None:
    def made(name: str, border: float) -> np.ndarray:
        prompt = on_mini(template("Face comes later"), client, name)
        only(prompt, "FaceCLIPTextEncode")["start_percent"] = border
        return pictures(client, prompt)[0]

    after_the_last = 0.999  # which ddim_uniform makes at timestep 1 of 1,000
    assert np.array_equal(made(photo, after_the_last), made(other_photo, after_the_last))
    assert not np.array_equal(made(photo, 0.2), made(other_photo, 0.2))


def test_outside_of_the_face_a_swap_leaves_every_pixel(client: ComfyClient, photo: str, astronaut: np.ndarray) -> None:
    head = astronaut[:LARGE, 96 : 96 + LARGE]
    content = io.BytesIO()
    Image.fromarray(head).save(content, "PNG")
    prompt = on_mini(template("Face swap"), client, photo)
    scaled = only(prompt, "ImageScale")
    prompt[scaled["image"][0]]["inputs"]["image"] = client.upload_photo("head.png", content.getvalue())
    only(prompt, "GrowMask")["expand"] = 0
    (made, *_) = pictures(client, prompt)
    changed = (made != head).any(2)
    face = np.zeros_like(changed)
    face[32:216, 48:208] = True  # the astronaut's, with the mask's soft border
    assert changed[face].mean() > 0.3 and not changed[~face].any()


def test_a_picture_after_a_picture_comes_of_the_picture_and_of_the_face(
    client: ComfyClient, photo: str, other_photo: str
) -> None:
    prompt = on_mini(template("Image to image"), client, photo)
    latent = prompt[only(prompt, "KSampler")["latent_image"][0]]
    start = prompt[prompt[latent["inputs"]["pixels"][0]]["inputs"]["image"][0]]
    (person,) = [node for node in prompt.values() if node["class_type"] == "LoadImage" and node is not start]
    (first, *_) = pictures(client, prompt)
    for loader in (start, person):
        loader["inputs"]["image"] = other_photo
        (changed, *_) = pictures(client, prompt)
        assert not np.array_equal(first, changed)
        loader["inputs"]["image"] = photo


def test_a_pose_steers_as_far_as_its_strength_says(client: ComfyClient, photo: str, other_photo: str) -> None:
    prompt = on_mini(template("Pose"), client, photo)
    posed, sampler = only(prompt, "ControlNetApplyAdvanced"), only(prompt, "KSampler")
    figure = prompt[posed["image"][0]]["inputs"]
    (first, *_) = pictures(client, prompt)
    figure["image"] = other_photo
    (other, *_) = pictures(client, prompt)
    posed["strength"] = 0.0
    (without, *_) = pictures(client, prompt)
    sampler.update(positive=posed["positive"], negative=posed["negative"])
    (plain, *_) = pictures(client, prompt)
    assert np.array_equal(without, plain)
    assert not np.array_equal(first, other) and not np.array_equal(other, plain)


def test_people_come_to_the_places_of_the_faces_in_a_group_picture(client: ComfyClient) -> None:
    ada, ben = (Image.open(ROOT / "models" / "people" / f"{name}.jpg").resize((LARGE, LARGE)) for name in ("ada", "ben"))
    names = []
    for name, left, right in (("group", ada, ben), ("ada", ada, ada), ("ben", ben, ben)):
        content, both = io.BytesIO(), Image.new("RGB", (2 * LARGE, LARGE))
        both.paste(left, (0, 0))
        both.paste(right, (LARGE, 0))
        (both if name == "group" else left).save(content, "PNG")
        names.append(client.upload_photo(f"{name}.png", content.getvalue()))
    group, *photos = names
    prompt = on_mini(template("Group photo"), client, photos[0])
    start = prompt[only(prompt, "ImageScale")["image"][0]]["inputs"]
    start["image"] = group
    for node in prompt.values():
        if node["class_type"] == "GrowMask":
            node["inputs"]["expand"] = 10
    left, right = [n["inputs"] for n in prompt.values() if n["class_type"] == "LoadImage" and n["inputs"] is not start]
    (before, *_) = pictures(client, prompt)
    halves = slice(0, LARGE), slice(LARGE, None)
    for person, half, other in ((left, *halves), (right, *reversed(halves))):
        person["image"] = photos[1]
        (after, *_) = pictures(client, prompt)
        person["image"] = photos[0]
        changed = np.abs(after.astype(int) - before)
        assert changed[:, half].mean() > 1.5 * changed[:, other].mean()
