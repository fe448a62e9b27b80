"""Zero-shot classification on embeddings whose answer is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from faceclip.metrics import MetricError, class_embeddings, imagenet_templates, zero_shot_accuracy

CLASSES = torch.eye(8)


def test_pictures_at_their_class_are_always_right_and_next_to_it_never() -> None:
    labels = torch.arange(8).repeat(5)
    right = zero_shot_accuracy(CLASSES[labels] * 3 + 0.1, CLASSES, labels)
    assert (right.top1, right.top5, right.top1_per_class, right.images, right.classes) == (1, 1, 1, 40, 8)
    wrong = zero_shot_accuracy(CLASSES[(labels + 1) % 8], CLASSES, labels)
    assert wrong.top1 == 0


def test_the_second_nearest_counts_for_top_5_only() -> None:
    images = CLASSES[[0, 1]] + 0.5 * CLASSES[[2, 3]]
    scores = zero_shot_accuracy(images, CLASSES, [2, 3])
    assert (scores.top1, scores.top5) == (0, 1)


def test_random_pictures_are_right_by_chance() -> None:
    images = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    classes = torch.randn(10, 16, generator=torch.Generator().manual_seed(1))
    scores = zero_shot_accuracy(images, classes, torch.arange(4000) % 10)
    assert scores.top1 == pytest.approx(0.1, abs=0.03)
    assert scores.top5 == pytest.approx(0.5, abs=0.04)


def test_classes_weigh_alike_in_the_mean_over_classes() -> None:
    labels = [0] * 9 + [1]
    scores = zero_shot_accuracy(CLASSES[[0] * 10], CLASSES, labels)
    assert scores.top1 == pytest.approx(0.9)
    assert scores.top1_per_class == pytest.approx(0.5)


def test_a_class_is_the_mean_of_its_normalised_sentences() -> None:
    table = {
        "a cat": [2.0, 0],
        "the cat": [0, 5.0],
        "a dog": [0, 1.0],
        "the dog": [0, 1.0],
        "a cow": [1.0, 0],
        "the cow": [1.0, 0],
    }
    asked: list[str] = []

    def embed(texts: list[str]) -> torch.Tensor:
        asked.extend(texts)
        return torch.tensor([table[text] for text in texts])

    sentences = [lambda name: f"a {name}", lambda name: f"the {name}"]
    found = class_embeddings(embed, ["cat", "dog", "cow"], sentences)
    assert torch.allclose(found, F.normalize(torch.tensor([[1.0, 1], [0, 1], [1, 0]]), dim=-1))
    assert asked == list(table)


def test_the_sentences_are_imagenets_80() -> None:
    templates = imagenet_templates()
    assert len({sentence("heron") for sentence in templates}) == 80
    assert all("heron" in sentence("heron") for sentence in templates)
    rows: list[int] = []

    def embed(texts: list[str]) -> torch.Tensor:
        rows.append(len(texts))
        return torch.ones(len(texts), 4)

    assert class_embeddings(embed, ["heron", "crane", "ibis"]).shape == (3, 4)
    assert sum(rows) == 240


def test_bad_input_is_refused() -> None:
    with pytest.raises(MetricError, match="no class"):
        class_embeddings(lambda texts: torch.ones(len(texts), 2), [])
    with pytest.raises(MetricError, match=r"\[2, 3\], \[8, 8\]"):
        zero_shot_accuracy(torch.ones(2, 3), CLASSES, [0, 1])
    with pytest.raises(MetricError, match="no image"):
        zero_shot_accuracy(torch.ones(0, 8), CLASSES, [])
    with pytest.raises(MetricError, match="0 to 7 for 8 classes; found 0 to 8"):
        zero_shot_accuracy(torch.ones(2, 8), CLASSES, [0, 8])
