from pathlib import Path

import pytest

from kdhpc.data.readers.cub200 import Cub200Reader
from kdhpc.errors import DataError
from tests.data.trees import silent, write_cub, write_tar


@pytest.mark.parametrize("form", ["parent", "folder", "archive"])
def test_cub200_official_forms_give_the_same(tmp_path: Path, form: str) -> None:
    made = write_cub(tmp_path / "made")
    archive = write_tar(tmp_path / "away" / "CUB_200_2011.tgz", made, "CUB_200_2011")
    named = {"parent": made, "folder": made / "CUB_200_2011", "archive": archive}[form]

    source = Cub200Reader().read(named, tmp_path / "scratch", silent())

    assert source.classes == ("001.Bird_0", "002.Bird_1")
    assert source.train.names == ("001.Bird_0/Bird_0.jpg", "001.Bird_0/Bird_2.jpg", "002.Bird_1/Bird_3.jpg")
    assert source.train.labels.tolist() == [0, 0, 1]
    assert source.test.labels.tolist() == [0, 1]
    assert (source.test.root / source.test.names[0]).is_file()


def test_cub200_tables_about_other_images_are_refused(tmp_path: Path) -> None:
    folder = write_cub(tmp_path) / "CUB_200_2011"
    (folder / "image_class_labels.txt").write_text("1 1\n2 1\n3 1\n4 2\n6 2\n")

    with pytest.raises(DataError, match=r"images\.txt and .*image_class_labels\.txt .* 5, 6"):
        Cub200Reader().read(folder, tmp_path / "scratch", silent())


@pytest.mark.parametrize("line", ["7", "1 again"])
def test_cub200_malformed_line_is_named(tmp_path: Path, line: str) -> None:
    folder = write_cub(tmp_path) / "CUB_200_2011"
    with (folder / "train_test_split.txt").open("a") as file:
        file.write(f"{line}\n")

    with pytest.raises(DataError, match=rf"train_test_split\.txt line 6, '{line}'"):
        Cub200Reader().read(folder, tmp_path / "scratch", silent())
