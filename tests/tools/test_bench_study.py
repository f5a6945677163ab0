"""The study's benchmarks, small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pooler import require_pgbouncer

ROOT = Path(__file__).parents[2]


def report_of(*argv):
    done = subprocess.run(
        [sys.executable, "-m", "tools.benchmarks", *argv, "--json"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_bench_study_measures_both_sides_on_a_study_with_a_past():
    report = report_of("study", "--workers", "2", "--finished", "40", "--trials", "6")
    ours, plain = report["rows"]
    assert (ours["side"], plain["side"]) == ("ours", "plain Optuna")
    assert ours["trials"] == 6
    assert plain["trials"] >= 6
    assert ours["register st"] <= 15
    assert ours["report st"] <= 6
    assert plain["register st"] > 90
    assert ours["CPU ms/trial"] > 0
    assert plain["ratio"] == 1


@pytest.mark.parametrize("sessions", [(), ("--pgbouncer", "2")])
def test_bench_fleet_loses_nothing(sessions):
    if sessions:
        require_pgbouncer()
    report = report_of("fleet", "--workers", "20", "--minutes", "2", "--epoch-s", "5", "--faster", "12", *sessions)
    calls = {
        row["call"]: row["calls"] for row in report["rows"]
    }  # Some of 20 are pruned, in whatever order they begin.
    assert min(calls["lease"], calls["report"], calls["end"], calls["renew"]) > 0
    assert "errors 0;" in report["notes"][0]
    assert report["notes"][0].endswith("left running: yes.")
