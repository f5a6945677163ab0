"""Our numbers beside the paper's, from results of real format that nobody has trained."""

import csv
import dataclasses
import io
import math
from pathlib import Path

import pytest

from kdhpc.cli.main import main
from kdhpc.config.compose import compose_train
from kdhpc.config.paths import RunPaths
from kdhpc.errors import DataError
from kdhpc.final.result import FinalResult, write_result
from kdhpc.final.settings import config_settings, write_settings
from kdhpc.reproduce.cost import speeds
from kdhpc.reproduce.datasets import miniature_datasets
from kdhpc.reproduce.overrides import Overrides
from kdhpc.reproduce.plan import Plan
from kdhpc.reproduce.reading import Wanted, read_plan, shared_names
from kdhpc.reproduce.table import entries_of, markdown, read_published, table_csv
from tests.reproduce.made import pack_few

_INDEPENDENT = "miniature-fashion_mnist-resnet8-independent2"
_OURS = "miniature-fashion_mnist-resnet8-ours2"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("KDHPC_RUNS", "KDHPC_DATA", "KDHPC_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan_of(name: str) -> Plan:
    standing = miniature_datasets(())
    return read_plan(
        name, Wanted(scale="miniature", standing=standing, overrides=Overrides(), launcher="none", config_dir=None)
    )


def write(name: str, seed: int, nodes: tuple[float, ...], ensemble: float, **changes: object) -> None:
    result = FinalResult(
        name=name,
        dataset="fashion_mnist",
        network="resnet8",
        graph="independent",
        graph_key="0123456789ab",
        num_nodes=len(nodes),
        seed=seed,
        epochs=8,
        training_images=2000,
        scored_on="test",
        settings="fedcba9876543210",
        node_accuracies=nodes,
        ensemble_accuracy=ensemble,
        num_parameters=150000,
        seconds=16.0,
        device="cpu",
        versions={},
    )
    folder = Path("runs/train") / name / f"seed{seed}"
    folder.mkdir(parents=True)
    write_result(dataclasses.replace(result, **changes), folder / "result.json")  # type: ignore[arg-type]


def test_table_has_both_means_the_difference_its_error_and_the_best_in_bold() -> None:
    write(_INDEPENDENT, 0, (60.0, 70.0), 71.0)
    write(_INDEPENDENT, 1, (62.0, 72.0), 73.0)
    write(_OURS, 0, (61.0, 61.0), 70.0)
    plan = plan_of("table2")

    text = markdown(plan, entries_of(plan, Path("runs/reproduce/table2-miniature")))

    rows = [line for line in text.splitlines() if line.startswith("| Independent, 2") or line.startswith("| Ours, 2")]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    # Nodes: means 65 and 67; their deviation is sqrt(2). The paper: 65.31 +- 0.16 of five.
    error = math.sqrt(2 / 2 + 0.16**2 / 5)
    assert cells[0][:4] == ["Independent, 2 nodes", "**66.00 ± 1.41**", "65.31 ± 0.16", f"+0.69 ± {error:.2f}"]
    error = math.sqrt(2 / 2 + 0.20**2 / 5)
    assert cells[0][4:7] == ["**72.00 ± 1.41**", "68.19 ± 0.20", f"+3.81 ± {error:.2f}"]
    # One run has no deviation, and so no error. The paper's best of two nodes is its best of all.
    assert cells[1][:4] == ["Ours, 2 nodes", "61.00", "**71.38 ± 0.08**", "-10.38"]
    assert cells[1][7:] == ["-", "**72.77 ± 0.23**", "-", "-", "**73.86 ± 0.26**", "-"]
    assert "Table 2, top-1 in percent" in text
    assert "stands for Stanford Dogs" in text


def test_csv_has_a_row_for_each_number_and_empty_cells_for_what_is_not_there() -> None:
    write(_INDEPENDENT, 0, (60.0, 70.0), 71.0)
    plan = plan_of("table2")

    rows = list(csv.DictReader(io.StringIO(table_csv(entries_of(plan, Path("none"))))))

    assert len(rows) == 8 * 4
    first = rows[0]
    assert (first["row"], first["column"], first["ours_mean"], first["ours_std"]) == (
        *("Independent, 2 nodes", "ResNet node"),
        *("65.0", ""),
    )
    assert float(first["difference"]) == pytest.approx(-0.31)
    assert first["standard_error"] == ""
    assert rows[-1]["ours_mean"] == ""
    assert rows[-1]["paper_mean"] == "73.41"


def test_runs_that_diverged_are_counted_and_in_no_mean() -> None:
    write(_INDEPENDENT, 0, (60.0, 70.0), 71.0)
    write(
        *(_INDEPENDENT, 1, (0.0, 0.0), 0.0),
        node_accuracies=None,
        ensemble_accuracy=None,
        diverged_epoch=3,
        diverged="a loss is not finite",
    )
    plan = plan_of("table2")

    entries = entries_of(plan, Path("none"))

    assert (entries[0].num, entries[0].num_diverged) == (1, 1)
    assert "Runs that diverged, and are in no mean: Independent, 2 nodes: 1" in markdown(plan, entries)


def test_teacher_is_node_1_and_students_of_all_seeds_are_one_mean() -> None:
    write("miniature-fashion_mnist-resnet8-dml2", 0, (60.0, 70.0), 71.0)
    for seed, accuracy in ((0, 64.0), (1, 66.0)):
        write(f"miniature-fashion_mnist-resnet8-student-of-dml2-{seed}", seed, (accuracy,), accuracy)

    entries = {(entry.row, entry.column): entry for entry in entries_of(plan_of("table4"), Path("none"))}

    teacher, student = entries["DML", "teacher"], entries["DML", "student"]
    assert teacher.ours is not None
    assert teacher.ours.mean == 60.0
    assert student.ours is not None
    assert (student.ours.mean, student.num) == (65.0, 2)
    # The paper has no deviation there: the error is ours alone, sqrt(2 / 2).
    assert student.standard_error == pytest.approx(1.0)


def test_table1_takes_the_coefficient_from_the_pairs_of_its_report(folder: Path) -> None:
    pairs = folder / "fashion_mnist-first" / "pairs.csv"
    pairs.parent.mkdir()
    pairs.write_text("mutual_kl,gain\n1,1\n2,2\n3,2\n", encoding="utf-8")
    plan = plan_of("table1")

    entries = entries_of(plan, folder)

    assert entries[0].row == "Stanford Dogs"
    assert entries[0].ours is not None
    assert entries[0].ours.mean == pytest.approx(math.sqrt(3) / 2)
    assert "0.866" in markdown(plan, entries)
    pairs.write_text("mutual_kl,other\n1,1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"is not what `kdhpc report pairs` writes"):
        entries_of(plan, folder)


def test_published_numbers_are_the_papers() -> None:
    # Some of each table, as printed.
    table = read_published("table2")
    assert (table.numbers["Ours, 5 nodes", "ResNet node"].mean, table.numbers["Ours, 5 nodes", "ResNet node"].std) == (
        *(52.28, 0.87),
    )
    assert len(table.numbers) == 64
    assert table.numbers["DML, 4 nodes", "ABN node"].mean == 71.50
    assert read_published("table1").numbers["Stanford Cars", "correlation"].mean == 0.499
    assert read_published("table3").numbers["CIFAR-10, graph of CIFAR-100", "ensemble"].mean == 94.37
    assert read_published("table4").numbers["Ours", "student"].mean == 72.94


def test_dry_run_takes_the_speed_of_runs_that_are_done(capsys: pytest.CaptureFixture[str]) -> None:
    # 2 networks, 2,000 images, 8 epochs in 16 seconds: 2,000 images a second and network.
    write(_INDEPENDENT, 0, (60.0, 70.0), 71.0)

    assert main(["reproduce", "table2", "--scale", "miniature", "--dry-run"]) == 0

    printed = capsys.readouterr().out
    assert "# measured here instead, by runs that are done, with compiling and evaluation: resnet8" in printed
    assert "32 trainings; left to do: 2 searches, 31 trainings" in printed


def test_runs_of_other_settings_are_not_taken_for_done(capsys: pytest.CaptureFixture[str]) -> None:
    write(_INDEPENDENT, 0, (60.0, 70.0), 71.0)
    pack_few("fashion_mnist")
    overrides = ("dataset=fashion_mnist", "network=resnet8", "training=short", "training.epochs=8")
    more = ("training.milestones=[0.5,0.75]", "dataset.subset=null")
    config = compose_train(["run.graph=independent", "run.num_nodes=2", *overrides, *more])
    settings = RunPaths.of(_INDEPENDENT, 0).settings
    write_settings(config_settings(config), settings)
    command = ["reproduce", "table2", "--scale", "miniature", "--dry-run"]

    assert main(command) == 0
    capsys.readouterr()
    assert main([*command, "training.epochs=4"]) == 2
    said = capsys.readouterr().err
    assert f"{_INDEPENDENT}/seed0 is done with other settings (training.epochs was 8, is 4" in said
    assert said.count("\n") == 1
    RunPaths.of(_INDEPENDENT, 0).result.write_text("", encoding="utf-8")
    assert main(command) == 1
    assert "result.json" in capsys.readouterr().err


def test_table_takes_the_seeds_of_its_plan_alone(folder: Path) -> None:
    for seed in (0, 1, 5):
        write(_INDEPENDENT, seed, (60.0, 70.0), 71.0 + seed)
    found = [entry for entry in entries_of(plan_of("table2"), folder) if entry.num]

    assert {entry.row for entry in found} == {"Independent, 2 nodes"}
    assert {entry.num for entry in found} == {2}
    ensemble = next(entry for entry in found if entry.column.endswith("ensemble"))
    assert ensemble.ours is not None
    assert ensemble.ours.mean == 71.5


def test_measured_speed_counts_each_rotation_of_sla() -> None:
    write("miniature-fashion_mnist-resnet8-sla", 0, (60.0,), 60.0, seconds=64.0, graph="sla")
    steps = [step for step in plan_of("table4").steps if step.name.endswith("-sla")]

    found = speeds(shared_names("miniature", None), steps, at_once=2, origin="here")

    # 2,000 images in four rotations, 8 epochs, 64 seconds; two such at once.
    assert (found["resnet8"].images_per_s, found["resnet8"].is_measured) == (2000.0, True)
