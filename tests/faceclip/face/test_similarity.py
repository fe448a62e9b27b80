import math

import numpy as np
import pytest
import torch
from PIL import Image

from faceclip.face import (
    FaceError,
    FaceJudge,
    NoFaceError,
    SimilarityScores,
    detect_faces,
    faces_from_images,
    load_judge,
    rank_images,
)
from faceclip.face.preview import CHOSEN, OTHER, WARNED
from faceclip.face.similarity import cosine_similarity, label_ranking, reference_embedding, score_images


@pytest.fixture(scope="module")
def judge() -> FaceJudge:
    return load_judge("dlib")


@pytest.fixture(scope="module")
def stranger(astronaut) -> np.ndarray:
    """Another face, drawn from the astronaut's by squeezing it and darkening its lower half: uint8 [512, 512, 3]."""
    head = Image.fromarray(astronaut).crop((120, 10, 330, 220))
    squeezed = np.asarray(head.resize((360, 512), Image.Resampling.BICUBIC)).copy()
    squeezed[280:] = squeezed[280:] // 3
    canvas = np.full((512, 512, 3), 128, np.uint8)
    canvas[:, 76:436] = squeezed
    return canvas


def test_an_embedding_is_a_unit_vector(judge, astronaut):
    (face,) = detect_faces(judge.detector, astronaut)
    vector = judge.embed(astronaut, face)
    assert vector.shape == (128,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_the_same_person_in_another_light_and_size_scores_higher_than_a_stranger(judge, astronaut, stranger):
    reference = reference_embedding(judge, [astronaut])
    darker = (np.asarray(Image.fromarray(astronaut[:, ::-1]).resize((800, 800))) * 0.7).astype(np.uint8)
    result = score_images(judge, [stranger, darker, astronaut], reference)
    assert result.ranking == (2, 1, 0)
    assert result.scores[2] == pytest.approx(1, abs=1e-5)
    assert result.scores[1] > judge.same_person_above
    assert result.scores[0] < result.scores[1] - 0.02


def test_landmarks_of_another_detector_are_read_through_the_box(judge, astronaut, face_at):
    (own,) = detect_faces(judge.detector, astronaut)
    foreign = face_at(*own.centre, own.size)
    assert cosine_similarity(judge.embed(astronaut, own), judge.embed(astronaut, foreign)) > 0.97


def test_of_several_faces_the_most_similar_counts(judge, astronaut, stranger):
    both = np.concatenate([stranger, astronaut], axis=1)
    reference = reference_embedding(judge, [astronaut])
    alone, together = score_images(judge, [astronaut, both], reference).scores
    assert together == pytest.approx(alone, abs=0.03)


@pytest.mark.usefixtures("no_last_resort")
def test_images_without_a_face_come_last_and_are_counted_apart(judge, astronaut, as_batch):
    grey = np.full_like(astronaut, 128)
    told = []
    result = rank_images(judge, as_batch(grey, astronaut), as_batch(astronaut), told.append)
    assert told == [1, 2]
    assert math.isnan(result.scores[0])
    assert result.without_face == (0,)
    assert result.ranking == (1, 0)
    assert result.mean == pytest.approx(result.scores[1])
    assert result.judge == "dlib"


def test_labels_follow_the_ranking_and_leave_the_rest_of_the_picture(as_batch):
    images = as_batch(*(np.full((200, 300, 3), shade, np.uint8) for shade in (10, 20, 30)))
    labelled = label_ranking(images, SimilarityScores((math.nan, 0.5, 0.95), "dlib", 0.9))
    assert labelled.shape == (3, 200, 300, 3)
    assert [round(float(row[150, 150, 0]) * 255) for row in labelled] == [30, 20, 10]
    for row, colour in zip(labelled, (CHOSEN, WARNED, OTHER), strict=True):
        assert bool(((row * 255).round() == torch.tensor(colour)).all(-1).any())


def test_an_aligned_crop_serves_as_reference(judge, astronaut, as_batch):
    images = as_batch(astronaut)
    crop = faces_from_images(images, judge.detector).aligned
    assert rank_images(judge, images, crop).scores[0] > judge.same_person_above


def test_a_mean_of_nothing_is_nan():
    assert math.isnan(SimilarityScores((math.nan,), "dlib", 0.9).mean)
    assert SimilarityScores((0.2, math.nan, 0.9, 0.9), "dlib", 0.9).ranking == (2, 3, 0, 1), "ties keep their order"


@pytest.mark.usefixtures("no_last_resort")
def test_a_reference_without_a_face_is_named(judge, astronaut, as_batch):
    with pytest.raises(NoFaceError, match="No face was found in reference image 1") as error:
        rank_images(judge, as_batch(astronaut), as_batch(astronaut, np.full_like(astronaut, 128)))
    assert error.value.indices == (1,)


def test_empty_batches_are_refused(judge, astronaut, as_batch):
    with pytest.raises(FaceError, match="no reference image"):
        rank_images(judge, as_batch(astronaut), torch.zeros(0, 64, 64, 3))
    with pytest.raises(FaceError, match="batch of images is empty"):
        rank_images(judge, torch.zeros(0, 64, 64, 3), as_batch(astronaut))


def test_an_unknown_judge_names_the_known():
    with pytest.raises(FaceError, match=r"no judge called 'me'.*dlib, insightface"):
        load_judge("me")
