"""UNets as trainers, savers and downloads leave them: loaded right, or told what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

MINI = Path(__file__).parents[2] / "models" / "faceclip" / "faceclip_mini_unet.safetensors"


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return load_file(MINI)


def loaded(run: Any, name: str) -> dict[str, torch.Tensor]:
    return run("FaceCLIPUNetLoader", unet_name=name)[0].model.diffusion_model.state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], tensor) for name, tensor in second.items())


@pytest.mark.parametrize("prefix", ["unet.", "module.", "_orig_mod.", "model.", "diffusion_model.", "module.unet._orig_mod."])
def test_names_that_a_trainer_put_something_before(prefix: str, weights: dict, run: Any, model_folder: Any) -> None:
    save_file({f"{prefix}{name}": t for name, t in weights.items()}, model_folder("diffusion_models") / "u.safetensors")
    assert same(loaded(run, "u.safetensors"), loaded(run, MINI.name))


@pytest.mark.parametrize("key", ["unet", "ema", "model_state", "state_dict"])
def test_a_trainers_checkpoint(key: str, weights: dict, run: Any, model_folder: Any) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}}
    torch.save({key: weights, "step": 3, "optimizer": optimizer}, model_folder("diffusion_models") / "u.pt")
    assert same(loaded(run, "u.pt"), loaded(run, MINI.name))


def test_of_averaged_weights_and_others_the_averaged_are_taken(
    weights: dict, run: Any, model_folder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    others = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    torch.save({"unet": others, "ema": weights}, model_folder("diffusion_models") / "u.pt")
    assert same(loaded(run, "u.pt"), loaded(run, MINI.name))
    assert "several UNets; the averaged weights (ema.) are taken" in caplog.text
    torch.save({"student": others, "teacher": weights}, model_folder("diffusion_models") / "u.pt")
    with pytest.raises(ValueError, match=r"several SDXL UNets, under the names 'student\.', 'teacher\.'"):
        loaded(run, "u.pt")


def test_a_torch_file_that_was_renamed(weights: dict, run: Any, model_folder: Any) -> None:
    torch.save(weights, model_folder("diffusion_models") / "u.safetensors")
    assert same(loaded(run, "u.safetensors"), loaded(run, MINI.name))


def test_a_counter_in_a_rare_number_format(weights: dict, run: Any, model_folder: Any) -> None:
    save_file({**weights, "num_updates": torch.zeros(1, dtype=torch.uint64)}, model_folder("diffusion_models") / "u.safetensors")
    assert same(loaded(run, "u.safetensors"), loaded(run, MINI.name))


def write_parts(weights: dict[str, torch.Tensor], folder: Path) -> list[Path]:
    names = sorted(weights)
    parts = [folder / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for path, part in zip(parts, (names[:300], names[300:]), strict=True):
        save_file({name: weights[name] for name in part}, path)
    places = {name: parts[name not in names[:300]].name for name in names}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return parts


def test_a_unet_in_parts_is_loaded_whole_or_told_which_are_missing(weights: dict, run: Any, model_folder: Any) -> None:
    first, second = write_parts(weights, model_folder("diffusion_models"))
    assert same(loaded(run, second.name), loaded(run, MINI.name))
    second.unlink()
    with pytest.raises(ValueError, match="is one of 2 parts of a model, which has also .*00002-of-00002"):
        loaded(run, first.name)


LACKING = [
    "conv_out.",
    "mid_block.",
    "up_blocks.1.",
    "up_blocks.0.attentions.",
    "time_embedding.linear_2.",
    "down_blocks.1.resnets.0.",
]


@pytest.mark.parametrize("known_to_core", [False, True])
@pytest.mark.parametrize("lacking", LACKING)
@pytest.mark.parametrize("naming", ["diffusers", "core"])
def test_a_unet_that_lacks_a_part_is_refused_at_any_size(
    naming: str, lacking: str, known_to_core: bool, weights: dict, run: Any, pack_module: Any, model_folder: Any, monkeypatch: Any
) -> None:
    import sys

    import comfy.utils

    unet_file = sys.modules[f"{pack_module.__name__}.nodes.unet_file"]
    if known_to_core:  # as at SDXL's own size
        monkeypatch.setattr(unet_file, "_core_knows", lambda weights: True)
    gone = {name for name in weights if lacking in name}
    whole = weights
    if naming == "core":
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        names = comfy.utils.unet_to_diffusers(unet_file.diffusers_layout(shapes))
        whole, gone = {names[name]: tensor for name, tensor in weights.items()}, {names[name] for name in gone}
    part = {name: tensor for name, tensor in whole.items() if name not in gone}
    assert gone and part
    save_file(part, model_folder("diffusion_models") / "part.safetensors")
    with pytest.raises(ValueError, match="not a whole SDXL UNet|has no SDXL UNet in it"):
        loaded(run, "part.safetensors")


def test_a_tensor_of_another_shape_is_named(weights: dict, run: Any, model_folder: Any) -> None:
    changed = {**weights, "conv_out.weight": torch.zeros(5, 32, 3, 3)}
    save_file(changed, model_folder("diffusion_models") / "u.safetensors")
    with pytest.raises(ValueError, match=r"u\.safetensors does not fit an SDXL UNet: .*out\.2\.weight"):
        loaded(run, "u.safetensors")
