"""FaceT5Encoder: batches, strength, identities from elsewhere, files,
and what it says when it is given the wrong thing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from faceclip import FaceCLIPConfig, FaceCLIPEncoder, FaceT5Encoder, Identity
from faceclip.checkpoint import CheckpointError
from faceclip.flux.convert import convert_facet5

from ...golden import golden_shapes, stand_in_weights


@pytest.fixture(scope="module")
def encoder(golden) -> FaceT5Encoder:
    return golden.encoder()


@pytest.fixture(scope="module")
def hidden(golden) -> torch.Tensor:
    return golden.outputs["t5_hidden"]


@pytest.fixture(scope="module")
def identity(golden, encoder) -> Identity:
    return encoder.encode_faces(golden.faces)


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).norm() / second.norm())


def test_a_row_does_not_depend_on_who_else_is_in_the_batch(encoder, hidden, identity):
    """The released code mixes people here: its rows move by 0.42 to 0.73 of their norm."""
    together = encoder.encode(hidden, identity)
    for row in range(len(hidden)):
        assert apart(encoder.encode(hidden[row : row + 1], identity[row])[0], together[row]) < 2e-6
    turned = encoder.encode(hidden.flip(0), identity[[4, 3, 2, 1, 0]]).flip(0)
    assert apart(turned, together) < 2e-6
    assert apart(together[0], together[1]) > 0.1


def test_one_prompt_for_several_people_and_one_person_for_several_prompts(encoder, hidden, identity):
    people = encoder.encode(hidden[:1], identity[[0, 1]])
    assert apart(people[1], encoder.encode(hidden[:1], identity[1])[0]) < 2e-6
    prompts = encoder.encode(hidden[:2], identity[0])
    assert apart(prompts[1], encoder.encode(hidden[1:2], identity[0])[0]) < 2e-6
    with pytest.raises(ValueError, match="2 prompts and 3 identities do not match"):
        encoder.encode(hidden[:2], identity[[0, 1, 2]])
    with pytest.raises(ValueError, match="holds no person"):
        encoder.encode(hidden[:2], identity[[]])


def test_strength_interpolates_between_the_black_face_and_the_person(encoder, hidden, identity):
    none, half, full, more = (encoder.encode(hidden[:1], identity[0], strength=s) for s in (0.0, 0.5, 1.0, 1.25))
    assert torch.equal(none, encoder.encode(hidden[:1]))
    assert apart(half, (none + full) / 2) < 1e-6
    assert apart(more, none + 1.25 * (full - none)) < 1e-6
    assert apart(full, none) > 1e-2


def faceclip_with_tower_of(facet5: FaceT5Encoder, dtype: torch.dtype = torch.float32) -> FaceCLIPEncoder:
    """A tiny FaceCLIP whose second branch's face tower is FaceT5's own, whose first one's is another."""
    encoder = FaceCLIPEncoder(FaceCLIPConfig.preset("tiny"), share_face_tower=False).eval()
    encoder.face_clip_g.face_encoder.load_state_dict(
        {name: t.to(dtype).to(t.dtype) for name, t in facet5.face_encoder.state_dict().items()}
    )
    return encoder


def test_an_identity_of_faceclip_serves_facet5_where_their_towers_are_equal(encoder, hidden, golden, identity, tmp_path):
    faceclip = faceclip_with_tower_of(encoder)
    faceclip.encode_faces(golden.faces).save(tmp_path / "person.safetensors")
    saved = Identity.load(tmp_path / "person.safetensors")
    assert apart(encoder.encode(hidden, saved), encoder.encode(hidden, identity)) < 2e-6
    # The release keeps FaceT5's tower in bf16: the same weights, rounded, are still the same tower.
    rounded = faceclip_with_tower_of(encoder, torch.bfloat16).encode_faces(golden.faces)
    assert apart(encoder.encode(hidden, rounded), encoder.encode(hidden, identity)) < 5e-2
    other = FaceCLIPEncoder(FaceCLIPConfig.preset("tiny")).eval().encode_faces(golden.faces)
    with pytest.raises(ValueError, match="made by another encoder.*Encode the face again"):
        encoder.encode(hidden, other)


def test_an_identity_of_facet5_serves_faceclip_where_their_towers_are_equal(encoder, golden, identity):
    faceclip = FaceCLIPEncoder(FaceCLIPConfig.preset("tiny").only("g")).eval()
    faceclip.face_clip_g.face_encoder.load_state_dict(encoder.face_encoder.state_dict())
    prompts = ["a man on a beach"]
    expected = faceclip.encode(prompts, faceclip.encode_faces(golden.faces)).embeddings
    assert apart(faceclip.encode(prompts, identity).embeddings, expected) < 2e-6


def test_without_a_class_head_an_identity_is_for_facet5_alone(encoder, golden, hidden, identity, tmp_path):
    weights = {name: t for name, t in encoder.state_dict().items() if "feature." not in name and "mask_token" not in name}
    save_file(weights, tmp_path / "small.safetensors")
    small = FaceT5Encoder.from_file(tmp_path / "small.safetensors")
    people = small.encode_faces(golden.faces)
    assert people.class_token.shape == (5, 1, 0)
    assert torch.equal(small.encode(hidden, people), encoder.encode(hidden, identity))
    people.save(tmp_path / "person.safetensors")
    loaded = Identity.load(tmp_path / "person.safetensors")
    mean = loaded[[0, 1]].average()
    blend = Identity.blend(loaded[0], identity[1], 0.5)  # one with a class token, one without
    assert torch.allclose(mean.patch_tokens, blend.patch_tokens, atol=1e-6)
    assert mean.class_token.shape == blend.class_token.shape == (1, 1, 0)
    assert len(Identity.cat([loaded, identity])) == 10
    assert encoder.encode(hidden[:1], blend).isfinite().all()
    faceclip = FaceCLIPEncoder(FaceCLIPConfig.preset("tiny").only("g")).eval()
    faceclip.face_clip_g.face_encoder.load_state_dict(encoder.face_encoder.state_dict())
    with pytest.raises(ValueError, match="without a class head.*faceclip convert --class-head"):
        faceclip.encode(["a man"], loaded[0])


def test_a_t5_of_another_width_and_other_lengths_are_refused(encoder):
    with pytest.raises(ValueError, match="width 128, and this FaceT5 takes 64.*t5xxl"):
        encoder.encode(torch.zeros(1, 512, 128))
    for shape in ((1, 256, 64), (512, 64), (0, 512, 64)):
        with pytest.raises(ValueError, match=r"must be \[prompts, 512, 64\], padding included"):
            encoder.encode(torch.zeros(shape))


def test_files_that_are_no_whole_facet5_are_told(golden, tmp_path):
    whole = stand_in_weights(golden_shapes("tiny"))
    for part, message in (
        ("encoder_2.t5_encoder.", "is not a whole FaceT5 encoder: it lacks"),
        ("encoder_2.fuser.", "FaceT5 encoder"),
        ("encoder_1.", "not a FaceT5 encoder.*CLIP text encoder"),
    ):
        torch.save({name: t for name, t in whole.items() if name.startswith(part)}, tmp_path / "part.pt")
        with pytest.raises(CheckpointError, match=message):
            FaceT5Encoder.from_file(tmp_path / "part.pt")
    name = "encoder_2.fuser.enc_output.bias"  # of no effect, but the file must be whole
    torch.save({n: t for n, t in whole.items() if n != name}, tmp_path / "less.pt")
    with pytest.raises(CheckpointError, match=f"lacks 1 of 358 tensors, among them {name}"):
        FaceT5Encoder.from_file(tmp_path / "less.pt")
    torch.save({**whole, name: torch.zeros(65)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=rf"{name} has shape \[65\], expected \[64\]"):
        FaceT5Encoder.from_file(tmp_path / "other.pt")
    torch.save({**whole, "encoder_2.more": torch.zeros(1)}, tmp_path / "more.pt")
    with pytest.raises(
        CheckpointError, match="holds more than a FaceT5 encoder: 1 tensors beside 358, among them encoder_2.more"
    ):
        FaceT5Encoder.from_file(tmp_path / "more.pt")


def test_a_file_of_an_unknown_size_is_told(tmp_path):
    weights = {"face_patch_proj.weight": torch.zeros(24, 8), "fuser.encoder.layers.0.norm1.weight": torch.zeros(24)}
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="of width 24.*known widths are 4096"):
        FaceT5Encoder.from_file(tmp_path / "other.safetensors")


def test_the_other_encoder_is_sent_to_its_own_loader(golden, tmp_path):

    FaceCLIPEncoder(FaceCLIPConfig.preset("tiny")).save(tmp_path / "faceclip.safetensors")
    with pytest.raises(CheckpointError, match="is not a FaceT5 encoder.*Load FaceCLIP Encoder"):
        FaceT5Encoder.from_file(tmp_path / "faceclip.safetensors")
    with pytest.raises(CheckpointError, match="is not a FaceCLIP encoder.*Load FaceT5"):
        FaceCLIPEncoder.from_file(golden.file)


def test_progress_and_weights_in_another_dtype(golden):
    seen = []
    encoder = FaceT5Encoder.from_file(
        golden.file, dtype=torch.bfloat16, compute_dtype=torch.float32, progress=lambda *a: seen.append(a)
    )
    assert seen[-1][0] == seen[-1][1] == len(encoder.state_dict())
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}
    embeddings = encoder.encode(golden.outputs["t5_hidden"], encoder.encode_faces(golden.faces))
    assert embeddings.dtype == torch.float32
    assert 1e-6 < apart(embeddings, golden.outputs["embeddings"]) < 2e-2


def test_from_json_of_something_else():
    from faceclip.flux.config import FaceT5Config

    config = FaceT5Config.preset("tiny")
    assert FaceT5Config.from_json(config.to_json()) == config
    assert replace(config, width=32) != config
    for text in ("{}", "[1]", "no json", '{"width": 3}'):
        with pytest.raises(ValueError, match="not the configuration of a FaceT5 encoder"):
            FaceT5Config.from_json(text)
    with pytest.raises(ValueError, match="no FaceT5 preset called 'sdxl'"):
        FaceT5Config.preset("sdxl")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('"layers": 2', '"layers": 100000', "told to have face layers 100000, found 2"),
        ('"layers": 6', '"layers": 100000', "told to have fusion layers 100000, found 6"),
        ('"heads": 4, "classes"', '"heads": 3, "classes"', "face.heads = 3, which does not divide the width 32"),
        ('"context": 512', '"context": -1', "own.context = '-1', which cannot be"),
    ],
)
def test_a_configuration_in_a_file_that_cannot_be_built_is_refused_at_once(before, after, told, golden, tmp_path):
    from faceclip.flux.config import FaceT5Config

    text = FaceT5Config.preset("tiny").to_json()
    assert before in text
    convert_facet5(golden.file, tmp_path / "own.safetensors", torch.float32)
    weights = load_file(tmp_path / "own.safetensors")
    save_file(weights, tmp_path / "own.safetensors", {"facet5_config": text.replace(before, after)})
    with pytest.raises(CheckpointError, match=told):
        FaceT5Encoder.from_file(tmp_path / "own.safetensors")
