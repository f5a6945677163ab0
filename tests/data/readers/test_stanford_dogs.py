from pathlib import Path

import numpy as np
import pytest

from kdhpc.data.readers.stanford_dogs import StanfordDogsReader
from kdhpc.errors import DataError
from tests.data.trees import silent, write_dogs, write_dogs_list, write_tar


@pytest.mark.parametrize("form", ["folder", "archives", "one archive named", "lists flat"])
def test_stanford_dogs_official_forms_give_the_same(tmp_path: Path, form: str) -> None:
    made = write_dogs(tmp_path / "made")
    source_path = made
    if form == "lists flat":
        for path in (made / "lists").iterdir():
            path.rename(made / path.name)
    elif form != "folder":
        write_tar(tmp_path / "away" / "images.tar", made, "Images")
        write_tar(tmp_path / "away" / "lists.tar", made / "lists", "train_list.mat", "test_list.mat")
        source_path = tmp_path / "away" / ("images.tar" if form == "one archive named" else "")

    source = StanfordDogsReader().read(source_path, tmp_path / "scratch", silent())

    assert source.classes == ("n01-Chihuahua", "n02-Whippet")
    assert source.train.names == ("n01-Chihuahua/n01_1.jpg", "n01-Chihuahua/n01_2.jpg", "n02-Whippet/n02_1.jpg")
    assert source.train.labels.tolist() == [0, 0, 1]
    assert source.test.labels.tolist() == [0, 1]
    assert (source.test.root / source.test.names[1]).read_bytes() == (
        made / "Images/n02-Whippet/n02_2.jpg"
    ).read_bytes()


def test_stanford_dogs_unpacked_archives_are_used_again(tmp_path: Path) -> None:
    made = write_dogs(tmp_path / "made")
    write_tar(tmp_path / "away" / "images.tar", made, "Images")
    write_tar(tmp_path / "away" / "lists.tar", made / "lists", "train_list.mat", "test_list.mat")
    first = StanfordDogsReader().read(tmp_path / "away", tmp_path / "scratch", silent())
    marker = first.train.root / "seen"
    marker.touch()

    again = StanfordDogsReader().read(tmp_path / "away", tmp_path / "scratch", silent())

    assert again.train.root == first.train.root
    assert marker.exists()


def test_stanford_dogs_label_of_two_folders_is_refused(tmp_path: Path) -> None:
    made = write_dogs(tmp_path)
    write_dogs_list(made / "lists" / "train_list.mat", [("a/1.jpg", 1), ("b/1.jpg", 1)])

    with pytest.raises(DataError, match="gives label 1 to 'a' and to 'b'"):
        StanfordDogsReader().read(made, tmp_path / "scratch", silent())


def test_stanford_dogs_lists_that_disagree_on_classes_are_refused(tmp_path: Path) -> None:
    made = write_dogs(tmp_path)
    write_dogs_list(made / "lists" / "test_list.mat", [("n02-Whippet/n02_2.jpg", 1), ("n01-Chihuahua/n01_3.jpg", 2)])

    with pytest.raises(DataError, match=r"label 1 is 'n01-Chihuahua' in .* but 'n02-Whippet' in"):
        StanfordDogsReader().read(made, tmp_path / "scratch", silent())


@pytest.mark.parametrize("content", [b"", b"not a MATLAB file at all" * 20])
def test_stanford_dogs_damaged_list_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    made = write_dogs(tmp_path)
    (made / "lists" / "test_list.mat").write_bytes(content)

    with pytest.raises(DataError, match=r"test_list\.mat is damaged or not a MATLAB file"):
        StanfordDogsReader().read(made, tmp_path / "scratch", silent())


def test_stanford_dogs_truncated_list_is_refused_by_name(tmp_path: Path) -> None:
    made = write_dogs(tmp_path)
    path = made / "lists" / "train_list.mat"
    path.write_bytes(path.read_bytes()[:300])

    with pytest.raises(DataError, match=r"train_list\.mat"):
        StanfordDogsReader().read(made, tmp_path / "scratch", silent())


def test_stanford_dogs_labels_stored_as_doubles_are_read(tmp_path: Path) -> None:
    made = write_dogs(tmp_path)
    images = [("n01-Chihuahua/n01_3.jpg", 1), ("n02-Whippet/n02_2.jpg", 2)]
    write_dogs_list(made / "lists" / "test_list.mat", images, dtype=np.float64)

    assert StanfordDogsReader().read(made, tmp_path / "scratch", silent()).test.labels.tolist() == [0, 1]
