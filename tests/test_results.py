"""Every row of the tables in docs/results/README.md is made again, from the JSON that is kept beside it."""

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from kdhpc.cli.main import main
from kdhpc.reproduce.datasets import miniature_datasets
from kdhpc.reproduce.overrides import Overrides
from kdhpc.reproduce.reading import Wanted, read_plan
from kdhpc.reproduce.table import entries_of, markdown, table_csv

_FOLDER = Path(__file__).parents[1] / "docs/results"
_PARTS = sorted(path.parent.name for path in _FOLDER.glob("*/trials.json"))
_MEASURES = "ensemble,node,nll,ece,mutual_kl"


def _rows(markdown: str) -> list[tuple[str, ...]]:
    """The cells of all rows, without what only stresses them."""
    lines = [line for line in markdown.splitlines() if line.startswith("|") and "---" not in line]
    return [tuple(re.sub(r"[*`]", "", cell).strip() for cell in line.strip("|").split("|")) for line in lines]


def _tables(markdown: str) -> list[list[tuple[str, ...]]]:
    return [_rows(table) for table in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE)]


def _readme() -> list[list[tuple[str, ...]]]:
    return _tables((_FOLDER / "README.md").read_text())


def _with_head(*head: str) -> list[list[tuple[str, ...]]]:
    """Tables of README.md whose first columns are these, without their heads."""
    found = [rows[1:] for rows in _readme() if rows[0][: len(head)] == head]
    assert found, head
    return found


def _script(*words: str) -> str:
    return subprocess.run([sys.executable, *words], cwd=_FOLDER, check=True, capture_output=True, text=True).stdout


def _printed(capsys: pytest.CaptureFixture[str], *words: str) -> list[tuple[str, ...]]:
    assert main(["results", *words, "--columns", _MEASURES, "--format", "markdown"]) == 0
    return _rows(capsys.readouterr().out)


def _folders(parts: Iterable[str]) -> list[str]:
    return [str(_FOLDER / part) for part in parts]


def test_tables_are_all_looked_at() -> None:
    """A table with another head needs a test of its own."""
    known = {"part", "images", "training", "epoch", "graph", "sampler"}  # That of parts says in words how each ended.
    assert {rows[0][0] for rows in _readme()} == known


def test_means_over_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    printed = _printed(capsys, *_folders(_PARTS))[1:]
    assert {row for rows in _with_head("training", "seeds") for row in rows} == set(printed)  # None is left out.


def test_differences_in_pairs_of_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    bases = [part for part in _PARTS if (_FOLDER / part / f"{part}-independent").is_dir()]
    printed = [row for base in bases for row in _printed(capsys, *_folders(_PARTS), "--against", f"{base}-independent")]
    rows = [row for rows in _with_head("training", "pairs", "ensemble") for row in rows]
    assert [row for row in rows if row not in printed] == []
    means = {row[0] for rows in _with_head("training", "seeds") for row in rows}
    assert {row[0] for row in rows} == {name for name in means if not name.endswith("-independent")}


def test_bf16_and_float32() -> None:
    printed = _rows(_script("precision.py", "."))
    for rows in (*_with_head("training", "pairs", "float32"), *_with_head("training", "mode")):
        assert [row for row in rows if row not in printed] == []


def test_how_far_graphs_came_and_what_confirmation_left() -> None:
    printed = [table for part in _PARTS for table in _tables(_script("tables.py", part, "4"))]
    every = [row for table in printed for row in table]
    for rows in _with_head("graph", "value in the search"):
        # Behind a trial's number stands which graph it is.
        short = [(row[0].partition(",")[0], *row[1:]) for row in rows]
        assert [row for row in short if row not in every] == []
    for table in [rows for rows in _readme() if rows[0][0] == "epoch"]:
        without = [[(*row[:3], *row[4:]) for row in other] for other in printed]
        assert table in printed or table in without, table


def test_samplers(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "samplers.py", "table", "samplers", str(tmp_path)], cwd=_FOLDER, check=True)
    (rows,) = _with_head("sampler")
    assert rows == _rows((tmp_path / "samplers.md").read_text())[1:]


def test_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    kept = _FOLDER / "miniature"
    (tmp_path / "train").symlink_to(kept / "train")
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path))
    monkeypatch.setenv("KDHPC_DATA", str(tmp_path))
    wanted = Wanted(
        scale="miniature",
        standing=miniature_datasets(("fashion_mnist",), must_exist=False),
        overrides=Overrides(),
        launcher="none",
        config_dir=None,
    )
    for name in ("table1", "table2", "table3", "table4"):
        plan = read_plan(name, wanted)
        entries = entries_of(plan, kept)
        assert markdown(plan, entries) == (kept / f"{name}.md").read_text()
        assert table_csv(entries) == (kept / f"{name}.csv").read_text()
    assert main(["results", str(kept / "train"), "--format", "csv"]) == 0
    assert capsys.readouterr().out == (kept / "results.csv").read_text()


def test_pilot() -> None:
    kept: set[tuple[str, ...]] = set()
    for name, losses in json.loads((_FOLDER / "pilot/losses.json").read_text()).items():
        result = json.loads((_FOLDER / "pilot" / name / "result.json").read_text())
        scores = result["scores"]
        cells = (
            *(f"{result['training_images']:,}", str(result["epochs"])),
            {"independent": "Independent", "dml": "DML"}.get(result["graph"], result["graph"]),
            *(f"{statistics.fmean(result['node_accuracies']):.2f}", f"{result['ensemble_accuracy']:.2f}"),
            *(f"{scores['ensemble'][of]:.3f}" for of in ("nll", "ece")),
            f"{scores['mutual_kl']:.2f}",
        )
        # Of a loss that teaches and one that separates, the sum is left out.
        kept |= {(*cells, f"{statistics.fmean(losses):.2f}"), (*cells, "")}
    for rows in _with_head("images"):
        images = epochs = ""
        for row in rows:
            images, epochs = row[0] or images, row[1] or epochs
            assert (images, epochs, *row[2:]) in kept
