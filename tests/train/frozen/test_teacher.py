"""The frozen CLIP: picture and caption become what open_clip makes of them, and presets name its activation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transform import image_transform
from PIL import Image

from faceclip import FaceCLIPConfig, FaceCLIPEncoder
from train.data.captions import token_ids
from train.data.decode import DecodeSample, clip_crop
from train.data.shards import Sample
from train.frozen.faces import text_embedding
from train.frozen.teacher import MINI_VISION, load_teacher, mini_clip
from train.frozen.towers import load_text_tower
from train.pretrain.config import PretrainConfig
from train.run.command_line import read_yaml

WIDTH = 32


@pytest.fixture(scope="module")
def clip() -> Any:
    """open_clip's whole mini model, with weights that no tower of ours starts from."""
    torch.manual_seed(7)
    model = mini_clip(FaceCLIPConfig.preset("mini").branches["l"].text).eval()
    for layer in model.visual.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):  # initialised, a block adds nothing
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            layer.momentum = 1.0
    with torch.no_grad():
        model.train().encode_image(torch.randn(32, 3, 64, 64))
    model.eval()
    with torch.no_grad():
        model.text_projection.mul_(3)  # not the length that a normalised embedding has
    return model


@pytest.fixture(scope="module")
def checkpoint(clip: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.save(clip.state_dict(), path)
    return path


def test_pictures_of_all_shapes_are_cut_as_open_clip_cuts_them(astronaut: np.ndarray) -> None:
    theirs = image_transform(224, is_train=False).transforms[:2]  # resize and centre crop
    random, picture = np.random.default_rng(0), Image.fromarray(astronaut)
    for width, height in random.integers(224, 700, (60, 2)).tolist():
        shown = picture.resize((width, height))
        expected = shown
        for step in theirs:
            expected = step(expected)
        np.testing.assert_array_equal(clip_crop(shown, 224).transpose(1, 2, 0), np.asarray(expected), f"{width} x {height}")


def test_the_image_target_is_open_clips_embedding_of_its_own_preprocessing(
    astronaut: np.ndarray, clip: Any, checkpoint: Path
) -> None:
    preprocess_val = image_transform(
        MINI_VISION["image_size"], is_train=False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD
    )
    teacher = load_teacher("mini", checkpoint, WIDTH)
    shown = DecodeSample(teacher.size, faces=False)
    cuts = [astronaut[:300, 100:331], astronaut[200:363, :], astronaut]
    with torch.no_grad():
        expected = clip.encode_image(torch.stack([preprocess_val(Image.fromarray(cut)) for cut in cuts]), normalize=True)
    rows = [shown(Sample("k", png(cut), None, "a caption"), np.random.default_rng(0))["image"] for cut in cuts]
    found = teacher(torch.from_numpy(np.stack(rows)).contiguous())  # laid out as theirs: other layouts round otherwise
    assert F.cosine_similarity(expected[0], expected[1], dim=0) < 0.999  # it tells the pictures apart
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_the_text_target_is_open_clips_embedding_of_the_caption_alone(clip: Any, checkpoint: Path) -> None:
    branch = FaceCLIPEncoder(FaceCLIPConfig.preset("mini").only("l")).eval().branches["l"]
    load_text_tower(branch, checkpoint)
    captions = ["a man on a beach", "two women (left) in red: 1985", "a", "long " * 100]
    with torch.no_grad():
        expected = clip.encode_text(open_clip.tokenizer.SimpleTokenizer()(captions))
    ids = token_ids(captions, [False] * len(captions))
    torch.testing.assert_close(text_embedding(branch, ids), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preset", ["faceclip_l", "faceclip_bigg"])
def test_a_presets_teacher_has_the_activation_of_the_weights_it_names(preset: str) -> None:
    """Both name MetaCLIP's weights, which open_clip knows to be trained with quick GELU."""
    name = read_yaml(preset, PretrainConfig)["teacher"]
    model = name.removesuffix("-quickgelu")
    pretrained = open_clip.get_pretrained_cfg(model, "metaclip_fullcc")
    config = open_clip.get_model_config(name)
    assert pretrained is not None and config is not None
    assert config.get("quick_gelu", False) == pretrained["quick_gelu"]
