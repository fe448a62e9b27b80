"""The table of downloadable files, and what it says about a missing one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from faceclip import hub
from faceclip.face.insightface_backend import PACK_URL
from faceclip.model.encoder import FaceCLIPEncoder
from faceclip.tensor_file import CheckpointError

HUGGING_FACE = re.compile(r"https://huggingface\.co/[\w-]+/[\w.-]+/resolve/main/([\w.-]+/)*[\w.-]+")


def test_names_are_unique_and_every_entry_is_complete():
    names = [file.name for file in hub.FILES]
    assert len(set(names)) == len(names)
    for file in hub.FILES:
        assert file.folder and not file.folder.startswith(("/", "models"))
        assert file.licence and file.contents
        assert Path(file.url).name == file.name, "the file keeps its name when it is downloaded by hand"


def test_urls_are_direct_links_on_hugging_face_the_packs_that_the_detector_asks_for_or_metaclips():
    packs = {PACK_URL.format(pack=pack) for pack in ("buffalo_l", "antelopev2")}
    metaclip = {f"https://dl.fbaipublicfiles.com/MMPT/metaclip/{name}_fullcc2.5b.pt" for name in ("l14", "G14")}
    urls = {file.url for file in hub.FILES}
    assert packs | metaclip < urls
    for url in urls - packs - metaclip:
        assert HUGGING_FACE.fullmatch(url), url


def test_the_workflows_offer_the_same_downloads():
    workflows = Path(__file__).parents[2] / "workflows"
    nodes = [node for path in workflows.glob("*.json") for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]]
    offered = [model for node in nodes for model in node.get("properties", {}).get("models", [])]
    ours = {*hub.NEEDED, *(name for group, names in hub.GROUPS.items() if group != "training" for name in names)}
    assert {model["name"] for model in offered} == {*ours, "OpenPoseXL2.safetensors"}  # a ControlNet, not of FaceCLIP's
    for model in offered:
        if model["name"] in ours:
            file = hub.get(model["name"])
            assert (model["url"], model["directory"]) == (file.url, file.folder)


def test_checksums_are_sha256_or_left_open():
    for file in hub.FILES:
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.size is None or file.size > 0
        assert file.size or file.about.endswith(" GB"), "everyone is told how much it is before it is fetched"


def test_files_on_the_hub_know_their_repository_and_others_what_is_packed_in_them():
    assert hub.get("unet.pt").on_hub == ("ByteDance/FaceCLIP", "model/unet.pt")
    pack = hub.get("antelopev2.zip")
    assert pack.on_hub is None
    assert len(pack.targets) == 5 and all(name.endswith(".onnx") and size for name, size in pack.targets.items())
    assert hub.get("unet.pt").targets == {"unet.pt": None}
    assert all(hub.find(name) for name in hub.NEEDED)
    assert all(hub.find(name) for names in hub.GROUPS.values() for name in names)
    assert not set(hub.GROUPS) & {file.name for file in hub.FILES}


def test_every_licence_can_be_read():
    assert {licence for file in hub.FILES for licence in file.licences} == set(hub.LICENCE_PAGES)
    assert all(page.startswith("https://") for page in hub.LICENCE_PAGES.values())


def test_licences_are_the_strict_ones():
    licences = {file.name: file.licence for file in hub.FILES}
    assert licences["face_clip_encoder.pt"] == licences["unet.pt"] == "CC BY-NC 4.0"
    assert licences["sdxl_vae.safetensors"] == "MIT"
    for name in hub.GROUPS["facet5"]:
        assert hub.get(name).licences == ("CC BY-NC 4.0", "FLUX.1 [dev] Non-Commercial License")
        assert "on top of the FLUX.1 [dev]" in hub.missing_message(name)
    assert "non-commercial" in licences["buffalo_l.zip"] and "non-commercial" in licences["antelopev2.zip"]


def test_the_encoder_has_the_number_of_values_the_table_states():
    import torch

    from faceclip import FaceCLIPConfig

    with torch.device("meta"):
        encoder = FaceCLIPEncoder(FaceCLIPConfig.preset("sdxl"), share_face_tower=False)
    count = sum(tensor.numel() for tensor in encoder.state_dict().values())
    assert f"{count:,}" in hub.get("face_clip_encoder.pt").contents
    assert hub.get("face_clip_encoder.pt").size_told == hub.size_text(2 * count) == "3.15 GB", "bf16 takes two bytes for each"


def test_facet5s_file_has_the_number_of_values_the_table_states():
    from math import prod

    from faceclip.flux.config import PRESETS
    from faceclip.flux.names import released_shapes

    count = sum(prod(shape) for name, shape in released_shapes(PRESETS["flux"]).items())
    assert f"{count:,}" in hub.get("face_t5_encoder.pt").contents
    assert hub.get("face_t5_encoder.pt").about == f"{2 * count / 1e9:.1f} GB"


def test_pages_are_for_people():
    assert hub.get("unet.pt").page == "https://huggingface.co/ByteDance/FaceCLIP/blob/main/model/unet.pt"
    assert hub.get("buffalo_l.zip").page == "https://github.com/deepinsight/insightface/releases"


def test_a_missing_known_file_comes_with_address_folder_size_and_licence():
    message = hub.missing_message("/models/vae/sdxl_vae.safetensors")
    assert "/models/vae/sdxl_vae.safetensors" in message
    assert "https://huggingface.co/stabilityai/sdxl-vae/resolve/main/sdxl_vae.safetensors" in message
    assert "models/vae" in message and "334.6 MB" in message and "MIT" in message
    assert "`faceclip download sdxl_vae.safetensors`" in message


def test_a_missing_unknown_file_is_only_named():
    message = hub.missing_message("my_own.safetensors")
    assert message == "There is no file my_own.safetensors. Check the name and the folder."


def test_files_that_are_there_are_not_complained_about(tmp_path):
    hub.require_files(tmp_path, __file__)
    with pytest.raises(CheckpointError, match=r"There is no file absent\.bin"):
        hub.require_files(__file__, "absent.bin")


def test_looking_up_an_unknown_name_lists_the_known_ones():
    assert hub.find("nothing.pt") is None
    with pytest.raises(KeyError, match=r"nothing\.pt.*face_clip_encoder\.pt"):
        hub.get("nothing.pt")
