"""Image files that were made to stop, hang, fill or mislead what decodes them."""

import os
import random
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdhpc.data.decode import Target, decode, read_header
from kdhpc.data.packed import PackedDataset
from kdhpc.errors import DataError, StorageError
from tests.data.forged import EPS, png, write_turned_jpeg
from tests.data.made import pack
from tests.data.trees import noise, smooth, write_folder, write_jpeg

_TARGET = Target(height=16, width=16, channels=3, resize=True)


def test_decode_starts_no_program_for_a_file_that_asks_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow gives PostScript to Ghostscript, whatever the file is called."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (tmp_path / "a.jpg").write_bytes(EPS)

    for read in (read_header, lambda path: decode(path, _TARGET)):
        with pytest.raises(DataError, match=r"^not an image; formats that are read: JPEG, PNG"):
            read(tmp_path / "a.jpg")
    assert not (tmp_path / "started").exists()


def _make(path: Path, kind: str) -> None:
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))


@pytest.mark.parametrize("kind", ["a named pipe", "a device", "a socket"])
def test_prepare_reads_regular_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    source = write_folder(tmp_path / "source")
    monkeypatch.chdir(source / "train" / "cat")  # The path of a socket is short.
    _make(Path("9.jpg"), kind)

    with pytest.raises(DataError, match=rf"1 of 11: train/cat/9\.jpg \(it is {kind} and no regular file\); .*--skip"):
        pack(source, tmp_path / "pets")

    manifest = pack(source, tmp_path / "pets", skip_broken=True).manifest
    assert [(image.name, image.reason) for image in manifest.skipped] == [
        ("train/cat/9.jpg", f"it is {kind} and no regular file")
    ]


def test_decode_of_more_pixels_than_any_camera_has_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    for side, told in ((12_000, "it has 12,000 x 12,000 pixels"), (40_000, "it has too many pixels")):
        (tmp_path / "a.png").write_bytes(png(side, side, 1, 0, bytes(1000)))
        with pytest.raises(DataError, match=f"{told}, allowed are 134,217,728 in all"):
            decode(tmp_path / "a.png", _TARGET)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("a.jpg", "^Too many levels of symbolic links$"),
        ("nowhere", "^no such file$"),
        ("/proc/self/status", "^it has more than the 0 bytes that it says$"),
    ],
)
def test_decode_of_a_link_that_leads_to_no_image_says_why(tmp_path: Path, target: str, told: str) -> None:
    (tmp_path / "a.jpg").symlink_to(target)
    with pytest.raises(DataError, match=told):
        decode(tmp_path / "a.jpg", _TARGET)


def test_decode_of_a_file_that_is_too_long_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.bmp").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match=r"it has 1,099,511,627,776 bytes, allowed are 1,073,741,824"):
        decode(tmp_path / "a.bmp", _TARGET)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_turns_the_pixels_and_not_the_metadata(tmp_path: Path, orientation: int) -> None:
    """Pillow's own turning writes the other tags anew, and fails where one of them is wrong."""
    path = write_turned_jpeg(tmp_path / "a.jpg", 20, 30, orientation)
    stored = np.asarray(Image.open(path).convert("RGB"))
    upright = {
        **{1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1]},
        5: stored.transpose(1, 0, 2),
        6: stored[::-1].transpose(1, 0, 2),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: stored[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    height, width = upright.shape[:2]

    header, decoded = read_header(path), decode(path, Target(height=height, width=width, channels=3, resize=False))

    assert (header.height, header.width) == (decoded.height, decoded.width) == (height, width)
    assert (decoded.pixels == upright).all()


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_decode_turned_tiff_is_upright_in_every_version_of_pillow(
    tmp_path: Path, orientation: int, compression: str | None
) -> None:
    pixels = noise(1, 20, 30)
    upright = pixels[::-1, ::-1] if orientation == 3 else pixels[::-1].T
    Image.fromarray(pixels).save(tmp_path / "a.tif", tiffinfo={274: orientation}, compression=compression)

    header = read_header(tmp_path / "a.tif")
    decoded = decode(tmp_path / "a.tif", Target(height=header.height, width=header.width, channels=1, resize=False))

    assert (header.height, header.width) == upright.shape
    assert (decoded.pixels[..., 0] == upright).all()


@pytest.mark.parametrize(("value", "shown"), [(0, 0), (4096, 16), (30_000, 117), (65_535, 255)])
def test_decode_16_bit_grey_that_shows_something_is_scaled(tmp_path: Path, value: int, shown: int) -> None:
    Image.fromarray(np.full((20, 30), value, np.uint16)).save(tmp_path / "a.png")
    assert (decode(tmp_path / "a.png", _TARGET).pixels == shown).all()


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("value", [1, 255, 4095])
def test_decode_16_bit_grey_that_would_be_black_is_refused(tmp_path: Path, suffix: str, value: int) -> None:
    path, values = tmp_path / f"a.{suffix}", np.full((20, 30), value, np.uint16)
    if suffix == "pgm":
        path.write_bytes(b"P5 30 20 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)

    with pytest.raises(DataError, match=f"16-bit pixels are all up to {value:,} of 65,535, which is black: scale them"):
        decode(path, _TARGET)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_decode_16_bit_colours_that_would_be_black_are_refused(tmp_path: Path, colour_type: int, channels: int) -> None:
    for value, shown in ((4095, None), (40_000, 156)):
        pixels = np.full((20, 30, channels), value, ">u2")
        if channels in (2, 4):
            pixels[..., -1] = 65_535
        rows = b"".join(b"\0" + row.tobytes() for row in pixels)
        (tmp_path / "a.png").write_bytes(png(20, 30, 16, colour_type, rows))
        if shown is None:
            with pytest.raises(DataError, match="16-bit pixels are all below 4,096 of 65,535, which is black"):
                decode(tmp_path / "a.png", _TARGET)
        else:
            assert (decode(tmp_path / "a.png", _TARGET).pixels == shown).all()


def test_decode_16_bit_negative_is_shown_as_a_positive(tmp_path: Path) -> None:
    """A TIFF may say that its zeros are white, which Pillow heeds in 8 bits alone."""
    Image.fromarray(np.full((20, 30), 60_000, np.uint16)).save(tmp_path / "a.tif", tiffinfo={262: 0})
    assert (decode(tmp_path / "a.tif", _TARGET).pixels == round((65_535 - 60_000) / 257)).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp", "tif", "ppm"])
def test_decode_damaged_in_any_place_is_an_image_or_an_error_of_this_file(tmp_path: Path, suffix: str) -> None:
    path, random_source = tmp_path / f"a.{suffix}", random.Random(suffix)
    Image.fromarray(smooth(5, 20, 30)).save(path)
    whole, errors = path.read_bytes(), list[str]()
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(random_source.choice((1, 3, 9))):
            content[random_source.randrange(min(len(content), 400))] = random_source.randrange(256)
        path.write_bytes(content)
        try:
            assert decode(path, _TARGET).pixels.shape == (16, 16, 3)
        except DataError as exc:
            errors.append(str(exc))
    assert len(errors) > 10
    assert all(error.isprintable() and len(error) < 400 for error in errors)


def test_prepare_leaves_out_on_request_what_no_decoder_understands(tmp_path: Path) -> None:
    """An image of whose metadata nothing can be read."""
    source = write_folder(tmp_path / "source")
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 0xFFFF) + b"\xff" * 20
    Image.fromarray(smooth(1, 20, 30)).save(source / "train" / "cat" / "8.tif")
    content = bytearray((source / "train" / "cat" / "8.tif").read_bytes())
    content[4:8] = struct.pack("<I", 1 << 30)
    (source / "train" / "cat" / "8.tif").write_bytes(content)
    Image.fromarray(smooth(1, 20, 30)).save(source / "train" / "cat" / "9.jpg", exif=exif)

    with pytest.raises(DataError, match=r"train/cat/8\.tif \("):
        pack(source, tmp_path / "pets")
    names = [image.name for image in pack(source, tmp_path / "pets", skip_broken=True).manifest.skipped]
    assert names[0] == "train/cat/8.tif"
    assert len(PackedDataset.open(tmp_path / "pets").train.images) == 8 - len(names)


@contextmanager
def _no_file_left() -> Iterator[None]:
    """As many files open as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        while True:
            try:
                held.append(os.dup(0))
            except OSError:
                break
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_decode_of_a_file_that_cannot_be_opened_now_does_not_call_it_broken(tmp_path: Path) -> None:
    path = write_jpeg(tmp_path / "a.jpg", 1)
    with _no_file_left(), pytest.raises(StorageError, match=r"a\.jpg cannot be read: Too many open files"):
        decode(path, _TARGET)
    decode(path, _TARGET)
