"""``kdhpc predict``: the numbers of a run's scoring and of the Python API, as tables, files and pictures."""

import csv
import shutil
from pathlib import Path

import pytest
from PIL import Image

import kdhpc
from kdhpc.cli.main import main
from kdhpc.config.paths import RunPaths
from kdhpc.inference.ranking import Classification
from tests.api.conftest import SETTINGS, make_images
from tests.inference.conftest import IMAGES, LABELS

CLASSES = ("dark", "light")


def as_json(found: Classification) -> tuple[list[dict], list[list[dict]]]:
    def ranked(classes):
        return [{"class": one.name, "label": one.label, "probability": one.probability} for one in classes]

    return ranked(found.ensemble), [ranked(node) for node in found.nodes]


def test_predict_gives_the_numbers_of_the_python_api_to_the_bit_and_those_of_the_score(done, pictures, predict):
    found = predict(pictures, "--batch", 5, "--top", 9, "--csv", "all.csv")
    assert (found.code, found.out) == (0, f"all.csv\n{pictures.parent}/predicted.json\n")
    paths = sorted(pictures.rglob("*.png"))
    assert [image["image"] for image in found.json["images"]] == list(map(str, paths))
    expected = kdhpc.load(done, device="cpu").classify(paths, batch_size=5)
    assert [(image["ensemble"], image["nodes"]) for image in found.json["images"]] == list(map(as_json, expected))
    # As scored: the label is the folder's.
    for by, accuracy in (("ensemble", done.ensemble_accuracy), *enumerate(done.node_accuracies, start=1)):
        with Path("all.csv").open(encoding="utf-8", newline="") as file:
            best = [
                row
                for row in csv.DictReader(file)
                if row["by"] == (by if by == "ensemble" else f"node {by}") and row["rank"] == "1"
            ]
        right = sum(Path(row["image"]).parent.name == row["class"] == CLASSES[int(row["label"])] for row in best)
        assert (len(best), 100 * right / 32) == (32, pytest.approx(accuracy))
    assert found.json["classes"] == list(CLASSES)
    assert found.json["networks"] == ["resnet8", "resnet8"]


def test_predict_of_few_images_prints_a_table_for_each_and_draws_what_nodes_see(pictures, predict):
    found = predict(pictures / "light" / "01.png", pictures / "dark" / "00.png", "--attention", "maps", "--batch", 1)
    assert found.code == 0
    first, second, *paths = found.out.split("\n\n")[0], *found.out.split("\n\n")[1].split("\n", 4)
    assert first.splitlines()[0] == str(pictures / "light" / "01.png")
    assert first.splitlines()[1].split() == ["ensemble", "node", "1", "node", "2"]
    assert [line.split()[0] for line in first.splitlines()[2:]] == ["1", "2"]
    assert second == str(pictures / "dark" / "00.png")
    assert paths[-1] == f"{pictures.parent}/predicted.json\nmaps\n"
    drawn = sorted(Path("maps").iterdir())
    assert [path.name for path in drawn] == ["1-01.png", "2-00.png"]
    assert [image["attention"] for image in found.json["images"]] == list(map(str, drawn))
    with Image.open(drawn[0]) as picture:
        width, height = picture.size
    assert width > 1.5 * height


def test_predict_of_many_images_prints_a_row_for_each_unless_a_file_has_them(done, pictures, capsys):
    assert main(["predict", str(done.folder), str(pictures), "--device", "cpu"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["image", "class", "probability", "nodes", "agree"]
    assert len(rows) == 32
    assert rows[0].split()[0] == str(pictures / "dark" / "00.png")


def test_predict_names_a_training_as_other_commands_do_and_needs_no_data(done, pictures, predict):
    shutil.copytree(done.folder, "runs/train/mine/seed3")
    image = pictures / "dark" / "00.png"
    by_name = predict(image, run="mine")
    assert (by_name.code, by_name.json["folder"]) == (0, f"{pictures.parent}/runs/train/mine/seed3")
    assert by_name.json["images"] == predict(image, run="runs/train/mine").json["images"]
    shutil.copytree(done.folder, "runs/train/mine/seed4")
    assert "mine holds several runs (seed3, seed4)" in predict(image, run="mine").err


def test_predict_of_one_has_its_branches_and_no_maps(folder, pictures, predict):
    run = kdhpc.train("one", **{**SETTINGS, "dataset": make_images(48), "test": (IMAGES, LABELS), "num_nodes": 2})
    found = predict(pictures, run=run.folder)
    right = [
        Path(image["image"]).parent.name == CLASSES[image["ensemble"][0]["label"]] for image in found.json["images"]
    ]
    assert 100 * sum(right) / 32 == pytest.approx(run.ensemble_accuracy)
    for node, accuracy in enumerate(run.node_accuracies):
        label = [image["nodes"][node][0]["label"] for image in found.json["images"]]
        of = [
            Path(image["image"]).parent.name == CLASSES[one]
            for image, one in zip(found.json["images"], label, strict=True)
        ]
        assert 100 * sum(of) / 32 == pytest.approx(accuracy)
    refused = predict(pictures, "--attention", "maps", run=run.folder)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "node 1 makes no attention map" in refused.err
    assert not Path("maps").exists()


def test_predict_of_different_networks_names_them_and_of_a_student_it_is_one(folder, pictures, predict):
    settings = {**SETTINGS, "dataset": make_images(48), "test": (IMAGES, LABELS)}
    mixed = kdhpc.train(kdhpc.dml(2), **{**settings, "network": ["abn_resnet8", "resnet8"]})
    found = predict(pictures / "dark", "--attention", "maps", run=mixed.folder)
    assert (found.code, found.json["networks"]) == (0, ["abn_resnet8", "resnet8"])
    assert len(list(Path("maps").iterdir())) == 16
    student = kdhpc.train("student", teacher=str(mixed.folder), **settings)
    found = predict(pictures / "dark" / "00.png", run=student.folder)
    assert found.out.splitlines()[1].split() == ["prediction"]
    assert found.json["images"][0]["nodes"] == [found.json["images"][0]["ensemble"]]


def test_predict_refuses_runs_that_are_not_done_or_diverged(done, pictures, predict):
    begun = Path("begun")
    shutil.copytree(done.folder, begun)
    RunPaths(begun).result.unlink()
    diverged = Path("diverged")
    shutil.copytree(done.folder, diverged)
    text = RunPaths(diverged).result.read_text(encoding="utf-8")
    for name in ("node_accuracies", "ensemble_accuracy"):
        start = text.index(f'"{name}"')
        end = text.index("]" if name.startswith("node") else ",", start)
        text = f'{text[:start]}"{name}": null{text[end + name.startswith("node") :]}'
    text = text.replace('"diverged_epoch": null', '"diverged_epoch": 1').replace('"diverged": ""', '"diverged": "NaN"')
    RunPaths(diverged).result.write_text(text, encoding="utf-8")
    for run, said in (
        (begun, "begun is not done, the command that began it goes on"),
        (diverged, "diverged diverged at epoch 1: NaN: it has no weights"),
        ("nowhere", "nowhere is no folder"),
    ):
        found = predict(pictures, run=run)
        assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
        assert said in found.err
    assert not Path("predicted.json").exists()


def test_predict_that_is_interrupted_leaves_no_half_file(pictures, predict, monkeypatch):
    Path("predicted.json").write_text('{"run": "before"}', encoding="utf-8")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("kdhpc.inference.predicting._seen", interrupt)
    found = predict(pictures, "--csv", "all.csv", "--attention", "maps")
    assert (found.code, found.json) == (130, {"run": "before"})
    assert sorted(path.name for path in Path().iterdir()) == ["pictures", "predicted.json"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--csv", "pictures"], "pictures is a folder: name a file in it"),
        (["--csv", "-"], "standard output is not for files"),
        (["--csv", "/dev/null"], "/dev/null is no regular file"),
        (["--json", "pictures/dark/00.png/x.json"], "cannot be a folder to write into"),
        (["--attention", "pictures/dark/00.png"], "cannot be a folder to write into"),
        (["--top", "0"], "0 is not above 0"),
        (["--batch", "5000"], "--batch 5000 is not allowed: 1 to 4,096 images"),
        (["--csv", "a", "--json", "a"], "--csv and --json are both a"),
        (["--csv", "a", "--json", "pictures/../a"], "--csv and --json are both a"),
        (["--attention", "pictures/drawn"], "it is in pictures, whose images are predicted"),
        (["--device", "cuda"], "--device cuda cannot be used"),
    ],
)
def test_predict_refuses_wrong_words_before_it_works(done, pictures, capsys, monkeypatch, words, said):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    try:
        code = main(["predict", str(done.folder), "pictures", *words])
    except SystemExit as exc:
        code = exc.code
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize("option", ["--csv", "--json"])
def test_predict_writes_over_nothing_but_its_own_files(done, pictures, predict, capsys, option):
    file = done.folder / "result.json"
    before = file.read_bytes()
    assert main(["predict", str(done.folder), "pictures", option, str(file)]) == 2
    assert "result.json exists, and `kdhpc predict` has not written it" in capsys.readouterr().err
    assert file.read_bytes() == before
    for _ in range(2):
        assert predict(pictures, "--csv", "all.csv").code == 0
