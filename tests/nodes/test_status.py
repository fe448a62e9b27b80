"""What nodes say on themselves: to the browser that queued them, and nowhere else."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file


@pytest.fixture
def heard(comfy: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, str]]]:
    """(text, node, client) of everything said, as by node 12 in a server that browser "b" uses."""
    import sys

    from comfy_execution.utils import CurrentNodeContext

    said: list[tuple[str, str, str]] = []
    server = types.SimpleNamespace(client_id="b", send_progress_text=lambda *what: said.append(what))
    module = types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=server))
    monkeypatch.setitem(sys.modules, "server", module)
    with CurrentNodeContext("prompt", "12"):
        yield said


@pytest.fixture
def written(pack_module: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of all pictures with words that nodes show."""
    import sys

    status = sys.modules[f"{pack_module.__name__}.nodes.status"]
    texts: list[str] = []

    def recorded(draw: Any) -> Any:
        return lambda *arguments: texts.append(arguments[-1]) or draw(*arguments)

    for name in ("draw_words", "draw_sheet"):
        monkeypatch.setattr(status, name, recorded(getattr(status, name)))
    return texts


def shown(output: Any) -> np.ndarray:
    """The one picture that a node shows on itself: uint8 [H, W, 3]."""
    import folder_paths

    (saved,) = (output.ui if isinstance(output.ui, dict) else output.ui.as_dict())["images"]
    assert saved["type"] == "temp"
    return np.asarray(Image.open(Path(folder_paths.get_temp_directory()) / saved["subfolder"] / saved["filename"]).convert("RGB"))


def test_text_encode_says_how_long_the_prompt_is(run: Any, encoder: Any, identity: Any, heard: list) -> None:
    run("FaceCLIPTextEncode", encoder=encoder, prompt="a man on a beach")
    run("FaceCLIPTextEncode", encoder=encoder, prompt="a man on a beach", identity=identity)
    # The prefix of a prompt with a face takes six of the tokens.
    assert heard == [("5 of 75 tokens", "12", "b"), ("5 of 69 tokens", "12", "b")]


def test_text_encode_says_what_was_cut_and_into_how_many_chunks(run: Any, encoder: Any, heard: list, written: list[str]) -> None:
    long = "red " * 76 + "hat"
    run("FaceCLIPTextEncode", encoder=encoder, prompt=long)
    run("FaceCLIPTextEncode", encoder=encoder, prompt=long, long_prompts="chunk")
    assert written[0].splitlines()[0] == "77 of 75 tokens: too long. Left out: red hat"
    assert len(written) == 2 and "tokens" not in written[1], "in chunks nothing is left out"
    assert [text for text, *_ in heard] == ["77 of 75 tokens: too long. Left out: red hat", "77 tokens in 2 chunks of 75"]


def test_text_encode_says_which_textual_inversion_it_left_out(run: Any, encoder: Any, heard: list, written: list[str]) -> None:
    run("FaceCLIPTextEncode", encoder=encoder, prompt="embedding:negativeXL_D, blurry")
    assert written[0].startswith(heard[0][0])
    assert [text for text, *_ in heard] == ["2 of 75 tokens\nNot supported and left out: embedding:negativeXL_D"]


def test_detect_faces_and_save_identity_say_what_they_report(run: Any, identity: Any, heard: list, written: list[str]) -> None:
    *_, report = run("FaceCLIPDetectFaces", image=torch.rand(1, 448, 448, 3))
    _, name = run("FaceCLIPSaveIdentity", identity=identity, name="said")
    assert [text for text, *_ in heard] == [report, f"Saved as {name}"] == written


def test_detect_faces_shows_photo_crop_and_report_on_itself(pack: dict, run: Any, astronaut: np.ndarray, written: list) -> None:
    photo = torch.from_numpy(astronaut).float()[None] / 255
    node = pack["FaceCLIPDetectFaces"]
    output = node.execute(photo, "largest", 0, 1, 0.5, "error")
    picture, preview = shown(output), output.result[1]
    assert written == [output.result[4]] and picture.shape[1] == 960
    photo_side, crop_side = picture[:476, :476].astype(float), picture[:476, 484:].astype(float)
    boxed = np.asarray(Image.fromarray((preview[0].numpy() * 255).round().astype(np.uint8)).resize((476, 476)), dtype=float)
    aligned = np.asarray(Image.fromarray((output.result[0][0].numpy() * 255).astype(np.uint8)).resize((476, 476)), dtype=float)
    assert np.abs(photo_side - boxed).mean() < 12 and np.abs(crop_side - aligned).mean() < 12
    assert picture[-20:].mean() < 40, "the report stands on dark paper"
    assert (picture[490:] > 200).any(), "and is light"


def test_of_many_photos_the_first_are_shown_and_the_others_counted(pack: dict, run: Any, written: list[str]) -> None:
    output = pack["FaceCLIPDetectFaces"].execute(torch.rand(15, 448, 448, 3), "largest", 0, 1, 0.5, "error")
    assert written[0].endswith("\n3 more are not shown.") and shown(output).shape[1] == 960


def test_what_a_node_shows_stays_with_what_it_gives(pack: dict, identity: Any) -> None:
    # The core keeps a node's `ui` beside its outputs and sends it again when the node need not run; so it is part of the output.
    output = pack["FaceCLIPSaveIdentity"].execute(identity, "shown")
    assert shown(output).std() > 10 and output.ui["text"][0].startswith("Saved as shown")


def test_the_loader_offers_to_convert_a_large_file_and_converts_nothing_itself(
    run: Any, pack_module: Any, model_folder: Any, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    mini = "faceclip_mini_encoder.safetensors"
    monkeypatch.setattr(sys.modules[f"{pack_module.__name__}.nodes.encode"], "_LARGE_FILE", 1_000_000)
    run("FaceCLIPEncoderLoader", encoder_name=mini)
    assert written == []  # it is in bf16 already
    folder = model_folder("faceclip")
    weights = load_file(Path(__file__).parents[2] / "models" / "faceclip" / mini)
    tower = "face_clip_l.face_encoder."
    copied = {name.replace(tower, "face_clip_g.face_encoder."): t for name, t in weights.items() if name.startswith(tower)}
    torch.save(
        {name: t.float() if t.is_floating_point() else t for name, t in {**weights, **copied}.items()}, folder / "large.pt"
    )
    run("FaceCLIPEncoderLoader", encoder_name="large.pt")
    (offer,) = written
    assert "faceclip convert large.pt large_bf16.safetensors --dtype bf16" in offer and "11.4 MB" in offer
    assert [path.name for path in folder.iterdir()] == ["large.pt"]


def test_a_comfyui_without_such_texts_is_left_alone(heard: list, run: Any, encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delattr(sys.modules["server"].PromptServer.instance, "send_progress_text")
    run("FaceCLIPTextEncode", encoder=encoder, prompt="a man")
    assert heard == []
