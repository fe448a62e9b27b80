"""Where a run starts: InsightFace's and open_clip's files in each format
they come in, and files that are something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from faceclip import FaceCLIPConfig, FaceCLIPEncoder
from faceclip.config import FaceTowerConfig
from faceclip.model.branch import FaceCLIPBranch
from faceclip.model.face_tower import FaceTower
from faceclip.tensor_file import CheckpointError
from train.frozen.teacher import MINI_VISION, load_teacher
from train.frozen.towers import InitError, load_face_tower, load_text_tower, new_encoder

MINI = FaceCLIPConfig.preset("mini").only("l").branches["l"]


def branch() -> FaceCLIPBranch:
    torch.manual_seed(1)
    return FaceCLIPEncoder(FaceCLIPConfig({"l": MINI})).branches["l"]


def arcface_shapes(width: int, depth: int, classes: int = 512, patch: int = 9, patches: int = 144) -> dict[str, tuple[int, ...]]:
    """Every tensor of a state dict of arcface_torch's VisionTransformer
    (backbones/vit.py, layer norm, qkv without bias)."""

    def normalised(name: str, size: int) -> dict[str, tuple[int, ...]]:
        sizes = {f"{name}.{part}": (size,) for part in ("weight", "bias", "running_mean", "running_var")}
        return {**sizes, f"{name}.num_batches_tracked": ()}

    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, patches, width),
        "mask_token": (1, 1, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    for i in range(depth):
        block = {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,),
        }
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,), "feature.0.weight": (width, patches * width)}
    return {**shapes, **normalised("feature.1", width), "feature.2.weight": (classes, width), **normalised("feature.3", classes)}


def arcface(dtype: torch.dtype = torch.float32, **changes: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = arcface_shapes(**{"width": MINI.face.width, "depth": MINI.face.layers, "classes": MINI.face.classes, **changes})
    counters = {name: torch.tensor(7) for name, shape in shapes.items() if not shape}
    return {name: torch.rand(shape, generator=generator).to(dtype) for name, shape in shapes.items() if shape} | counters


def test_the_face_tower_has_the_names_and_shapes_of_vit_l_dp005_mask_005() -> None:
    with torch.device("meta"):
        own = FaceTower(FaceTowerConfig()).state_dict()
    expected = arcface_shapes(width=768, depth=24)
    assert expected["feature.0.weight"] == (768, 110592) and expected["blocks.23.attn.qkv.weight"] == (2304, 768)
    found = {name: tuple(tensor.shape) for name, tensor in own.items()}
    counters = {name for name, shape in expected.items() if not shape}
    assert {n: s for n, s in found.items() if n not in counters} == {n: s for n, s in expected.items() if n not in counters}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("form", ["model.pt", "module.", "run to go on from", "no mask token", "safetensors"])
def test_an_arcface_checkpoint_is_read_in_every_form_it_comes_in(form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    weights = arcface(dtype)
    if form == "no mask token":
        del weights["mask_token"]
    content: Any = weights
    if form == "module.":
        content = {f"module.{name}": tensor for name, tensor in weights.items()}
    elif form == "run to go on from":
        optimiser = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
        content = {"epoch": 3, "state_dict_backbone": weights, "state_dict_softmax_fc": {"weight": torch.zeros(9, 5)}}
        content |= {"state_optimizer": optimiser, "state_lr_scheduler": {"last_epoch": 3}}
    path = tmp_path / "model.pt"
    save_file(weights, path) if form == "safetensors" else torch.save(content, path)
    loaded, before = branch(), branch()
    load_face_tower(loaded, path)
    own = loaded.face_encoder.state_dict()
    for name, tensor in own.items():
        if name == "mask_token" and form == "no mask token":
            assert torch.equal(tensor, before.face_encoder.mask_token)
        elif not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, weights[name].float()), name


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (arcface(depth=MINI.face.layers + 1), r"it has 11 tensors that this one has not, among them blocks\.\d+\.attn"),
        (arcface() | {"blocks.0.attn.qkv.bias": torch.zeros(3 * MINI.face.width)}, r"among them blocks\.0\.attn\.qkv\.bias"),
        (arcface(width=2 * MINI.face.width), r"should have shape \[\d+.*\], found \[\d+"),
        (
            {"conv1.weight": torch.zeros(64, 3, 3, 3), "layer1.0.bn1.weight": torch.zeros(64)},
            r"found nothing of that name \(its tensors are conv1\.weight, layer1\.0\.bn1\.weight",
        ),
    ],
    ids=["deeper", "qkv with bias", "wider", "a ResNet"],
)
def test_another_face_model_is_refused_with_what_was_found(weights: dict, message: str, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "backbone.pth")
    with pytest.raises(InitError, match=message) as error:
        load_face_tower(branch(), tmp_path / "backbone.pth")
    assert "Use InsightFace's vit_l_dp005_mask_005" in str(error.value)


def clip(width: int = MINI.text.width, layers: int = MINI.text.layers, vision: Any = MINI_VISION) -> nn.Module:
    """open_clip's own class, small."""
    torch.manual_seed(2)
    return open_clip.CLIP(width, vision, {"width": width, "heads": 4, "layers": layers}, quick_gelu=True).eval()


class _OpenAI(nn.Module):
    """What OpenAI saved: a traced module, its parameters under these names."""

    def __init__(self, model: nn.Module):
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.register_buffer("context_length", torch.tensor(77))

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


CLIP_FORMS: dict[str, Callable[[dict[str, Tensor], Path], Any]] = {
    "open_clip_model.safetensors": lambda weights, path: save_file(weights, path),
    "open_clip_pytorch_model.bin": lambda weights, path: torch.save(weights, path),
    "a checkpoint of open_clip's training": lambda weights, path: torch.save(
        {
            "epoch": 32,
            "name": "run",
            "state_dict": {f"module.{name}": tensor for name, tensor in weights.items()},
            "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []},
        },
        path,
    ),
    "a compiled model": lambda weights, path: torch.save({f"_orig_mod.{name}": t for name, t in weights.items()}, path),
    "text tower in a module of its own": lambda weights, path: torch.save(
        {n if n.startswith(("visual.", "logit")) else f"text.{n}": t for n, t in weights.items()}, path
    ),
    "OpenAI's TorchScript archive": lambda weights, path: torch.jit.trace(_OpenAI(clip()), torch.zeros(1)).save(str(path)),
}


@pytest.mark.parametrize("form", CLIP_FORMS)
def test_a_clip_checkpoint_starts_both_the_text_tower_and_the_teacher(form: str, tmp_path: Path) -> None:
    model = clip()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = tmp_path / "clip"
    CLIP_FORMS[form](weights, path)
    loaded = branch()
    load_text_tower(loaded, path)
    ids = torch.randint(1, 49000, (2, 77), generator=torch.Generator().manual_seed(0))
    ids[:, 9] = 49407
    expected = model.encode_text(ids)  # pyright: ignore[reportCallIssue]
    hidden = loaded.encode_tokens(loaded.token_embedding(ids))
    torch.testing.assert_close(loaded.pool(hidden, ids) @ loaded.text_projection, expected, rtol=1e-4, atol=1e-5)
    teacher = load_teacher("mini", path, MINI.width)
    assert all(torch.equal(tensor, weights[f"visual.{name}"]) for name, tensor in teacher.visual.state_dict().items())


def _refused() -> Iterator[tuple[str, dict[str, Tensor], str]]:
    yield "smaller", clip(width=16).state_dict(), r"should have shape \[\d+, 32\], found \[\d+, 16\]. Use ViT-L-14-quickgelu"
    yield "deeper", clip(layers=MINI.text.layers + 1).state_dict(), r"12 tensors that .* transformer\.resblocks\."
    hugging_face = {"text_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(2), "text_projection.weight": torch.zeros(2)}
    yield "Hugging Face's", hugging_face, r"in Hugging Face's naming .* open_clip_pytorch_model\.bin"
    yield "a UNet", {"conv_in.weight": torch.zeros(2), "conv_in.bias": torch.zeros(2)}, r"its tensors are conv_in\.bias"


@pytest.mark.parametrize(
    ("kind", "weights", "message"), list(_refused()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_another_clip_is_refused_with_what_was_found(kind: str, weights: dict, message: str, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "clip.bin")
    with pytest.raises(InitError, match=message):
        load_text_tower(branch(), tmp_path / "clip.bin")


def test_a_teacher_of_another_depth_is_refused(tmp_path: Path) -> None:
    torch.save(clip(vision={**MINI_VISION, "layers": (1, 2, 1, 1)}).state_dict(), tmp_path / "clip.bin")
    with pytest.raises(InitError, match=r"tensors that this one has not, among them visual\.layer2"):
        load_teacher("mini", tmp_path / "clip.bin", MINI.width)


def test_a_damaged_archive_is_told_from_one_that_is_whole(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "ViT-L-14.pt", "w") as archive:
        archive.writestr("ViT-L-14/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="ViT-L-14.pt is damaged or incomplete"):
        load_text_tower(branch(), tmp_path / "ViT-L-14.pt")


def test_a_run_starts_from_the_files_it_is_given(pretrain_arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    from train.pretrain.config import PretrainConfig
    from train.run.command_line import parse

    torch.save(arcface(), tmp_path / "model.pt")
    torch.save(clip().state_dict(), tmp_path / "clip.pt")
    config = parse(PretrainConfig, pretrain_arguments(init_clip=tmp_path / "clip.pt", init_face=tmp_path / "model.pt"))
    started = new_encoder(config).branches["l"]
    assert torch.equal(started.face_encoder.pos_embed, arcface()["pos_embed"])
    assert torch.equal(started.text_projection, clip().state_dict()["text_projection"])
