"""What `faceclip convert` makes of `face_t5_encoder.pt` and of `dit.pt`."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from faceclip import FaceT5Encoder
from faceclip.checkpoint import CheckpointError
from faceclip.cli import main
from faceclip.flux.convert import convert_facet5, convert_transformer
from faceclip.flux.transformer import in_diffusers_form
from faceclip.tensor_file import open_tensor_file


def tiny_transformer(**sizes):
    from diffusers import FluxTransformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FluxTransformer2DModel(
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=64,
            pooled_projection_dim=48,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
            **sizes,
        ).eval()


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    """As released: a torch file of diffusers' names without a prefix, whose tensors carry Python attributes."""
    weights = tiny_transformer().state_dict()
    for tensor in weights.values():
        tensor.some_attribute = True
    path = tmp_path_factory.mktemp("dit") / "dit.pt"
    torch.save(weights, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_facet5s_own_part_computes_the_same_without_its_dead_weights(golden, dtype, tmp_path):
    seen = []
    convert_facet5(golden.file, tmp_path / "own.safetensors", dtype, lambda *a: seen.append(a))
    assert seen[-1][0] == seen[-1][1]
    own = FaceT5Encoder.from_file(tmp_path / "own.safetensors", dtype=dtype, compute_dtype=torch.float32)
    whole = FaceT5Encoder.from_file(golden.file, dtype=dtype, compute_dtype=torch.float32)
    hidden = golden.outputs["t5_hidden"]
    identities = [encoder.encode_faces(golden.faces) for encoder in (own, whole)]
    assert torch.equal(own.encode(hidden, identities[0]), whole.encode(hidden, identities[1]))
    with safe_open(tmp_path / "own.safetensors", "pt") as file:
        names = set(file.keys())
        assert file.metadata()["format"] == "facet5_encoder"
    assert not [n for n in names if "t5_encoder" in n or "enc_output" in n or "feature." in n or "layers.5.self_attn.value" in n]
    convert_facet5(tmp_path / "own.safetensors", tmp_path / "again.safetensors", dtype)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "own.safetensors").read_bytes()


def test_t5_and_clip_come_out_on_request_in_the_cores_names(golden, tmp_path, capsys):
    out = [tmp_path / f"{name}.safetensors" for name in ("own", "t5xxl", "clip_l")]
    arguments = ["convert", str(golden.file), str(out[0]), "--dtype", "fp32", "--class-head"]
    assert main([*arguments, "--t5xxl", str(out[1]), "--clip-l", str(out[2])]) == 0
    told = capsys.readouterr().out
    assert "FaceT5 itself, with its class head" in told and "T5 in the core's names" in told and "CLIP-L in the core's" in told
    from transformers import T5Config, T5EncoderModel

    config = T5Config(d_model=64, d_kv=8, d_ff=96, num_heads=4, num_layers=2, feed_forward_proj="gated-gelu", vocab_size=32128)
    t5 = T5EncoderModel(config).eval()
    missing, unknown = t5.load_state_dict(load_file(out[1]), strict=False)
    assert set(missing) <= {"encoder.embed_tokens.weight"} and not unknown
    with torch.no_grad():
        hidden = t5(golden.outputs["input_ids_t5"].long()).last_hidden_state
    error = (hidden - golden.outputs["t5_hidden"]).norm() / golden.outputs["t5_hidden"].norm()
    assert error < 5e-6
    assert load_file(out[2])["text_model.final_layer_norm.weight"].shape == (48,)
    people = FaceT5Encoder.from_file(out[0]).encode_faces(golden.faces)
    assert people.class_token.shape == (5, 1, 16)


def test_the_transformer_comes_out_in_the_cores_form_and_back(dit, tmp_path):
    convert_transformer(dit, tmp_path / "dit.safetensors", torch.float32)
    written = load_file(tmp_path / "dit.safetensors")
    before = tiny_transformer().state_dict()
    assert "double_blocks.1.img_attn.qkv.weight" in written and "single_blocks.2.linear1.bias" in written
    assert sum(t.numel() for t in written.values()) == sum(t.numel() for t in before.values())
    back = in_diffusers_form(open_tensor_file(tmp_path / "dit.safetensors").entries, "dit")
    assert back.keys() == before.keys()
    for name, entry in back.items():
        assert entry.shape == tuple(before[name].shape)
        assert torch.equal(entry.read(), before[name]), name
    convert_transformer(tmp_path / "dit.safetensors", tmp_path / "small.safetensors", torch.float8_e4m3fn)
    assert {t.dtype for t in load_file(tmp_path / "small.safetensors").values()} == {torch.float8_e4m3fn}


def test_a_part_of_a_transformer_is_told(dit, tmp_path):
    weights = torch.load(dit)
    torch.save({n: t for n, t in weights.items() if n != "transformer_blocks.0.attn.to_k.bias"}, tmp_path / "less.pt")
    with pytest.raises(CheckpointError, match="lacks 1 of .* them transformer_blocks.0.attn.to_k.bias.*dit.pt again"):
        convert_transformer(tmp_path / "less.pt", tmp_path / "out.safetensors", torch.bfloat16)
    torch.save({**weights, "controlnet_x.weight": torch.zeros(1)}, tmp_path / "more.pt")
    with pytest.raises(CheckpointError, match="more than a FLUX.1-dev transformer: 1 tensors beside .*, among them controlnet_x"):
        convert_transformer(tmp_path / "more.pt", tmp_path / "out.safetensors", torch.bfloat16)


def test_a_block_of_an_absurd_number_takes_no_time(dit, tmp_path):
    torch.save({**torch.load(dit), "transformer_blocks.999999999.attn.to_k.bias": torch.zeros(1)}, tmp_path / "more.pt")
    with pytest.raises(CheckpointError, match="not a whole FLUX.1-dev transformer"):
        convert_transformer(tmp_path / "more.pt", tmp_path / "out.safetensors", torch.bfloat16)


def test_values_beyond_fp8_are_refused_not_made_nan(dit, tmp_path):
    weights = torch.load(dit)
    weights["proj_out.bias"][0] = 1000
    torch.save(weights, tmp_path / "large.pt")
    with pytest.raises(CheckpointError, match="final_layer.linear.bias has values beyond fp8's range .up to 1e.03"):
        convert_transformer(tmp_path / "large.pt", tmp_path / "out.safetensors", torch.float8_e4m3fn)
    assert not (tmp_path / "out.safetensors").exists()


def test_the_command_line_says_what_does_not_fit(golden, dit, tmp_path, capsys):
    out, other = str(tmp_path / "out.safetensors"), str(tmp_path / "t5.safetensors")
    assert main(["convert", str(dit), out, "--dtype", "fp8"]) == 0
    assert "in fp8" in (told := capsys.readouterr().out) and "for Load Diffusion Model" in told
    own = str(tmp_path / "own.safetensors")
    assert main(["convert", str(golden.file), own]) == 0
    for arguments, message in (
        ([str(dit), out, "--t5xxl", other], "are for face_t5_encoder.pt"),
        ([str(golden.file), out, "--t5xxl", out], "have the same name"),
        ([str(golden.file), out, "--dtype", "fp8"], "fp8 is for the FLUX transformer"),
        ([own, out, "--t5xxl", other], "FaceT5's own part alone: t5xxl can be had of face_t5_encoder.pt"),
        ([own, out, "--class-head"], "has no class head"),
    ):
        assert main(["convert", *arguments]) == 2
        assert message in capsys.readouterr().err
