import numpy as np
import pytest
import torch
from PIL import Image

from faceclip.face import FaceError, load_photo
from faceclip.face.photo import resize_to, to_rgb8


@pytest.fixture
def picture() -> np.ndarray:
    """uint8 [20, 30, 3]: red left half, blue right half, a green top row."""
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, :15], image[:, 15:], image[0] = (255, 0, 0), (0, 0, 255), (0, 255, 0)
    return image


def test_a_plain_png_comes_back_pixel_for_pixel(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert np.array_equal(load_photo(tmp_path / "a.png"), picture)
    assert np.array_equal(load_photo(str(tmp_path / "a.png")), picture)


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, lambda image: image),
        (2, np.fliplr),
        (3, lambda image: np.rot90(image, 2)),
        (4, np.flipud),
        (5, lambda image: np.transpose(image, (1, 0, 2))),
        (6, lambda image: np.rot90(image, 1)),
        (7, lambda image: np.rot90(np.transpose(image, (1, 0, 2)), 2)),
        (8, lambda image: np.rot90(image, -1)),
    ],
)
def test_every_exif_orientation_is_turned_upright(picture, tmp_path, orientation, undo):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(undo(picture))).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(load_photo(tmp_path / "a.png"), picture)


def test_transparency_is_laid_over_white(tmp_path):
    layer = np.zeros((4, 4, 4), np.uint8)
    layer[:, 2:] = (200, 100, 0, 255)
    layer[3, 3] = (0, 0, 0, 128)
    Image.fromarray(layer, "RGBA").save(tmp_path / "a.png")
    image = load_photo(tmp_path / "a.png")
    assert image.shape == (4, 4, 3)
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[0, 3].tolist() == [200, 100, 0]
    assert abs(int(image[3, 3, 0]) - 127) <= 1


def test_a_palette_with_a_transparent_colour_is_laid_over_white(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 1), 1)
    image.save(tmp_path / "a.png", transparency=0)
    photo = load_photo(tmp_path / "a.png")
    assert photo[0, 0].tolist() == [255, 255, 255]
    assert photo[1, 1].tolist() == [200, 100, 50]


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr"])
def test_other_colour_models_become_rgb(tmp_path, mode):
    # Compressed, since Pillow 12 cannot read back the plain YCbCr files that it writes.
    Image.new("RGB", (8, 6), (255, 255, 255)).convert(mode).save(tmp_path / "a.tif", compression="tiff_lzw")
    photo = load_photo(tmp_path / "a.tif")
    assert photo.shape == (6, 8, 3)
    assert photo.dtype == np.uint8
    assert photo.min() > 250


def test_grey_of_16_bits_keeps_its_shades(tmp_path):
    shades = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(shades).save(tmp_path / "a.png")
    photo = load_photo(tmp_path / "a.png")
    assert photo.shape == (8, 8, 3)
    assert np.abs(photo[:, :, 0].astype(int) - shades / 257).max() <= 0.5


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FaceError, match=r"no image file at .*nobody\.jpg"):
        load_photo(tmp_path / "nobody.jpg")


def test_a_zero_byte_file_says_so(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(FaceError, match=r"empty \(0 bytes\)"):
        load_photo(tmp_path / "a.jpg")


def test_a_file_cut_short_says_so(tmp_path, astronaut):
    Image.fromarray(astronaut).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(FaceError, match="damaged or cut short"):
        load_photo(tmp_path / "a.jpg")


def test_a_file_that_is_no_image_says_what_to_save(tmp_path):
    (tmp_path / "a.jpg").write_text("dear diary")
    with pytest.raises(FaceError, match="not an image that Pillow can read"):
        load_photo(tmp_path / "a.jpg")


def test_a_picture_of_absurd_size_is_refused(tmp_path, picture, monkeypatch):
    Image.fromarray(picture).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(FaceError, match="too large to open safely"):
        load_photo(tmp_path / "a.png")


def test_comfyui_images_become_rgb8():
    grey = to_rgb8(torch.full((2, 3, 1), 0.5))
    assert grey.shape == (2, 3, 3)
    assert (grey == 128).all()
    glass = torch.zeros(2, 3, 4)
    glass[0, 0] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    assert to_rgb8(glass)[0, :2].tolist() == [[255, 0, 0], [255, 255, 255]]
    assert to_rgb8(torch.tensor([[[-1.0, 0.25, 7.0]]])).tolist() == [[[0, 64, 255]]]
    assert to_rgb8(torch.ones(1, 1, 3, dtype=torch.bfloat16)).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 2), (1, 4, 4, 3)])
def test_a_tensor_that_is_no_image_shows_its_shape(shape):
    with pytest.raises(FaceError, match="Expected an image"):
        to_rgb8(torch.zeros(shape))


def test_an_image_without_pixels_is_refused():
    with pytest.raises(FaceError, match="no pixels"):
        to_rgb8(torch.zeros(0, 4, 3))


def test_shrinking_averages():
    stripes = np.zeros((400, 800, 3), np.uint8)
    stripes[:, ::2] = 254
    small, scale = resize_to(stripes, 100)
    assert small.shape == (50, 100, 3)
    assert scale == 1 / 8
    assert np.abs(small[10:-10, 10:-10].astype(int) - 127).max() <= 2
