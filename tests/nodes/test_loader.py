"""Load FaceCLIP, the files that loaders start with, and Example Face."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

MINI = {
    "encoder_name": "faceclip_mini_encoder.safetensors",
    "unet_name": "faceclip_mini_unet.safetensors",
    "vae_name": "zz_faceclip_mini_vae.safetensors",
}
RELEASED = {"encoder_name": "face_clip_encoder.pt", "unet_name": "unet.pt", "vae_name": "sdxl_vae.safetensors"}


def defaults(pack: dict, node: str = "FaceCLIPLoader") -> dict[str, Any]:
    inputs = pack[node].define_schema().inputs
    for widget in inputs:
        assert widget.default in widget.options
    return {widget.id: widget.default for widget in inputs if widget.id.endswith("_name")}


def test_one_node_loads_what_three_did(run: Any, encoder: Any, model: Any, core: Any, crops: torch.Tensor) -> None:
    loaded, unet, vae = run("FaceCLIPLoader", **MINI, dtype="fp32")
    found, expected = (run("FaceCLIPTextEncode", encoder=e, prompt="a man")[0][0][0] for e in (loaded, encoder))
    assert torch.equal(found, expected)
    weights = (m.model.diffusion_model.state_dict() for m in (unet, model))
    assert all(torch.equal(a, b) for a, b in zip(*(list(w.values()) for w in weights), strict=True))
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    own = core.VAELoader().load_vae(MINI["vae_name"])[0]
    with torch.inference_mode():
        assert torch.equal(vae.decode(latent), own.decode(latent))


def test_where_nothing_else_is_the_loader_starts_with_mini(pack: dict) -> None:
    assert defaults(pack) == MINI


def test_the_released_files_are_the_default_where_they_are(pack: dict, model_folder: Any) -> None:
    for folder, name in (("faceclip", "face_clip_encoder.pt"), ("faceclip", "unet.pt"), ("vae", "sdxl_vae.safetensors")):
        (model_folder(folder) / name).touch()
    assert defaults(pack) == RELEASED
    assert defaults(pack, "FaceCLIPUNetLoader") == {"unet_name": "unet.pt"}
    assert defaults(pack, "FaceCLIPEncoderLoader") == {"encoder_name": "face_clip_encoder.pt"}


def test_converted_files_are_known_by_their_names(pack: dict, model_folder: Any) -> None:
    folder = model_folder("faceclip")
    for name in ("face_clip_encoder_bf16.safetensors", "unet_fp16.safetensors", "face_t5_encoder.pt"):
        (folder / name).touch()
    found = defaults(pack)
    assert (found["encoder_name"], found["unet_name"]) == ("face_clip_encoder_bf16.safetensors", "unet_fp16.safetensors")
    assert defaults(pack, "FaceCLIPT5Loader") == {"facet5_name": "face_t5_encoder.pt"}


def test_a_release_that_is_not_whole_is_not_filled_up_with_mini(pack: dict, model_folder: Any) -> None:
    (model_folder("faceclip") / "face_clip_encoder.pt").touch()
    assert defaults(pack) == RELEASED
    answer = pack["FaceCLIPLoader"].validate_inputs(**RELEASED)
    assert "There is no file unet.pt. " in answer and "There is no file sdxl_vae.safetensors. " in answer
    assert "face_clip_encoder.pt" not in answer and "https://huggingface.co/" in answer
    assert pack["FaceCLIPLoader"].validate_inputs(**MINI) is True


@pytest.mark.parametrize("name", ["sdxl_vae.safetensors", "ae.safetensors", "vae.pt", "wan_2.1_vae.safetensors", "Z.safetensors"])
def test_the_mini_vae_is_never_the_first_that_the_cores_loader_offers(
    name: str, pack: dict, core: Any, model_folder: Any
) -> None:
    (model_folder("vae") / name).touch()
    offered = core.VAELoader.INPUT_TYPES()["required"]["vae_name"][0]
    assert offered[0] == name and MINI["vae_name"] in offered


def test_a_graph_with_the_mini_vaes_former_name_loads_it(pack: dict, run: Any) -> None:
    former = {**MINI, "vae_name": "faceclip_mini_vae.safetensors"}
    assert pack["FaceCLIPLoader"].validate_inputs(**former) is True
    vae, now = (run("FaceCLIPLoader", **files, dtype="fp32")[2] for files in (former, MINI))
    weights = (loaded.first_stage_model.state_dict().values() for loaded in (vae, now))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_users_own_file_of_that_name_comes_first(pack_module: Any, model_folder: Any) -> None:
    own = model_folder("vae") / "faceclip_mini_vae.safetensors"
    own.touch()
    assert sys.modules[f"{pack_module.__name__}.nodes.folders"].find_file(own.name, ["vae"]) == own


def test_encoder_and_unet_of_different_sizes_are_refused_at_the_loader(run: Any, pack_module: Any, encoder: Any) -> None:
    fit = sys.modules[f"{pack_module.__name__}.nodes.fit"]
    with pytest.raises(ValueError, match=r"encoder's conditioning is 80 wide, and unet.pt wants 2048. Choose files that belong"):
        fit.require_fit(encoder, 2048, "unet.pt")
    fit.require_fit(encoder, 80, MINI["unet_name"])


def test_the_loader_asks_whether_they_fit(run: Any, model_folder: Any) -> None:
    weights = load_file(Path(__file__).resolve().parents[2] / "models" / "faceclip" / MINI["unet_name"])
    wide = {k: torch.cat([t, t[:, :16]], 1) if "attn2.to_k" in k or "attn2.to_v" in k else t for k, t in weights.items()}
    save_file({k: t.contiguous() for k, t in wide.items()}, model_folder("faceclip") / "wide_unet.safetensors")
    with pytest.raises(ValueError, match="conditioning is 80 wide, and wide_unet.safetensors wants 96"):
        run("FaceCLIPLoader", **{**MINI, "unet_name": "wide_unet.safetensors"})


def test_an_example_face_is_a_person_that_the_detector_finds(pack: dict, run: Any) -> None:
    people = pack["FaceCLIPExampleFace"].define_schema().inputs[0].options
    assert len(people) >= 2
    for person in people:
        image = run("FaceCLIPExampleFace", person=person)[0]
        assert image.shape[0] == 1 and image.shape[3] == 3 and 0 <= image.min() < 0.2 and 0.8 < image.max() <= 1
        assert run("FaceCLIPDetectFaces", image=image)[3] == 1, person


def test_an_example_face_is_the_picture_in_the_packs_folder_and_shows_it(pack: dict) -> None:
    import folder_paths

    person = pack["FaceCLIPExampleFace"].define_schema().inputs[0].options[0]
    output = pack["FaceCLIPExampleFace"].execute(person)
    own = np.asarray(Image.open(Path(__file__).resolve().parents[2] / "models" / "people" / f"{person}.jpg").convert("RGB"))
    assert np.array_equal((output.result[0][0] * 255).round().byte().numpy(), own)
    (shown,) = output.ui.as_dict()["images"]
    saved = Path(folder_paths.get_temp_directory()) / shown["subfolder"] / shown["filename"]
    assert Image.open(saved).size == own.shape[1::-1]


def test_a_person_that_is_none_is_refused(run: Any) -> None:
    with pytest.raises(ValueError, match=r"person is '\.\./x'. Choose one of: "):
        run("FaceCLIPExampleFace", person="../x")
