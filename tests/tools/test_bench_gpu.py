"""The GPU's benchmark without a GPU: that it refuses, and that its CPU half runs through, with rows that are kept."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdhpc.data.prepare import Order, prepare
from kdhpc.data.readers.folder import FolderReader
from tests.data.trees import silent, write_folder
from tools.benchmarks.gpu import add_arguments, run

ROOT = Path(__file__).parents[2]


def run_bench(*argv, **environment):
    return subprocess.run(
        [sys.executable, "-m", "tools.benchmarks", "gpu", *argv],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_bench_gpu_without_one_refuses_in_one_line():
    done = run_bench()
    assert done.returncode == 1
    assert "bench: error: a GPU is needed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(900)  # Four processes import torch.
def test_bench_gpu_the_half_for_a_cpu_runs_through_with_the_default_networks(tmp_path):
    source, folder = write_folder(tmp_path / "source", train=20), tmp_path / "data" / "fashion_mnist"
    prepare(Order(reader=FolderReader(), reader_name="folder", source=source, folder=folder, size=28), silent())
    options = ("--cpu", "--eager", "--seats", "2", "--processes", "2", "--epochs", "1", "--images", "20")
    done = run_bench(*options, "--out", str(tmp_path / "out"), "--json", KDHPC_DATA=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(row["network"], row["cell"]) for row in report["rows"] if row["error"]] == []
    cells = {"eager", "eager, images ready", "eager, 2 seats", "2 processes", "grouped"}
    cells |= {"eager, contiguous", "eager, bf16"}
    found = [(row["network"], row["cell"]) for row in report["rows"]]
    assert sorted(found) == sorted(
        [(network, cell) for network in ("resnet20", "resnet18") for cell in cells]
        + [("resnet20", "parity, float32"), ("resnet20", "parity, bf16")]
    )
    assert all(row["step_ms"] > 0 for row in report["rows"])
    assert json.loads((tmp_path / "out" / "gpu.json").read_text())["rows"] == report["rows"]
    assert "| resnet18 | 2 processes |" in (tmp_path / "out" / "gpu.md").read_text()


def run_here(tmp_path, *options):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    out = ("--networks", "resnet8", "--cpu", "--eager", "--out", str(tmp_path))
    return run(parser.parse_args([*out, *options]))


def test_bench_gpu_cell_that_fails_is_a_row_and_the_next_one_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("KDHPC_DATA", str(tmp_path / "nothing is prepared"))
    rows = run_here(tmp_path, "--parts", "parity", "grouped").rows
    assert [bool(row["error"]) for row in rows] == [True, True, False]
    assert "kdhpc data prepare" in rows[0]["error"]


def test_bench_gpu_rows_known_so_far_are_in_the_files_when_it_is_stopped(tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tools.benchmarks.gpu.grouped_cell", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_here(tmp_path, "--parts", "modes", "grouped")
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["cell"] for row in rows] == ["eager", "eager, images ready"]


def test_bench_gpu_begins_no_cell_after_its_time(tmp_path):
    rows = run_here(tmp_path, "--parts", "modes", "--minutes", "0").rows
    assert {row["error"] for row in rows} == {"no time was left"}
