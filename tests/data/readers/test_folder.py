import io
import shutil
from pathlib import Path

import pytest

from kdhpc.data.progress import Progress
from kdhpc.data.readers.folder import FolderReader
from kdhpc.errors import DataError
from tests.data.trees import silent, write_folder, write_jpeg


def test_folder_classes_and_images_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=("dog", "cat"), train=2, test=1)

    source = FolderReader().read(tmp_path, tmp_path / "scratch", silent())

    assert source.classes == ("cat", "dog")
    assert source.train.names == ("train/cat/0.jpg", "train/cat/1.jpg", "train/dog/0.jpg", "train/dog/1.jpg")
    assert source.train.labels.tolist() == [0, 0, 1, 1]
    assert source.test.names == ("test/cat/0.jpg", "test/dog/0.jpg")


def test_folder_validation_beside_test_joins_the_training_half(tmp_path: Path) -> None:
    write_folder(tmp_path, train=2, test=1)
    shutil.copytree(tmp_path / "test", tmp_path / "validation")
    told = io.StringIO()

    source = FolderReader().read(tmp_path, tmp_path / "scratch", Progress(told))

    assert len(source.train.names) == 6
    assert "validation/dog/0.jpg" in source.train.names
    assert len(source.test.names) == 2
    assert "validation is added to the training half" in told.getvalue()


def test_folder_validation_without_test_is_the_test_half(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "test").rename(tmp_path / "val")

    source = FolderReader().read(tmp_path, tmp_path / "scratch", silent())

    assert source.test.names[0] == "val/cat/0.jpg"
    assert len(source.train.names) == 6


def test_folder_other_files_are_left_out_and_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("x")
    (tmp_path / "train" / "cat" / ".DS_Store").write_text("x")
    told = io.StringIO()

    source = FolderReader().read(tmp_path, tmp_path / "scratch", Progress(told))

    assert len(source.train.names) == 6
    assert "notes.txt" in told.getvalue()


def test_folder_class_missing_in_test_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=("cat", "dog", "eel"))
    shutil.rmtree(tmp_path / "test" / "eel")
    write_jpeg(tmp_path / "test" / "fox" / "0.jpg", 0)

    with pytest.raises(DataError, match="same classes: test has no eel and also has fox"):
        FolderReader().read(tmp_path, tmp_path / "scratch", silent())


def test_folder_empty_class_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "train" / "dog" / "0.jpg").unlink()
    for path in (tmp_path / "test" / "dog").iterdir():
        path.unlink()

    with pytest.raises(DataError, match=r"class 'dog' has no image in .*test/dog"):
        FolderReader().read(tmp_path, tmp_path / "scratch", silent())


@pytest.mark.parametrize("missing", ["train", "test"])
def test_folder_without_a_half_is_refused(tmp_path: Path, missing: str) -> None:
    write_folder(tmp_path)
    shutil.rmtree(tmp_path / missing)

    with pytest.raises(DataError, match=f"{missing} is not a folder: expected are train/<class>/"):
        FolderReader().read(tmp_path, tmp_path / "scratch", silent())
