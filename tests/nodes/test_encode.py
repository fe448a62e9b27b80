"""Load FaceCLIP Encoder, Encode Identity, FaceCLIP Text Encode."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / "models" / "faceclip" / "faceclip_mini_encoder.safetensors"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _encode_all(run: Any, encoder: Any, crops: torch.Tensor) -> list:
    identity = run("FaceCLIPEncodeIdentity", encoder=encoder, faces=crops)[0]
    return run("FaceCLIPTextEncode", encoder=encoder, prompt="a man on a beach", identity=identity)[0][0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_runs_on_the_cpu_and_agrees_with_fp32(dtype: str, run: Any, encoder: Any, crops: torch.Tensor) -> None:
    loaded = run("FaceCLIPEncoderLoader", encoder_name=MINI.name, dtype=dtype)[0]
    assert loaded.dtype == DTYPES[dtype]
    embeddings, options = _encode_all(run, loaded, crops)
    expected, expected_options = _encode_all(run, encoder, crops)
    # The mini weights are exact in bf16 and fp16, so only what the dtype itself rounds would show.
    assert embeddings.dtype == torch.float32 and _relative(embeddings, expected) < 1e-3
    assert _relative(options["pooled_output"], expected_options["pooled_output"]) < 1e-3


def test_the_default_keeps_bf16_and_else_does_as_comfyui_does(run: Any, model_folder: Any, encoder: Any) -> None:
    import comfy.model_management as management

    assert run("FaceCLIPEncoderLoader", encoder_name=MINI.name)[0].dtype == torch.bfloat16  # as the released file
    weights = {name: tensor.float() for name, tensor in encoder.patcher.model.encoder.state_dict().items()}
    torch.save(weights, model_folder("faceclip") / "fp32.pt")
    loaded = run("FaceCLIPEncoderLoader", encoder_name="fp32.pt")[0]
    assert loaded.dtype == management.text_encoder_dtype(management.text_encoder_device())


def test_comfyui_can_unload_the_encoder_and_counts_a_shared_face_tower_once(run: Any, crops: torch.Tensor) -> None:
    import comfy.model_management as management

    loaded = run("FaceCLIPEncoderLoader", encoder_name=MINI.name, dtype="bf16")[0]
    first = _encode_all(run, loaded, crops)[0]
    assert any(held.model is loaded.patcher for held in management.current_loaded_models)
    assert abs(loaded.patcher.model_size() - MINI.stat().st_size) < 0.02 * MINI.stat().st_size
    management.unload_all_models()
    assert torch.equal(_encode_all(run, loaded, crops)[0], first)


def test_weights_that_comfyui_leaves_offloaded_are_moved_as_they_are_used(encoder: Any, identity: Any) -> None:
    """Activations on the meta device stand for those on a GPU: an operation
    that met a weight left on the CPU would fail."""
    meta = torch.device("meta")
    with pytest.raises(RuntimeError):
        torch.zeros(2, device=meta) + torch.zeros(2)
    network = encoder.patcher.model.encoder
    class_token, patch_tokens = network.face_towers[0](torch.zeros(2, 3, 448, 448, device=meta))
    present = torch.ones(2, dtype=torch.bool, device=meta)
    people = type(identity)(class_token[:, None], patch_tokens[:, None], present, identity.signature)
    outputs = network(torch.zeros(2, 77, dtype=torch.long, device=meta), people)
    assert {name: tuple(output.fused.shape) for name, output in outputs.items()} == {"l": (2, 77, 32), "g": (2, 77, 48)}
    assert all(output.fused.device == output.pooled.device == meta for output in outputs.values())


def test_the_encoder_equals_the_library_alone(run: Any, encoder: Any, crops: torch.Tensor, pack_module: Any) -> None:
    import sys

    library = sys.modules[f"{pack_module.__name__}.faceclip"]
    alone = library.FaceCLIPEncoder.from_file(MINI)
    expected = alone.encode(["a man on a beach"], alone.encode_faces(crops[:1].movedim(-1, 1)))
    embeddings, options = _encode_all(run, encoder, crops)
    assert _relative(embeddings, expected.embeddings) < 1e-5
    assert _relative(options["pooled_output"], expected.pooled) < 1e-5


def test_strength_zero_is_exactly_the_prompt_without_a_face(prompt: Any, identity: Any) -> None:
    without = prompt("a man on a beach")[0]
    zero = prompt("a man on a beach", identity, strength=0.0)[0]
    assert torch.equal(zero[0], without[0]) and torch.equal(zero[1]["pooled_output"], without[1]["pooled_output"])


def test_strength_interpolates_and_goes_a_little_beyond(prompt: Any, identity: Any) -> None:
    none, half, full, more = (prompt("a man", identity, strength=s)[0][0] for s in (0.0, 0.5, 1.0, 1.25))
    assert torch.allclose(half, (none + full) / 2, atol=1e-5)
    assert torch.allclose(more, none + 1.25 * (full - none), atol=1e-5)
    assert not torch.allclose(full, none, atol=1e-2)


@pytest.mark.parametrize(("device", "passes"), [("cpu", 2), ("cuda", 1)])
def test_positive_and_negative_by_one_call_are_what_each_is_alone(
    device: str, passes: int, encoder: Any, identity: Any, prompt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = prompt("a (man:1.2)", identity, strength=0.7)[0], prompt("blurry")[0]
    monkeypatch.setattr(type(encoder), "at_work", lambda self, passes=1: nullcontext())
    monkeypatch.setattr(encoder, "patcher", SimpleNamespace(load_device=torch.device(device)))  # that it would compute on
    count: list[int] = []
    handle = encoder._encoder.register_forward_pre_hook(lambda module, inputs: count.append(len(inputs[0])))
    found = encoder.encode_with_negative("a (man:1.2)", "blurry", identity, 0.7)
    handle.remove()
    assert len(count) == passes and sum(count) == 3
    for conditioning, (embeddings, options) in zip(found, expected, strict=True):
        assert _relative(conditioning.embeddings, embeddings) < (1e-5 if device == "cuda" else 1e-12)
        assert _relative(conditioning.pooled, options["pooled_output"]) < (1e-5 if device == "cuda" else 1e-12)


def test_the_conditioning_tells_sdxl_the_size_as_the_release_does(prompt: Any, model: Any) -> None:
    embeddings, options = prompt("a man", width=192, height=320)[0]
    assert embeddings.shape == (1, 77, 80) and options["pooled_output"].shape == (1, 48)
    found = model.model.encode_adm(**options)[0, 48:]
    expected = model.model.embedder(torch.tensor([320.0, 192, 0, 0, 320, 192])).flatten()
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("combine", "rows"), [("first", 1), ("average", 1), ("batch", 3)])
def test_several_crops_become_one_person_or_several(
    combine: str, rows: int, run: Any, encoder: Any, crops: torch.Tensor, prompt: Any
) -> None:
    people = run("FaceCLIPEncodeIdentity", encoder=encoder, faces=crops, combine=combine)[0]
    embeddings, options = prompt("a man", people)[0]
    assert embeddings.shape == (rows, 77, 80) and options["pooled_output"].shape == (rows, 48)


def test_many_crops_are_encoded_like_each_alone(run: Any, encoder: Any, crops: torch.Tensor, identity: Any) -> None:
    people = run("FaceCLIPEncodeIdentity", encoder=encoder, faces=crops.repeat(4, 1, 1, 1), combine="batch")[0]
    assert len(people) == 12
    assert torch.allclose(people.patch_tokens[9], identity.patch_tokens[0], atol=1e-4)


def test_a_black_crop_in_a_batch_is_text_alone(run: Any, encoder: Any, crops: torch.Tensor, prompt: Any) -> None:
    mixed = torch.stack([crops[0], torch.zeros_like(crops[0])])
    people = run("FaceCLIPEncodeIdentity", encoder=encoder, faces=mixed, combine="batch")[0]
    assert people.present.tolist() == [True, False]
    rows = prompt("a man on a beach", people)[0][0]
    assert torch.allclose(rows[1:], prompt("a man on a beach")[0][0], atol=1e-5)
    assert not torch.allclose(rows[0], rows[1], atol=1e-2)


def _work(what: str, run: Any, encoder: Any, crops: torch.Tensor) -> None:
    if what == "load":
        run("FaceCLIPEncoderLoader", encoder_name=MINI.name)
    elif what == "faces":
        run("FaceCLIPEncodeIdentity", encoder=encoder, faces=crops.repeat(4, 1, 1, 1), combine="batch")
    else:
        run("FaceCLIPTextEncode", encoder=encoder, prompt="a man on a beach")


@pytest.mark.parametrize("what", ["load", "faces", "text"])
def test_the_bar_moves_from_layer_to_layer_and_is_full_at_the_end(
    what: str, bar: Any, run: Any, encoder: Any, crops: torch.Tensor, prompt: Any
) -> None:
    prompt("so that the blank face is there")
    bar.shown.clear()
    _work(what, run, encoder, crops)
    done, totals = zip(*bar.shown, strict=True)
    assert list(done) == list(range(1, totals[0] + 1)) and set(totals) == {totals[0]} and totals[0] > 5


@pytest.mark.parametrize("what", ["load", "faces", "text"])
def test_cancel_stops_at_the_next_layer_and_leaves_the_encoder_as_it_was(
    what: str, bar: Any, run: Any, encoder: Any, crops: torch.Tensor, prompt: Any
) -> None:
    import comfy.model_management as management

    before = prompt("a man on a beach")[0][0]
    bar.shown.clear()
    bar.cancel_at = 3
    with pytest.raises(management.InterruptProcessingException):
        _work(what, run, encoder, crops)
    assert len(bar.shown) == 3
    bar.cancel_at = 0
    assert torch.equal(prompt("a man on a beach")[0][0], before)


def test_long_prompts_are_cut_with_a_warning_or_chunked(prompt: Any, identity: Any, caplog: pytest.LogCaptureFixture) -> None:
    long = "a man on a beach " * 30 + "with a parrot"
    assert prompt(long, identity)[0][0].shape == (1, 77, 80)
    assert "this was cut off" in caplog.text and "with a parrot" in caplog.text
    assert prompt(long, identity, long_prompts="chunk")[0][0].shape == (1, 77 * 3, 80)


@pytest.mark.parametrize("text", ["", "\U0001f600\U0001f3d6\ufe0f", "word " * 10_000])
def test_odd_prompts_give_finite_conditioning(text: str, prompt: Any, identity: Any) -> None:
    embeddings, options = prompt(text, identity)[0]
    assert embeddings.shape == (1, 77, 80)
    assert embeddings.isfinite().all() and options["pooled_output"].isfinite().all()


def test_a_crop_of_another_size_is_refused_with_what_to_do(run: Any, encoder: Any) -> None:
    with pytest.raises(ValueError, match="Detect and align the photo first"):
        run("FaceCLIPEncodeIdentity", encoder=encoder, faces=torch.rand(1, 512, 512, 3))


@pytest.mark.parametrize("channels", [1, 4])
def test_crops_come_as_detect_faces_takes_them(channels: int, run: Any, encoder: Any, crops: torch.Tensor) -> None:
    opaque = torch.cat([crops[:1], torch.ones(1, 448, 448, 1)], dim=-1) if channels == 4 else crops[:1, ..., :1]
    same = crops[:1] if channels == 4 else crops[:1, ..., :1].expand(-1, -1, -1, 3)
    found, expected = (run("FaceCLIPEncodeIdentity", encoder=encoder, faces=faces)[0] for faces in (opaque, same))
    assert torch.allclose(found.patch_tokens, expected.patch_tokens, atol=1e-5)


def test_what_a_filter_leaves_beyond_0_and_1_is_cut_off(run: Any, encoder: Any, crops: torch.Tensor) -> None:
    found = run("FaceCLIPEncodeIdentity", encoder=encoder, faces=crops[:1] * 1.2 - 0.1)[0]
    expected = run("FaceCLIPEncodeIdentity", encoder=encoder, faces=(crops[:1] * 1.2 - 0.1).clamp(0, 1))[0]
    assert torch.equal(found.patch_tokens, expected.patch_tokens)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda crops: crops * 255, "values from 0 to 1; found 0 to 255"),
        (lambda crops: crops * 2 - 1, "found -1 to 1"),
        (lambda crops: crops * float("nan"), "NaN or infinity"),
        (lambda crops: crops[..., :2], r"1 \(grey\), 3 \(RGB\) or 4"),
    ],
)
def test_what_are_no_colours_is_refused(change: Any, told: str, run: Any, encoder: Any, crops: torch.Tensor) -> None:
    whole = torch.cat([torch.zeros(1, 1, 448, 3), torch.ones(1, 1, 448, 3), crops[:1, 2:]], dim=1)
    with pytest.raises(ValueError, match=told):
        run("FaceCLIPEncodeIdentity", encoder=encoder, faces=change(whole))


@pytest.mark.parametrize(
    ("node", "inputs", "told"),
    [
        ("FaceCLIPEncoderLoader", {"encoder_name": MINI.name, "dtype": "int4"}, "dtype is 'int4'. Choose one of: default, fp32"),
        ("FaceCLIPEncodeIdentity", {"combine": "sum"}, "combine is 'sum'. Choose one of: first, average, batch"),
        ("FaceCLIPTextEncode", {"prompt": "a man", "long_prompts": "fold"}, "choose 'cut' or 'chunk'"),
        ("FaceCLIPUNetLoader", {"unet_name": "faceclip_mini_unet.safetensors", "weight_dtype": "int4"}, "weight_dtype is 'int4'"),
        ("FaceCLIPFaceDetectorLoader", {"pack": "../../outside"}, "pack is '../../outside'. Choose one of: buffalo_l"),
        ("FaceCLIPFaceDetectorLoader", {"backend": "x"}, "no face detector called 'x'"),
        ("FaceCLIPFaceDetectorLoader", {"provider": "x"}, "provider is 'x'. Choose one of: auto, cuda"),
        ("FaceCLIPFaceSimilarity", {"judge": "x"}, "no judge called 'x'"),
    ],
)
def test_a_choice_that_is_none_is_refused(
    node: str, inputs: dict[str, Any], told: str, run: Any, encoder: Any, crops: torch.Tensor
) -> None:
    others = {
        "FaceCLIPEncodeIdentity": {"encoder": encoder, "faces": crops},
        "FaceCLIPTextEncode": {"encoder": encoder},
        "FaceCLIPFaceSimilarity": {"images": crops, "reference": crops},
    }
    with pytest.raises((ValueError, RuntimeError), match=told):
        run(node, **others.get(node, {}), **inputs)


@pytest.mark.parametrize("combine", ["first", "average", "batch"])
def test_an_empty_batch_is_refused(combine: str, run: Any, encoder: Any) -> None:
    with pytest.raises(ValueError, match="the batch is empty"):
        run("FaceCLIPEncodeIdentity", encoder=encoder, faces=torch.zeros(0, 448, 448, 3), combine=combine)


def test_an_identity_of_another_encoder_is_refused(run: Any, identity: Any, model_folder: Any) -> None:
    with safe_open(MINI, "pt") as file:
        metadata, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    changed = {name: tensor.flip(0).contiguous() if "qkv" in name else tensor for name, tensor in weights.items()}
    save_file(changed, model_folder("faceclip") / "other.safetensors", metadata)
    other = run("FaceCLIPEncoderLoader", encoder_name="other.safetensors")[0]
    with pytest.raises(ValueError, match="made by another encoder.*Encode the face again"):
        run("FaceCLIPTextEncode", encoder=other, prompt="a man", identity=identity)


def test_a_released_style_pt_file_loads_as_well(run: Any, encoder: Any, crops: torch.Tensor, model_folder: Any) -> None:
    with safe_open(MINI, "pt") as file:
        weights = {f"model.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tower = {n.replace("face_clip_l", "face_clip_g"): t for n, t in weights.items() if "face_clip_l.face_encoder." in n}
    torch.save({**weights, **tower}, model_folder("faceclip") / "face_clip_encoder.pt")
    loaded = run("FaceCLIPEncoderLoader", encoder_name="face_clip_encoder.pt", dtype="fp32")[0]
    assert torch.equal(_encode_all(run, loaded, crops)[0], _encode_all(run, encoder, crops)[0])


def test_a_unet_in_the_encoder_loader_is_sent_to_its_own(run: Any) -> None:
    with pytest.raises(ValueError, match="is not a FaceCLIP encoder.*Load FaceCLIP UNet"):
        run("FaceCLIPEncoderLoader", encoder_name="faceclip_mini_unet.safetensors")


def test_int8_is_an_option_for_cpus(run: Any, encoder: Any, crops: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.model_management as management

    loaded = run("FaceCLIPEncoderLoader", encoder_name=MINI.name, dtype="int8")[0]
    assert _relative(_encode_all(run, loaded, crops)[0], _encode_all(run, encoder, crops)[0]) < 0.04
    management.unload_all_models()
    assert _relative(_encode_all(run, loaded, crops)[0], _encode_all(run, encoder, crops)[0]) < 0.04
    assert loaded.patcher.model_size() < 0.95 * MINI.stat().st_size  # most of mini are embeddings, which stay in bf16
    monkeypatch.setattr(management, "text_encoder_device", lambda: torch.device("cuda", 0))
    with pytest.raises(ValueError, match="int8 is for computing on a CPU, and this ComfyUI computes text encoders on cuda:0"):
        run("FaceCLIPEncoderLoader", encoder_name=MINI.name, dtype="int8")
