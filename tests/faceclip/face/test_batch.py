import numpy as np
import pytest
import torch

from faceclip.face import FaceChoice, FaceError, NoFaceError, faces_from_images, load_detector

GREY = np.full((512, 512, 3), 128, np.uint8)


@pytest.fixture
def two_empty(listed_faces, face_at):
    """A detector of which every second image, from the second on, has no face."""

    class EverySecond(listed_faces):
        def passes(self, image):
            yield [] if image.mean() == 128 else [face_at(220, 120, 120), face_at(400, 120, 90)]

    return EverySecond()


def test_one_photo_gives_crop_preview_mask_and_count(astronaut, dlib_detector, as_batch):
    found = faces_from_images(as_batch(astronaut), dlib_detector)
    assert found.aligned.shape == (1, 448, 448, 3)
    assert found.aligned.dtype == found.preview.dtype == found.mask.dtype == torch.float32
    assert found.preview.shape == (1, 512, 512, 3)
    assert found.mask.shape == (1, 512, 512)
    assert found.count == 1
    assert found.sources == (0,)
    assert found.without_face == ()
    assert found.warnings == (f"image 0: {found.quality[0].warnings[0]}",)
    _, columns = torch.where(found.mask[0] == 1)
    assert 80 < columns.max() - columns.min() < 112
    assert found.mask[0, 120, 222] == 1
    assert set(found.mask.unique().tolist()) == {0.0, 1.0}
    changed = (found.preview[0] - as_batch(astronaut)[0]).abs().sum(-1) > 0.05
    assert 300 < changed.sum() < 6000, "the preview is the photo with a frame and a label"


@pytest.mark.usefixtures("no_last_resort")
def test_several_faces_of_one_photo_from_an_index_on(crowd, dlib_detector, as_batch):
    choice = FaceChoice("left to right", index=1, count=5)
    found = faces_from_images(as_batch(crowd), dlib_detector, choice)
    assert found.count == len(found.aligned) == 2, "three faces, the first left out"
    assert found.sources == (0, 0)
    assert found.mask[0, :, :300].sum() == 0
    large, medium = found.quality
    assert large.size > medium.size


def test_it_looks_again_for_as_many_faces_as_are_asked_for(listed_faces, face_at, as_batch):
    looks = [face_at(100, 100)], [face_at(100, 100), face_at(300, 100)]
    assert faces_from_images(as_batch(GREY), listed_faces(*looks)).count == 1
    assert faces_from_images(as_batch(GREY), listed_faces(*looks), FaceChoice(count=2)).count == 2


@pytest.mark.usefixtures("no_last_resort")
def test_index_out_of_range_says_how_many_faces_there_are(crowd, dlib_detector, as_batch):
    with pytest.raises(NoFaceError, match=r"Image 0 has 3 faces, so there is no face number 3\..*lower the index") as error:
        faces_from_images(as_batch(crowd), dlib_detector, FaceChoice(index=3))
    assert error.value.indices == (0,)


def test_no_face_is_an_error_with_the_indices(astronaut, two_empty, as_batch):
    images = as_batch(astronaut, GREY, astronaut, GREY)
    with pytest.raises(NoFaceError) as error:
        faces_from_images(images, two_empty)
    assert error.value.indices == (1, 3)
    message = str(error.value)
    assert "No face was found in image 1 (512 x 512); No face was found in image 3 (512 x 512)" in message
    assert "set on_no_face to 'skip'" in message
    assert "min confidence (now 0.5)" in message


def test_skip_leaves_images_out_of_the_crops_only(astronaut, two_empty, as_batch, caplog):
    images = as_batch(astronaut, GREY, astronaut, GREY)
    with caplog.at_level("WARNING"):
        found = faces_from_images(images, two_empty, on_no_face="skip")
    assert found.aligned.shape[0] == found.count == 2
    assert found.sources == (0, 2)
    assert found.without_face == (1, 3)
    assert found.preview.shape[0] == found.mask.shape[0] == 4
    assert found.mask[1].sum() == 0
    assert torch.equal(found.preview[1], images[1])
    assert "image(s) 1, 3: skip" in caplog.text


def test_text_only_keeps_a_black_row(astronaut, two_empty, as_batch):
    found = faces_from_images(as_batch(astronaut, GREY, astronaut), two_empty, FaceChoice(count=2), on_no_face="text only")
    assert found.sources == (0, 0, 1, 2, 2)
    assert found.count == 4
    assert found.without_face == (1,)
    assert found.aligned[2].abs().max() == 0
    assert found.quality[2] is None
    assert all(found.aligned[row].max() > 0 for row in (0, 1, 3, 4))


def test_an_index_that_only_some_photos_have_follows_the_same_rule(astronaut, two_empty, as_batch):
    found = faces_from_images(as_batch(astronaut, GREY), two_empty, FaceChoice(index=1), on_no_face="text only")
    assert found.count == 1
    assert found.without_face == (1,)


def test_skipping_everything_leaves_no_row_and_shows_the_photos(two_empty, as_batch):
    found = faces_from_images(as_batch(GREY, GREY), two_empty, on_no_face="skip")
    assert found.aligned.shape == (0, 448, 448, 3)
    assert (found.count, found.without_face, found.sources) == (0, (0, 1), ())
    assert len(found.preview) == len(found.mask) == 2


def test_everything_text_only_is_allowed(two_empty, as_batch):
    found = faces_from_images(as_batch(GREY, GREY), two_empty, on_no_face="text only")
    assert found.count == 0
    assert found.aligned.shape == (2, 448, 448, 3)
    assert found.aligned.abs().max() == 0


def test_a_long_list_of_images_without_a_face_is_shortened(two_empty):
    images = torch.full((30, 64, 64, 3), 128 / 255)
    with pytest.raises(NoFaceError, match="and 22 more") as error:
        faces_from_images(images, two_empty)
    assert error.value.indices == tuple(range(30))


def test_an_empty_batch_is_refused(dlib_detector):
    with pytest.raises(FaceError, match=r"batch of images is empty"):
        faces_from_images(torch.zeros(0, 64, 64, 3), dlib_detector)


def test_a_single_image_without_its_batch_dimension_shows_its_shape(dlib_detector):
    with pytest.raises(FaceError, match=r"\[64, 32, 3\]"):
        faces_from_images(torch.zeros(64, 32, 3), dlib_detector)


@pytest.mark.parametrize("choice", [{"index": -1}, {"count": 0}])
def test_a_choice_of_no_face_is_refused(choice):
    with pytest.raises(FaceError, match="choose no face"):
        FaceChoice(**choice)


def test_an_unknown_rule_for_missing_faces_names_the_known(dlib_detector):
    with pytest.raises(FaceError, match="error, skip, text only"):
        faces_from_images(torch.zeros(1, 64, 64, 3), dlib_detector, on_no_face="ignore")


def test_an_image_of_one_pixel_has_no_face(dlib_detector):
    with pytest.raises(NoFaceError, match=r"No face was found in image 0 \(1 x 1\)\. So small a picture .* at least 16 pixels"):
        faces_from_images(torch.ones(1, 1, 1, 3), dlib_detector)
    assert faces_from_images(torch.ones(1, 1, 1, 3), dlib_detector, on_no_face="text only").mask.shape == (1, 1, 1)


def test_an_image_of_8000_pixels_works(astronaut, dlib_detector, as_batch):
    large = torch.zeros(1, 8000, 2200, 3)
    large[:, 3000:5048, 100:2148] = torch.nn.functional.interpolate(
        as_batch(astronaut).permute(0, 3, 1, 2), scale_factor=4, mode="bilinear"
    ).permute(0, 2, 3, 1)
    found = faces_from_images(large, dlib_detector)
    small = faces_from_images(as_batch(astronaut), dlib_detector)
    assert found.preview.shape == (1, 2048, 563, 3), "bounded: nobody looks at more"
    assert found.mask.shape == (1, 8000, 2200)
    assert (found.aligned - small.aligned).abs().mean() < 0.04, "the same crop as from the small photo"


def test_grey_and_rgba_batches_work(astronaut, dlib_detector, as_batch):
    colour = as_batch(astronaut)
    assert faces_from_images(colour.mean(-1, keepdim=True), dlib_detector).count == 1
    opaque = torch.cat([colour, torch.ones(1, 512, 512, 1)], dim=-1)
    found = faces_from_images(opaque, dlib_detector)
    assert found.preview.shape == (1, 512, 512, 3)
    assert torch.equal(found.aligned, faces_from_images(colour, dlib_detector).aligned)


def test_the_input_is_left_as_it_was(astronaut, dlib_detector, as_batch):
    images = as_batch(astronaut)
    before = images.clone()
    faces_from_images(images, dlib_detector)
    assert torch.equal(images, before)


def test_progress_is_told_with_the_images_done_and_may_stop(astronaut, two_empty, as_batch):
    told = []
    faces_from_images(as_batch(astronaut, astronaut, astronaut), two_empty, progress=told.append)
    assert told == sorted(told) and set(told) >= {1, 2, 3} and told[-1] == 3

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        faces_from_images(as_batch(astronaut), two_empty, progress=stop)


def test_many_photos_go_through_in_a_few_batches(astronaut, as_batch, monkeypatch):
    detector = load_detector("yunet")
    looks = []
    monkeypatch.setattr(
        detector, "look", lambda images, number, look=detector.look: looks.append(len(images)) or look(images, number)
    )
    small = np.ascontiguousarray(astronaut[:256, 90:346])
    images = as_batch(*[small] * 17, np.zeros_like(small), *[small] * 2)
    told = []
    found = faces_from_images(images, detector, on_no_face="skip", progress=told.append)
    assert found.count == 19 and found.without_face == (17,)
    assert looks == [16, 4, 1, 1], "sixteen pictures at a time; only the one without a face is looked at again"
    assert told[-1] == 20 and told == sorted(told)


def test_it_says_which_face_was_taken_and_what_was_turned(crowd, astronaut, as_batch):
    detector = load_detector("yunet")
    found = faces_from_images(as_batch(crowd), detector, FaceChoice(count=2))
    assert found.said == ("2 of 3 faces taken: numbers 0, 1, the largest.",)
    two = faces_from_images(as_batch(astronaut, np.rot90(astronaut).copy()), detector)
    assert two.said == ("image 1: face 0 lies on its side (-90 degrees): turned upright.",)
    head = faces_from_images(as_batch(astronaut[::-1, ::-1].copy()), detector)
    assert head.said == ("face 0 stands on its head (180 degrees): turned upright.",)


def test_crops_that_came_aligned_stay_and_other_photos_of_their_size_do_not(astronaut, as_batch):
    detector = load_detector("yunet")
    crop = faces_from_images(as_batch(astronaut), detector).aligned
    photo = torch.nn.functional.interpolate(as_batch(astronaut).movedim(3, 1), (448, 448), mode="area").movedim(1, 3)
    kept = faces_from_images(torch.cat([crop, torch.zeros_like(crop), photo]), detector, keep_aligned=True)
    assert (kept.aligned[0] - crop[0]).abs().max() < 1 / 255 and kept.aligned[1].max() == 0
    assert kept.quality[:2] == (None, None) and kept.quality[2] is not None
    assert (kept.aligned[2] - crop[0]).abs().mean() < 0.05, "a photo of 448 px is aligned as any other"


def test_without_a_face_it_says_what_was_tried(as_batch):
    blank = np.zeros((300, 400, 3), np.uint8)
    with pytest.raises(NoFaceError, match=r"yunet looked at 608 px, at 320 px in four turns, and at 1280 px\. Use a larger"):
        faces_from_images(as_batch(blank), load_detector("yunet"))


def test_aligned_crops_pass_through_without_a_detector(astronaut, dlib_detector, as_batch):
    crops = faces_from_images(as_batch(astronaut), dlib_detector).aligned
    found = faces_from_images(torch.cat([crops, crops]), None)
    assert found.count == 2
    assert (found.aligned - crops).abs().max() < 1 / 255
    assert found.mask.min() == 1
    assert found.preview.shape == (2, 448, 448, 3)


@pytest.mark.parametrize("shape", [(1, 512, 448, 3), (1, 112, 112, 3)])
def test_a_crop_of_another_size_needs_a_detector(shape):
    with pytest.raises(FaceError, match=rf"448 x 448 pixels, these are {shape[2]} x {shape[1]}.*Give a detector"):
        faces_from_images(torch.zeros(shape), None)
