"""FaceCLIP Text Encode: both prompts by one node, sizes, and an identity for a part of the sampling."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from .graph import Graph

NEGATIVE = "blurry, low quality"


def same(found: list, expected: list) -> bool:
    """Whether two conditionings are equal bit for bit."""
    return len(found) == len(expected) and all(
        torch.equal(a, b)
        and x.keys() == y.keys()
        and all(torch.equal(x[k], y[k]) if isinstance(x[k], torch.Tensor) else x[k] == y[k] for k in x)
        for (a, x), (b, y) in zip(found, expected, strict=True)
    )


def test_one_node_gives_both_prompts_as_two_did(run: Any, encoder: Any, identity: Any) -> None:
    words: dict[str, Any] = {"encoder": encoder, "width": 128, "height": 128}
    both = run("FaceCLIPTextEncode", prompt="a man", identity=identity, negative_prompt=NEGATIVE, **words)
    alone = run("FaceCLIPTextEncode", prompt="a man", identity=identity, **words)[0]
    negative = run("FaceCLIPTextEncode", prompt=NEGATIVE, **words)[0]
    assert same(both[0], alone) and same(both[1], negative)


def test_a_graph_from_before_the_negative_prompt_gives_what_it_gave(pack: dict, encoder: Any, identity: Any, prompt: Any) -> None:
    node = pack["FaceCLIPTextEncode"]
    with torch.inference_mode():  # as the API sends it: without what has been added since
        output = node.execute(encoder=encoder, prompt="a man", strength=1.0, width=128, height=128, long_prompts="cut")
    assert same(output.result[0], prompt("a man")) and same(output.result[1], prompt(""))


def test_no_size_is_the_size_of_the_picture(prompt: Any, identity: Any, model: Any, sample: Any) -> None:
    told, untold = (prompt("a man", identity, width=size, height=size) for size in (128, 0))
    assert told[0][1]["width"] == 128 and "width" not in untold[0][1]
    assert torch.equal(sample(model, told, prompt("")), sample(model, untold, prompt("", width=0, height=0)))


def test_half_a_size_is_refused(prompt: Any) -> None:
    with pytest.raises(ValueError, match="width is 864 and height is 0: give both, or 0 for both"):
        prompt("a man", width=864, height=0)


@pytest.mark.parametrize(
    ("widgets", "parts"),
    [
        ({"start_percent": 0.2}, [(0.0, 0.2, None), (0.2, 1.0, 1.0)]),
        ({"end_percent": 0.8, "strength": 0.7}, [(0.0, 0.8, 0.7), (0.8, 1.0, None)]),
        ({"strength_schedule": "0:0.4, 0.3:1"}, [(0.0, 0.3, 0.4), (0.3, 1.0, 1.0)]),
    ],
)
def test_an_identity_for_a_part_is_the_graph_of_core_nodes_bit_for_bit(
    widgets: dict, parts: list, core: Any, prompt: Any, identity: Any, model: Any, sample: Any
) -> None:
    by_hand: list = []
    for start, end, strength in parts:
        text = prompt("a man") if strength is None else prompt("a man", identity, strength=strength)
        (ranged,) = core.ConditioningSetTimestepRange().set_range(text, start, end)
        (by_hand,) = core.ConditioningCombine().combine(by_hand, ranged) if by_hand else (ranged,)
    found = prompt("a man", identity, **widgets)
    assert same(found, by_hand)
    made = sample(model, found, prompt(""))
    assert torch.equal(made, sample(model, by_hand, prompt("")))
    assert not torch.equal(made, sample(model, prompt("a man", identity), prompt("")))


def test_a_part_without_an_identity_is_the_prompt_alone(prompt: Any) -> None:
    assert same(prompt("a man", start_percent=0.3), prompt("a man"))


@pytest.fixture
def said_in(pack: dict, encoder: Any, pack_module: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`said_in(graph, **inputs)`: what Text Encode, the node "text" of a graph, has written on it."""
    import sys

    from comfy_execution.utils import CurrentNodeContext

    status = sys.modules[f"{pack_module.__name__}.nodes.status"]
    written: list[str] = []
    draw = status.draw_words
    monkeypatch.setattr(status, "draw_words", lambda text: written.append(text) or draw(text))

    def said(graph: dict[str, dict[str, Any]], **inputs: Any) -> str:
        from comfy_api.latest import io

        node = pack["FaceCLIPTextEncode"].PREPARE_CLASS_CLONE({io.Hidden.dynprompt: Graph({"text": {}, **graph})})
        widgets = {"prompt": "a man", "strength": 1.0, "width": 0, "height": 0, "long_prompts": "cut"}
        with CurrentNodeContext("prompt", "text"), torch.inference_mode():
            node.execute(**{"encoder": encoder, **widgets, **inputs})
        return written.pop() if written else ""

    yield said


def graph(slot: str = "positive", **latent: int) -> dict[str, dict[str, Any]]:
    """Text Encode at a sampler's socket, and a latent."""
    size = {"width": 128, "height": 128, "batch_size": 1, **latent}
    return {"latent": size, "sampler": {slot: ["text", 0], "latent_image": ["latent", 0], "model": ["unet", 0]}}


def test_a_forgotten_identity_is_said_and_a_negative_prompt_needs_none(said_in: Any, identity: Any) -> None:
    told = "No identity is connected: text alone."
    assert said_in({}) == said_in(graph()) == told
    assert said_in(graph("negative")) == ""
    assert said_in(graph(), identity=identity) == ""
    # Through nodes of the core: a mask on the way, and a ControlNet that takes and gives both.
    masked = {"mask": {"conditioning": ["text", 0]}, "sampler": {"negative": ["mask", 0]}}
    pose = {"pose": {"negative": ["text", 0], "positive": ["x", 0]}, "s": {"negative": ["pose", 1], "positive": ["pose", 0]}}
    assert said_in(masked) == said_in(pose) == ""


def test_a_face_that_is_none_is_said(said_in: Any, run: Any, encoder: Any, crops: torch.Tensor) -> None:
    black = torch.zeros_like(crops[:1])
    nobody = run("FaceCLIPEncodeIdentity", encoder=encoder, faces=black)[0]
    assert said_in(graph(), identity=nobody) == "There is no face in the identity: text alone."
    some = run("FaceCLIPEncodeIdentity", encoder=encoder, faces=torch.cat([crops[:1], black]), combine="batch")[0]
    assert said_in(graph(batch_size=2), identity=some) == "1 of 2 people have no face: text alone for them."


def test_a_size_that_is_not_the_latents_is_said(said_in: Any, identity: Any) -> None:
    told = said_in(graph(width=512, height=512), identity=identity, width=864, height=1152)
    assert told == "The prompt is for 864 x 1152, the latent is 512 x 512. Set both alike, or width and height here to 0."
    assert said_in(graph(), identity=identity, width=128, height=128) == ""


def test_people_that_do_not_fit_the_batch_are_said(said_in: Any, run: Any, encoder: Any, crops: torch.Tensor) -> None:
    people = run("FaceCLIPEncodeIdentity", encoder=encoder, faces=crops, combine="batch")[0]
    assert said_in(graph(), identity=people) == "3 people and a batch of 1: set batch_size of the latent to 3."
    assert said_in(graph(batch_size=3), identity=people) == ""


def test_a_unet_of_another_size_is_refused_before_the_sampler(said_in: Any, identity: Any, model_folder: Any) -> None:
    mini = Path(__file__).resolve().parents[2] / "models" / "faceclip" / "faceclip_mini_unet.safetensors"
    weights = load_file(mini)
    wide = {k: torch.cat([t, t[:, :16]], 1) if "attn2.to_k" in k else t for k, t in weights.items()}
    save_file(wide, model_folder("diffusion_models") / "wide.safetensors")
    with pytest.raises(ValueError, match=r"conditioning is 80 wide, and wide.safetensors wants 96.*belong together"):
        said_in({**graph(), "unet": {"model": ["loader", 0]}, "loader": {"unet_name": "wide.safetensors"}}, identity=identity)
    assert said_in({**graph(), "unet": {"unet_name": mini.name}}, identity=identity) == ""
    assert said_in({**graph(), "unet": {"unet_name": "gone.safetensors"}}, identity=identity) == ""


def test_weights_of_photos_move_the_average(run: Any, encoder: Any, crops: torch.Tensor) -> None:
    def average(weights: str) -> Any:
        return run("FaceCLIPEncodeIdentity", encoder=encoder, faces=crops, combine="average", weights=weights)[0]

    alone = run("FaceCLIPEncodeIdentity", encoder=encoder, faces=crops[1:2])[0]
    assert torch.allclose(average("0, 1, 0").patch_tokens, alone.patch_tokens, atol=1e-4)
    assert torch.allclose(average("1 1 1").patch_tokens, average("").patch_tokens, atol=1e-4)
    assert torch.allclose(average("2, 2, 1").class_token, average("1, 1, 0.5").class_token, atol=1e-5)
    assert not torch.allclose(average("1, 1, 0.5").patch_tokens, average("").patch_tokens, atol=1e-3)


@pytest.mark.parametrize(
    ("weights", "combine", "told"),
    [
        ("1, much, 1", "average", "Write a number for each photo"),
        ("1, 1", "average", "2 weights .* for 3 faces"),
        ("1, 1, 1", "batch", "set combine to average"),
        ("0, 0, 0", "average", "not all of them 0"),
        ("1, -1, 1", "average", "none may be below 0"),
        ("nan, 1, 1", "average", "none may be below 0"),
    ],
)
def test_weights_that_fit_nothing_are_refused(
    weights: str, combine: str, told: str, run: Any, encoder: Any, crops: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match=told):
        run("FaceCLIPEncodeIdentity", encoder=encoder, faces=crops, combine=combine, weights=weights)
