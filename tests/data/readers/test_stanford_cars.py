from pathlib import Path

import pytest
from scipy.io import savemat

from kdhpc.data.readers.stanford_cars import StanfordCarsReader
from kdhpc.errors import DataError
from tests.data.trees import silent, write_cars_halves, write_cars_together, write_tar


def test_stanford_cars_devkit_layout_gives_both_halves(tmp_path: Path) -> None:
    source = StanfordCarsReader().read(write_cars_halves(tmp_path), tmp_path / "scratch", silent())

    assert source.classes == ("AM General Hummer", "Acura RL")
    assert source.train.labels.tolist() == [1, 0, 0]
    assert source.test.labels.tolist() == [0, 1]
    assert (source.train.root / source.train.names[2]).samefile(tmp_path / "cars_train" / "00003.jpg")
    assert (source.test.root / source.test.names[0]).samefile(tmp_path / "cars_test" / "00001.jpg")


def test_stanford_cars_devkit_archives_give_both_halves(tmp_path: Path) -> None:
    made = write_cars_halves(tmp_path / "made")
    away = tmp_path / "away"
    write_tar(away / "cars_train.tgz", made, "cars_train")
    write_tar(away / "cars_test.tgz", made, "cars_test")
    write_tar(away / "car_devkit.tgz", made, "devkit")
    (made / "cars_test_annos_withlabels.mat").rename(away / "cars_test_annos_withlabels.mat")

    source = StanfordCarsReader().read(away, tmp_path / "scratch", silent())

    assert (len(source.train.names), len(source.test.names)) == (3, 2)
    assert (source.train.root / source.train.names[0]).is_file()


def test_stanford_cars_mirror_with_doubled_folders_is_read(tmp_path: Path) -> None:
    made = write_cars_halves(tmp_path)
    for name in ("cars_train", "cars_test"):
        (made / name).rename(made / "moved")
        (made / name).mkdir()
        (made / "moved").rename(made / name / name)

    source = StanfordCarsReader().read(made, tmp_path / "scratch", silent())

    assert (source.test.root / source.test.names[1]).is_file()


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_stanford_cars_single_folder_layout_is_divided_by_its_test_field(tmp_path: Path, form: str) -> None:
    made = write_cars_together(tmp_path / "made")
    source_path = made
    if form == "archive":
        source_path = write_tar(tmp_path / "away" / "car_ims.tgz", made, "car_ims")
        (made / "cars_annos.mat").rename(tmp_path / "away" / "cars_annos.mat")

    source = StanfordCarsReader().read(source_path, tmp_path / "scratch", silent())

    assert source.train.names == ("car_ims/000001.jpg", "car_ims/000002.jpg", "car_ims/000003.jpg")
    assert source.train.labels.tolist() == [1, 0, 1]
    assert source.test.labels.tolist() == [0, 1]
    assert (source.test.root / source.test.names[0]).is_file()


def test_stanford_cars_without_test_labels_says_which_file_has_them(tmp_path: Path) -> None:
    made = write_cars_halves(tmp_path)
    (made / "cars_test_annos_withlabels.mat").rename(made / "cars_test_annos.mat")

    with pytest.raises(
        DataError, match=r"official files: cars_test_annos_withlabels\.mat is missing; needed are cars_train"
    ):
        StanfordCarsReader().read(made, tmp_path / "scratch", silent())


def test_stanford_cars_archives_that_lack_something_are_not_unpacked(tmp_path: Path) -> None:
    made = write_cars_halves(tmp_path / "made")
    away = tmp_path / "away"
    write_tar(away / "cars_train.tgz", made, "cars_train")
    write_tar(away / "car_devkit.tgz", made, "devkit")

    with pytest.raises(
        DataError,
        match=r"official files: cars_test, cars_test_annos_withlabels\.mat are missing; needed are cars_train",
    ):
        StanfordCarsReader().read(away, tmp_path / "scratch", silent())
    assert not (tmp_path / "scratch").exists()


def test_stanford_cars_nothing_of_it_says_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(DataError, match=r"official files: needed are cars_train, .*; or car_ims, cars_annos\.mat \("):
        StanfordCarsReader().read(tmp_path / "empty", tmp_path / "scratch", silent())


def test_stanford_cars_annotations_without_a_field_are_refused(tmp_path: Path) -> None:
    made = write_cars_together(tmp_path)
    savemat(made / "cars_annos.mat", {"annotations": [1, 2], "class_names": [3]})

    with pytest.raises(DataError, match="no field 'relative_im_path' in 'annotations'"):
        StanfordCarsReader().read(made, tmp_path / "scratch", silent())
