"""CLIP scores with a small real CLIP of open_clip, random but the same everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from faceclip.metrics import MetricError, MetricUnavailableError, load_clip, paired_cosine

SHAPE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model configuration and a checkpoint."""
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    shape, weights = folder / "faceclip-metrics-tiny.json", folder / "tiny.pt"
    shape.write_text(json.dumps(SHAPE))
    open_clip.add_model_config(shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(open_clip.create_model(shape.stem).state_dict(), weights)
    return shape, weights


def test_scores_are_those_of_open_clips_own_calls(tiny: tuple[Path, Path]) -> None:
    import open_clip

    shape, weights = tiny
    scorer = load_clip(str(shape), weights)
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    model, _, preprocess = open_clip.create_model_and_transforms(shape.stem, pretrained=str(weights))
    with torch.no_grad():
        seen = model.eval().encode_image(preprocess(Image.fromarray(image))[None])
        read = model.encode_text(open_clip.get_tokenizer(shape.stem)(["a cat"]))
    expected = F.cosine_similarity(seen, read).item()
    assert paired_cosine(scorer.images([image]), scorer.texts(["a cat"])).item() == pytest.approx(expected, abs=1e-6)
    assert scorer.name == "faceclip-metrics-tiny (tiny.pt)"


def test_a_picture_is_like_itself_and_batches_change_nothing(tiny: tuple[Path, Path]) -> None:
    scorer = load_clip(str(tiny[0]), tiny[1])
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8) for i in range(35)]
    told: list[int] = []
    features = scorer.images(images, told.append)
    assert told == [32, 35]
    assert paired_cosine(features, features) == pytest.approx(np.ones(35))
    assert torch.allclose(features[33], scorer.images([images[33]])[0], atol=1e-5)
    texts = [f"number {i}" for i in range(35)]
    assert torch.allclose(scorer.texts(texts)[34], scorer.texts(texts[34:])[0], atol=1e-5)


def test_a_cosine_needs_pairs() -> None:
    first = torch.tensor([[1.0, 0], [3, 4]])
    assert paired_cosine(first, torch.tensor([[0.0, 1], [4, 3]])).tolist() == pytest.approx([0, 0.96])
    with pytest.raises(MetricError, match=r"\[2, 2\] and \[1, 2\]"):
        paired_cosine(first, first[:1])


def test_nothing_to_look_at_is_an_error(tiny: tuple[Path, Path]) -> None:
    scorer = load_clip(str(tiny[0]), tiny[1])
    with pytest.raises(MetricError, match="no image"):
        scorer.images([])
    with pytest.raises(MetricError, match="no text"):
        scorer.texts([])


def test_models_and_weights_that_are_not_there_are_named(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="no model 'ViT-Z'"):
        load_clip("ViT-Z", "openai")
    with pytest.raises(MetricError, match="no CLIP configuration at nothing.json"):
        load_clip("nothing.json", "openai")
    with pytest.raises(MetricError, match="'' is neither a file nor weights .*openai.*untrained"):
        load_clip("ViT-B-32", "")
    torch.save({"logit_scale": torch.zeros(())}, tmp_path / "other.pt")
    with pytest.raises(MetricError, match="other.pt does not fit the CLIP model faceclip-metrics-tiny"):
        load_clip(str(tiny[0]), tmp_path / "other.pt")


def test_weights_that_cannot_be_downloaded_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", offline)
    with pytest.raises(MetricUnavailableError, match="openai of ViT-B-32 could not be downloaded .*no network"):
        load_clip("ViT-B-32", "openai")
