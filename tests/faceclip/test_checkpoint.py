"""Encoder files: what users have must load, exactly, and what is no encoder must be told what it is."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from faceclip import FaceCLIPConfig, FaceCLIPEncoder
from faceclip.checkpoint import CheckpointError, load_encoder
from faceclip.convert import convert


def make(share: bool, preset: str = "tiny") -> FaceCLIPEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return FaceCLIPEncoder(FaceCLIPConfig.preset(preset), share_face_tower=share).eval()


def tensors(encoder: FaceCLIPEncoder) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in encoder.state_dict().items()}


def outputs(encoder: FaceCLIPEncoder) -> torch.Tensor:
    faces = torch.rand(1, 3, 448, 448, generator=torch.Generator().manual_seed(0))
    return encoder.encode(["a cat"], encoder.encode_faces(faces)).embeddings


def release(path, encoder: FaceCLIPEncoder, prefix: str = "model.") -> None:
    """As the release stores it: both towers in full, names with a prefix or without."""
    torch.save({prefix + name: tensor for name, tensor in tensors(encoder).items()}, path)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("prefix", ["model.", ""])
def test_the_released_format_loads_exactly_and_equal_towers_are_shared(tmp_path, share, prefix):
    encoder = make(share)
    release(tmp_path / "face_clip_encoder.pt", encoder, prefix)
    loaded = FaceCLIPEncoder.from_file(tmp_path / "face_clip_encoder.pt")
    assert len(loaded.face_towers) == (1 if share else 2)
    assert torch.equal(outputs(loaded), outputs(encoder))
    assert loaded.state_dict().keys() == encoder.state_dict().keys()


def test_scripts_that_load_an_encoder_by_its_old_name_still_do(tmp_path):
    encoder = make(True)
    release(tmp_path / "x.pt", encoder)
    assert torch.equal(outputs(load_encoder(tmp_path / "x.pt", torch.device("cpu"), torch.float32)), outputs(encoder))
    with pytest.raises(CheckpointError, match="There is no file"):
        load_encoder(tmp_path / "y.pt", torch.device("cpu"), torch.float32)


def test_a_shared_tower_is_one_piece_of_memory(tmp_path):
    release(tmp_path / "x.pt", make(share=True))
    loaded = FaceCLIPEncoder.from_file(tmp_path / "x.pt")
    left, right = (loaded.state_dict()[f"face_clip_{name}.face_encoder.blocks.0.mlp.fc1.weight"] for name in "lg")
    assert left.data_ptr() == right.data_ptr()


def test_towers_that_differ_in_one_value_are_kept_apart(tmp_path):
    state = tensors(make(share=True))
    state["face_clip_g.face_encoder.norm.bias"][3] += 1
    torch.save(state, tmp_path / "x.pt")
    loaded = FaceCLIPEncoder.from_file(tmp_path / "x.pt")
    assert len(loaded.face_towers) == 2
    convert(tmp_path / "x.pt", tmp_path / "y.safetensors", torch.float32)
    assert torch.equal(outputs(FaceCLIPEncoder.from_file(tmp_path / "y.safetensors")), outputs(loaded))


@pytest.mark.parametrize("name", ["l", "g"])
def test_either_branch_loads_alone(tmp_path, name):
    encoder = make(share=False)
    part = {key: tensor for key, tensor in tensors(encoder).items() if key.startswith(f"face_clip_{name}.")}
    safetensors.torch.save_file(part, tmp_path / "one.safetensors")
    loaded = FaceCLIPEncoder.from_file(tmp_path / "one.safetensors")
    assert list(loaded.branches) == [name]
    width = encoder.config.branches[name].width
    whole = outputs(encoder)
    assert torch.allclose(outputs(loaded), whole[..., :width] if name == "l" else whole[..., -width:], atol=1e-5)
    convert(tmp_path / "one.safetensors", tmp_path / "two.safetensors", torch.float32)
    assert torch.equal(outputs(FaceCLIPEncoder.from_file(tmp_path / "two.safetensors")), outputs(loaded))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_convert_keeps_every_value_and_stores_a_shared_tower_once(tmp_path, dtype):
    encoder = make(share=True)
    release(tmp_path / "x.pt", encoder)
    seen = []
    convert(tmp_path / "x.pt", tmp_path / "y.safetensors", dtype, lambda done, total: seen.append((done, total)))
    written = safetensors.torch.load_file(tmp_path / "y.safetensors")
    assert not any(name.startswith("face_clip_g.face_encoder.") for name in written)
    state = encoder.state_dict()
    for name, tensor in written.items():
        expected = state[name]
        assert torch.equal(tensor, expected.to(dtype) if expected.is_floating_point() else expected)
    assert seen[-1] == (2 * len(written), 2 * len(written))
    loaded = FaceCLIPEncoder.from_file(tmp_path / "y.safetensors", dtype=dtype)
    assert len(loaded.face_towers) == 1
    assert loaded.state_dict().keys() == encoder.state_dict().keys()


def test_convert_of_a_converted_file_changes_nothing(tmp_path):
    release(tmp_path / "x.pt", make(share=True))
    convert(tmp_path / "x.pt", tmp_path / "y.safetensors", torch.bfloat16)
    convert(tmp_path / "y.safetensors", tmp_path / "z.safetensors", torch.bfloat16)
    assert (tmp_path / "y.safetensors").read_bytes() == (tmp_path / "z.safetensors").read_bytes()


def test_the_configuration_travels_in_the_metadata(tmp_path):
    """Sizes that are no preset's, heads and activations that shapes cannot tell."""
    from dataclasses import replace

    base = FaceCLIPConfig.preset("mini").branches["l"]
    config = FaceCLIPConfig({"l": replace(base, text=replace(base.text, layers=1, heads=8, activation="gelu"))})
    encoder = FaceCLIPEncoder(config).eval()
    encoder.save(tmp_path / "own.safetensors", {"trained": "false"})
    loaded = FaceCLIPEncoder.from_file(tmp_path / "own.safetensors")
    assert loaded.config == config
    assert torch.equal(outputs(loaded), outputs(encoder))


def test_values_beyond_fp16_are_refused_not_made_infinite(tmp_path):
    state = tensors(make(share=True))
    state["face_clip_l.face_encoder.feature.1.running_var"][0] = 1e6
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="running_var has values beyond fp16"):
        convert(tmp_path / "x.pt", tmp_path / "y.safetensors", torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]
    with pytest.raises(CheckpointError, match="beyond fp16"):
        FaceCLIPEncoder.from_file(tmp_path / "x.pt", dtype=torch.float16)


def test_a_missing_tensor_an_unknown_one_and_a_wrong_shape_are_named(tmp_path):
    state = tensors(make(share=True))
    lacking = {name: tensor for name, tensor in state.items() if name != "face_clip_l.proj1.weight"}
    unknown = {**state, "face_clip_l.proj2.weight": torch.zeros(1)}
    misshapen = {**state, "face_clip_l.proj1.weight": torch.zeros(32, 17)}
    for content, message in (
        (lacking, "lacks 1 of .* tensors, among them face_clip_l.proj1.weight"),
        (unknown, "more than a FaceCLIP encoder: 1 tensors beside .*, among them face_clip_l.proj2.weight"),
        (misshapen, r"proj1.weight has shape \[32, 17\], expected \[32, 16\]"),
    ):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match=message):
            FaceCLIPEncoder.from_file(tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match=message):
            convert(tmp_path / "x.pt", tmp_path / "y.safetensors", torch.float32)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["down_blocks.0.resnets.0.conv1.weight", "up_blocks.0.x", "add_embedding.linear_1.weight"],
            "SDXL UNet. Load it with Load FaceCLIP UNet",
        ),
        (["image_proj.latents", "ip_adapter.1.to_k_ip.weight"], "InstantID"),
        (["text_model.encoder.layers.0.mlp.fc1.weight"], "CLIP text encoder"),
        (["lora_unet_x.lora_down.weight"], "LoRA"),
        (["something.else"], "unknown file.*something.else"),
    ],
)
def test_a_wrong_file_is_told_what_it_is(tmp_path, names, message):
    safetensors.torch.save_file({name: torch.zeros(1) for name in names}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=message):
        FaceCLIPEncoder.from_file(tmp_path / "x.safetensors")


def test_weights_small_arithmetic_exact_by_default_where_the_machine_is_slow_in_bf16(tmp_path, monkeypatch):
    encoder = make(share=True)
    encoder.save(tmp_path / "x.safetensors")
    monkeypatch.setattr("faceclip.ops.computes_natively", lambda dtype, device: False)
    slow = FaceCLIPEncoder.from_file(tmp_path / "x.safetensors", torch.device("cpu"), torch.bfloat16)
    monkeypatch.setattr("faceclip.ops.computes_natively", lambda dtype, device: True)
    fast = FaceCLIPEncoder.from_file(tmp_path / "x.safetensors", torch.device("cpu"), torch.bfloat16)
    assert (slow.compute_dtype, fast.compute_dtype) == (torch.float32, torch.bfloat16)
    assert {p.dtype for p in [*slow.parameters(), *fast.parameters()]} == {torch.bfloat16}
    reference = outputs(encoder)
    for loaded in (slow, fast):
        assert (outputs(loaded).float() - reference).norm() / reference.norm() < 2e-2
