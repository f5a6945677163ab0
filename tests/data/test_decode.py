from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from kdhpc.data.decode import Target, decode, read_header
from kdhpc.errors import DataError
from tests.data.trees import noise, smooth

_COLOUR = Target(height=20, width=30, channels=3, resize=False)
_GREY = Target(height=20, width=30, channels=1, resize=False)


def _saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_decode_colour_png_gives_its_pixels(tmp_path: Path) -> None:
    pixels = noise(0, 20, 30, 3)
    path = _saved(tmp_path / "a.png", Image.fromarray(pixels))

    decoded = decode(path, _COLOUR)

    assert (decoded.pixels == pixels).all()
    assert (decoded.height, decoded.width) == (20, 30)
    assert not read_header(path).grey


def test_decode_grey_png_in_colour_repeats_its_channel(tmp_path: Path) -> None:
    pixels = noise(0, 20, 30)
    path = _saved(tmp_path / "a.png", Image.fromarray(pixels))

    assert read_header(path).grey
    assert (decode(path, _COLOUR).pixels == pixels[..., None]).all()
    assert (decode(path, _GREY).pixels == pixels[..., None]).all()


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_decode_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":  # Which Pillow 10 does not write.
        path.write_bytes(b"P5 30 20 65535\n" + values.astype(">u2").tobytes())
    else:
        _saved(path, Image.fromarray(values))

    assert read_header(path).grey
    assert np.abs(decode(path, _GREY).pixels[..., 0] - values / 257).max() <= 0.5


def test_decode_cmyk_jpeg_gives_the_colours_that_it_shows(tmp_path: Path) -> None:
    colours = Image.fromarray(smooth(1, 20, 30))
    path = _saved(tmp_path / "a.jpg", colours.convert("CMYK"), quality=100)

    with Image.open(path) as image:
        assert image.mode == "CMYK"
    assert not read_header(path).grey
    assert np.abs(decode(path, _COLOUR).pixels.astype(int) - np.asarray(colours)).mean() < 1


def test_decode_palette_gives_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(smooth(2, 20, 30)).quantize(16)
    path = _saved(tmp_path / "a.gif", image)

    assert (decode(path, _COLOUR).pixels == np.asarray(image.convert("RGB"))).all()


def test_decode_bilevel_gives_black_and_white(tmp_path: Path) -> None:
    bits = noise(3, 20, 30) > 127
    path = _saved(tmp_path / "a.png", Image.fromarray(bits))

    assert read_header(path).grey
    assert (decode(path, _GREY).pixels[..., 0] == bits * 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_decode_transparent_pixels_are_white(tmp_path: Path, mode: str) -> None:
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[:, 15:] = (40, 40, 40, 255)
    image = Image.fromarray(pixels, "RGBA") if mode == "RGBA" else Image.fromarray(pixels).convert("LA")
    if mode == "P":
        image = Image.fromarray(np.repeat(pixels[..., 3] // 255, 1, axis=1)).convert("P")
        image.putpalette([0, 0, 0, 40, 40, 40])
        image.info["transparency"] = 0
    decoded = decode(_saved(tmp_path / "a.png", image), _COLOUR).pixels

    assert (decoded[:, :15] == 255).all()
    assert (decoded[:, 15:] == 40).all()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_decode_turned_photograph_is_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = smooth(4, 20, 30)
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = _saved(tmp_path / f"a.{suffix}", Image.fromarray(np.rot90(upright, turns)), exif=exif, quality=100)

    header, decoded = read_header(path), decode(path, _COLOUR)

    assert (header.height, header.width) == (decoded.height, decoded.width) == (20, 30)
    assert np.abs(decoded.pixels.astype(int) - upright).mean() < 3


def test_decode_resizing_keeps_the_original_size_and_does_not_alias(tmp_path: Path) -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (100, 100))
    path = _saved(tmp_path / "a.png", Image.fromarray(stripes))

    decoded = decode(path, Target(height=25, width=25, channels=1, resize=True))

    assert (decoded.height, decoded.width) == (100, 200)
    assert np.abs(decoded.pixels[:, 2:-2].astype(int) - 127).max() <= 2


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp"])
def test_decode_truncated_file_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = _saved(tmp_path / f"a.{suffix}", Image.fromarray(noise(5, 20, 30, 3)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(DataError):
        decode(path, _COLOUR)


def test_decode_other_content_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")

    formats = "JPEG, PNG, BMP, GIF, PPM, TIFF, WEBP"
    told = {
        "empty.jpg": "an empty file",
        "text.jpg": f"not an image; formats that are read: {formats}",
        "gone.jpg": "no such file",
    }
    for name, reason in told.items():
        with pytest.raises(DataError, match=f"^{reason}$"):
            read_header(tmp_path / name)


def test_decode_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    path = _saved(tmp_path / "a.tif", Image.fromarray(np.zeros((20, 30), np.float32)))

    with pytest.raises(DataError, match="floating-point"):
        decode(path, _COLOUR)


@pytest.mark.parametrize("value", [200, 70_000])
def test_decode_integers_of_32_bits_are_refused(tmp_path: Path, value: int) -> None:
    """Their range is unknown: taken for 16 bits, those of 8 would be black."""
    path = _saved(tmp_path / "a.tif", Image.fromarray(np.full((20, 30), value, np.int32)))

    with pytest.raises(DataError, match="whole numbers of unknown range: store them with 8 or 16 bits"):
        decode(path, _GREY)


def test_decode_another_size_without_resizing_is_refused(tmp_path: Path) -> None:
    path = _saved(tmp_path / "a.png", Image.fromarray(noise(6, 21, 30, 3)))

    with pytest.raises(DataError, match="it is 21x30, all others are 20x30"):
        decode(path, _COLOUR)
