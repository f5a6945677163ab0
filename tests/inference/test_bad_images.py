"""Files that are no images, or strange ones: each is named with its reason, and stops no other one."""

import csv
import os
import tempfile
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image
from torch import device

from kdhpc.inference.image_files import find_images
from kdhpc.inference.opening import as_ensemble, find_run
from kdhpc.inference.predicting import predict_files
from tests.inference.conftest import IMAGES
from tests.users import ordinary_user

_HEIC = b"\x00\x00\x00\x18ftypheic" + bytes(40)


def picture(index: int = 0, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.fromarray(IMAGES[index].permute(1, 2, 0).numpy()).resize(size)


@pytest.fixture
def strange(folder: Path) -> Path:
    """Images that can be used, of all kinds."""
    at = folder / "strange"
    at.mkdir()
    picture().save(at / "plain.png")
    picture(size=(1, 1)).save(at / "tiny.png")
    picture(size=(1, 3000)).save(at / "thin.png")
    picture(size=(700, 40)).convert("CMYK").save(at / "cmyk.jpg")
    Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)).save(at / "deep.png")
    picture().convert("P").save(at / "palette.png", transparency=0)
    picture().save(at / "moving.gif", save_all=True, append_images=[picture(1)])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(at / "turned.jpg", exif=exif, quality=100, subsampling=0)
    picture().rotate(-90).save(at / "upright.jpg", quality=100, subsampling=0)
    picture().save(at / "line\nend \x1b[31m.png")
    picture().save(os.fsencode(at) + b"/\xff\xfe.png")
    return at


def test_strange_images_are_predicted_as_preparing_would_read_them(strange, predict):
    found = predict(strange, "--csv", "all.csv", "--attention", "maps")
    assert (found.code, found.err.count("not predicted")) == (0, 0)
    assert len(found.json["images"]) == 11
    by_name = {Path(image["image"]).name: image["ensemble"] for image in found.json["images"]}
    assert by_name["line\nend \x1b[31m.png"] == by_name["\\xff\\xfe.png"] == by_name["plain.png"]
    assert by_name["turned.jpg"][0]["probability"] == pytest.approx(by_name["upright.jpg"][0]["probability"], abs=0.02)
    with Path("all.csv").open(encoding="utf-8", newline="") as file:
        names = [
            Path(row["image"]).name for row in csv.DictReader(file) if row["by"] == "node 2" and row["rank"] == "1"
        ]
    assert "line\\nend \\x1b[31m.png" in names
    assert len(list(Path("maps").iterdir())) == 11
    assert "\x1b" not in found.out + found.err


def test_bad_images_stop_no_other_one_and_files_are_complete(strange, predict):
    (strange / "text.png").write_text("no image", encoding="utf-8")
    (strange / "empty.jpg").touch()
    (strange / "photo.jpg").write_bytes(_HEIC)
    (strange / "IMG_1.HEIC").write_bytes(_HEIC)
    whole = (strange / "plain.png").read_bytes()
    (strange / "cut.png").write_bytes(whole[: len(whole) // 2])
    # Its head says 60,000 x 60,000 pixels.
    head = whole[12:16] + (60000).to_bytes(4, "big") * 2 + whole[24:29]
    (strange / "bomb.png").write_bytes(whole[:12] + head + crc32(head).to_bytes(4, "big") + whole[33:])
    os.mkfifo(strange / "pipe.png")
    Path("circle.png").symlink_to("circle.png")
    found = predict(strange, "gone.png", "circle.png", "--batch", 2, "--csv", "all.csv")
    assert found.code == 1
    failed = {Path(image["image"]).name: image["error"] for image in found.json["images"] if image["error"]}
    given = {"gone.png", "circle.png"}
    assert failed.keys() == {"text.png", "empty.jpg", "photo.jpg", "cut.png", "bomb.png", "pipe.png", *given}
    assert failed["gone.png"] == "no such file"
    assert failed["empty.jpg"] == "an empty file"
    assert failed["text.png"].startswith("not an image; formats that are read")
    assert "allowed are 134,217,728 in all" in failed["bomb.png"]
    assert found.err.count("not predicted: ") == 8
    assert "skipped 1, no images by their names: .heic 1" in found.err
    assert "11 images are predicted, 8 are not" in found.err
    good = [image for image in found.json["images"] if image["error"] is None]
    assert len(good) == 11
    assert all(len(image["nodes"]) == 2 for image in good)
    with Path("all.csv").open(encoding="utf-8", newline="") as file:
        assert sum(row["error"] != "" for row in csv.DictReader(file)) == 8


def test_images_of_which_none_can_be_used_are_an_error(folder, predict):
    Path("text.png").write_text("no image", encoding="utf-8")
    found = predict("text.png")
    assert (found.code, found.out) == (1, f"{folder}/predicted.json\n")
    assert "the image could not be predicted" in found.err
    Path("empty").mkdir()
    Path("empty/notes.txt").touch()
    nothing = predict("empty")
    assert (nothing.code, nothing.err.count("\n")) == (1, 1)
    assert "there is no image in empty; skipped 1, no images by their names: .txt 1" in nothing.err
    picture().save("good.png")
    some = predict("empty", "text.png", "good.png")
    assert "skipped 1, folders without an image: empty\n" in some.err
    assert "1 image is predicted, 1 is not\n" in some.err


def test_many_failures_are_not_all_named_on_the_terminal(folder, predict):
    for index in range(30):
        Path(f"{index}.png").touch()
    picture().save("good.png")
    found = predict(".")
    assert found.err.count("an empty file") == 20
    assert "not predicted: 10 more; " in found.err
    assert sum(image["error"] == "an empty file" for image in found.json["images"]) == 30


def test_find_images_takes_each_file_once_in_order(tmp_path):
    for name in (
        "b/2.png",
        "b/10.JPG",
        "a/x.webp",
        "a/.hidden.png",
        "a/notes.txt",
        "a/README",
        "b/n.TXT",
        "@eaDir/t.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "again.png").symlink_to(tmp_path / "b" / "2.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    named = tmp_path / "a" / "notes.txt"  # Named, so that its content decides.
    found = find_images([tmp_path / "b" / "2.png", named, tmp_path])
    names = [str(path.relative_to(tmp_path)) for path in found.files]
    assert names == ["b/2.png", "a/notes.txt", "a/x.webp", "b/10.JPG"]
    lines = [one.line.replace(f"{tmp_path}/", "") for one in found.skipped]
    assert lines == [
        "skipped 3, no images by their names: .txt 2, without an ending 1",
        "skipped 1, hidden: a/.hidden.png",
        "skipped 1, in folders hidden, or left behind by other programs: @eaDir",
        "skipped 3, named before: loop, a/again.png, b/2.png",
    ]


def test_what_may_not_be_read_stops_no_other_one(done):
    # pytest's own folders are closed to others.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for image in ("open.png", "closed.png", "inside/other.png"):
            (folder / image).parent.mkdir(exist_ok=True)
            picture().save(folder / image)
        (folder / "closed.png").chmod(0)
        (folder / "inside").chmod(0)
        ensemble = as_ensemble(find_run(done.folder), device("cpu"))
        with ordinary_user():
            found = find_images([folder, folder / "inside" / "other.png"])
            results = list(predict_files(ensemble, found.files, top=1, batch_size=8, with_maps=False))
    assert [str(error) for error in found.refused] == [f"{folder}/inside cannot be read: Permission denied"]
    assert [(result.path.name, result.failure) for result in results] == [
        ("closed.png", "cannot be read: Permission denied"),
        ("open.png", ""),
        ("other.png", "cannot be read: Permission denied"),
    ]
