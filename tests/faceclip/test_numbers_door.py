"""What is no number, or far too large a one, is refused where it comes
in: it would make black pictures without a word."""

import copy
import json
import logging

import pytest
import torch

from faceclip import FaceCLIPConfig, FaceCLIPEncoder, Identity
from faceclip.prompt import parse_weights, tokenize
from faceclip.tensor_file import CheckpointError, open_tensor_file, write_safetensors

NAN, INFINITE = float("nan"), float("inf")


@pytest.fixture(scope="module")
def encoder() -> FaceCLIPEncoder:
    torch.manual_seed(0)
    return FaceCLIPEncoder(FaceCLIPConfig.preset("tiny")).train(False).requires_grad_(False)


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    return torch.rand(2, 3, 448, 448, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def people(encoder, faces) -> Identity:
    return encoder.encode_faces(faces)


@pytest.mark.parametrize("value", [NAN, INFINITE, -INFINITE, 1.5])
def test_faces_of_no_colours_are_refused(encoder, faces, value):
    one = faces.clone()
    one[0, 0, 200, 200] = value
    with pytest.raises(ValueError, match=r"RGB in \[0, 1\]"):
        encoder.encode_faces(one)


@pytest.mark.parametrize("strength", [NAN, INFINITE])
def test_a_strength_that_is_no_number_is_refused(encoder, people, strength):
    with pytest.raises(ValueError, match=f"strength is {strength}"):
        encoder.encode(["a man"], people, strength=strength)


def test_conditioning_of_no_numbers_is_refused(encoder, people):
    damaged = copy.deepcopy(encoder)
    damaged.get_parameter("face_clip_l.token_embedding.weight")[2368] = NAN  # the word "cat"
    with pytest.raises(ValueError, match="not finite numbers and would make black pictures"):
        damaged.encode(["a cat"], people)
    assert damaged.encode(["a man"], people).embeddings.isfinite().all()


@pytest.mark.parametrize("weight", ["9" * 41, "1e39", "nan", "inf", "-infinity"])
def test_a_weight_that_is_no_number_is_refused(weight):
    with pytest.raises(ValueError, match="The weight of 'cat' in the prompt is"):
        tokenize(f"a (cat:{weight})", with_identity=False)


@pytest.mark.parametrize(
    "text", ["(:3)", "(a:1e-1) b", "(a:+1.2)", "(a: 1.2 )", "(a:.5e1)", "(a:b:1.5)", "(16:9)", "(a:)", "(a:1,2)", "(::2)"]
)
def test_weights_are_read_as_the_core_reads_them(comfy, text):
    import importlib

    sd1_clip = importlib.import_module("comfy.sd1_clip")
    expected = [(part, weight) for part, weight in sd1_clip.token_weights(text, 1.0) if part]
    found = parse_weights(text)
    assert [part for part, _ in found] == [part for part, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize(
    ("prompt", "names", "rest"),
    [
        ("embedding:negativeXL_D, blurry", ("negativeXL_D",), ", blurry"),
        ("blurry, embedding:sub/bad-hands", ("sub/bad-hands",), "blurry, "),
        ("ugly\nembedding:a embedding:b", ("a", "b"), "ugly\n "),
        ("(embedding:easynegative:1.2) blurry", ("easynegative",), " blurry"),
        ("an embedding: of wood", ("",), "an  of wood"),
        ("deembedding:x", (), "deembedding:x"),
    ],
)
def test_a_textual_inversion_is_left_out(prompt, names, rest):
    found = tokenize(prompt, with_identity=True)
    assert found.left_out == names
    assert torch.equal(found.input_ids, tokenize(rest, with_identity=True).input_ids)


def test_it_is_told_what_was_left_out(encoder, caplog):
    with caplog.at_level(logging.WARNING):
        encoder.encode(["embedding:negativeXL_D, blurry"])
    assert "embedding:negativeXL_D was left out" in caplog.text


CHANGES = {
    "a class token of NaN": (lambda t: {"class_token": t["class_token"] * NAN}, "its class_token holds values"),
    "infinite patch tokens": (lambda t: {"patch_tokens": t["patch_tokens"] / 0}, "its patch_tokens holds values"),
    "patch tokens of 1e30": (lambda t: {"patch_tokens": t["patch_tokens"] * 0 + 1e30}, "its patch_tokens holds values"),
    "a signature of NaN": (lambda t: {"signature": t["signature"] * NAN}, "its signature holds values"),
    "two people, patches of one": (lambda t: {"patch_tokens": t["patch_tokens"][:1]}, "do not fit each other"),
    "a class token without people": (lambda t: {"class_token": torch.tensor(1.0)}, "do not fit each other"),
    "who is there as numbers": (lambda t: {"present": t["present"].float()}, "`present` is bool"),
    "who is there for one": (lambda t: {"present": t["present"][:1]}, "do not fit each other"),
    "whole numbers": (lambda t: {"class_token": t["class_token"].int()}, "features are floating point"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_identity_is_refused_by_name(change, encoder, people, tmp_path):
    path = tmp_path / "person.safetensors"
    people.save(path)
    file = open_tensor_file(path)
    whole = {name: entry.read() for name, entry in file.entries.items()}
    changed, told = CHANGES[change]
    parts = {**whole, **{name: part.contiguous() for name, part in changed(whole).items()}}
    write_safetensors(path, parts, dict(file.metadata))
    with pytest.raises(CheckpointError, match=rf"person\.safetensors: This identity is damaged: .*{told}"):
        Identity.load(path)
    with pytest.raises(ValueError, match=told):
        encoder.encode(["a man"], Identity(**parts))
    with pytest.raises(ValueError, match=told):
        Identity(**parts).save(tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()


@pytest.mark.parametrize("part", ["class_token", "patch_tokens"])
def test_an_identity_of_other_widths_is_refused(encoder, people, part):
    parts = {name: getattr(people, name) for name in ("class_token", "patch_tokens", "present", "signature")}
    with pytest.raises(ValueError, match="does not fit the encoder: its class tokens are"):
        encoder.encode(["a man"], Identity(**{**parts, part: parts[part][..., :10]}))


@pytest.mark.parametrize(
    ("keys", "value", "told"),
    [
        (("l", "face", "layers"), 10**8, "face.layers"),
        (("l", "text", "heads"), 5, "text.heads = 5, which does not divide the width 32"),
        (("l", "text", "heads"), 0, "text.heads = '0'"),
        (("l", "text", "heads"), True, "text.heads = 'True'"),
        (("l", "text", "activation"), "evil", "text.activation = 'evil'"),
        (("l", "fusion", "face_attention"), ["deformable"], "fusion.face_attention"),
        (("l", "face", "patch"), 200, "face.patch 200 above face.image 112"),
        (("g", "fusion", "dropout"), "x", "fusion.dropout"),
        (("g", "fusion", "dropout"), NAN, "fusion.dropout"),
        (("g", "text", "width"), None, "text.width"),
        (("g", "text", "layers"), 2.5, "text.layers"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(keys, value, told):
    config = json.loads(FaceCLIPConfig.preset("tiny").to_json())
    inner = config
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    with pytest.raises(ValueError, match=told):
        FaceCLIPConfig.from_json(json.dumps(config))


def test_a_configuration_is_held_against_the_tensors_before_anything_is_built():
    tiny = FaceCLIPConfig.preset("tiny")
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in FaceCLIPEncoder(tiny).state_dict().items()}
    tiny.require_shapes(shapes)
    text = tiny.to_json().replace('"layers": 2', '"layers": 100000')
    with pytest.raises(ValueError, match="does not fit its tensors: branch l is told to have text layers 100000, found 2"):
        FaceCLIPConfig.from_json(text).require_shapes(shapes)
    text = tiny.to_json().replace('2, "heads": 4, "classes"', '100000, "heads": 4, "classes"')
    with pytest.raises(ValueError, match="branch l is told to have face layers 100000, found 2"):
        FaceCLIPConfig.from_json(text).require_shapes(shapes)
    with pytest.raises(ValueError, match=r"branches \['g'\], its tensors of \['g', 'l'\]"):
        tiny.only("g").require_shapes(shapes)


@pytest.mark.parametrize("text", ["[" * 100_000, "5", "{}", "null", '{"x": {"text": {}, "face": {}, "fusion": {}}}'])
def test_metadata_that_is_no_configuration_is_refused(text):
    with pytest.raises(ValueError, match="configuration"):
        FaceCLIPConfig.from_json(text)
