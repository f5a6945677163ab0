"""From a search to its lead over the baselines, to a confirmation and an export: as users do it, and with training."""

import csv
from pathlib import Path

import pytest

from kdhpc.config.compose import compose_search
from kdhpc.config.goals import GOALS
from kdhpc.errors import ConfigError
from kdhpc.graph.presets import dml
from kdhpc.graph.serial import read_stored, write_graph
from kdhpc.searching.plan import plan_study
from kdhpc.study.ranking import estimate_words, lead_line
from kdhpc.training.metrics import read_metrics
from tests.study.made import scalar

GOAL = GOALS["ensemble"]


def test_search_tells_its_lead_confirms_and_exports_by_the_mean(workspace, tmp_path: Path) -> None:
    short = ("study=tiny", "training.epochs=2", "training.milestones=[]", "study.pruner=none", "study.trials=2")
    done = workspace.run("search", "--study", "lead", *short, "study.baselines=[independent]")
    assert done.returncode == 0, done.stderr
    assert "lead: 2/2 trials" in done.stderr
    assert ", 1/1 given" in done.stderr
    status = workspace.read("lead")
    assert f"kdhpc: {lead_line(status.lead, 'lead', GOAL)}\n" in done.stderr
    assert [given.name for given in status.given] == ["independent"]
    assert status.lead[0].points == status.best.value - status.given[0].result.mean
    paths = workspace.paths("lead")
    assert paths.metrics(-1) == workspace.runs / "lead" / "given" / "1" / "metrics.jsonl"
    assert [report.epoch for report in read_metrics(paths.metrics(-1))] == [1, 2], "never pruned"
    assert not paths.checkpoint(-1).exists()

    write_graph(tmp_path / "mine.json", dml(2))
    enqueued = workspace.run("enqueue", "--study", "lead", str(tmp_path / "mine.json"), "independent")
    assert enqueued.returncode == 0, enqueued.stderr
    assert enqueued.stderr.splitlines() == [
        "study lead: mine is given: trainings 1 to come",
        "study lead: independent is given: trainings 1 done",
        "study lead: left to train outside the budget: 1; `kdhpc search --study lead` or `kdhpc launch --study lead` "
        "goes on with it",
    ]

    confirmed = workspace.run("confirm", "--study", "lead", "--top", "1", "--seeds", "2")
    assert confirmed.returncode == 0, confirmed.stderr
    status = workspace.read("lead")
    assert (status.target, status.given_trials.complete, status.unfinished) == (2, 6, 0)
    assert status.best.confirmed.seeds == 2
    assert [given.result.seeds for given in status.given] == [2, 2]
    assert all(lead.is_confirmed for lead in status.lead)
    shown = workspace.run("status", "--study", "lead").stdout.splitlines()
    assert "given    6 complete (outside the budget)" in shown
    best = f"{status.best.value:.2f} % (trial {status.best.number})"
    assert f"best     {best} in the search, confirmed {estimate_words(status.best.confirmed, GOAL)}" in shown
    assert f"lead     {lead_line(status.lead, 'lead', GOAL)}" in shown

    exported = workspace.run("export-best", "--study", "lead", "--top", "2")
    assert exported.returncode == 0, exported.stderr
    assert f"kdhpc: trial {status.best.number}: " in exported.stderr
    rows = list(csv.DictReader(Path(exported.stdout.splitlines()[-1]).read_text().splitlines()))
    assert [row["confirmed_mean"] for row in rows] == [str(status.best.confirmed.mean), ""]
    provenance = read_stored(Path(exported.stdout.splitlines()[0])).provenance
    assert provenance["value"] == float(rows[0]["value"]) == status.best.value
    assert (provenance["confirmed_mean"], provenance["confirmed_seeds"]) == (status.best.confirmed.mean, 2)

    again = workspace.run("confirm", "--study", "lead", "--top", "1", "--seeds", "2", "--no-train")
    assert again.stderr == "study lead: nothing is left to train outside the budget\n"
    missing = workspace.run("confirm", "--study", "leed", "--no-train")
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "unknown study 'leed': did you mean 'lead'?" in missing.stderr


def test_a_new_study_is_given_its_baselines_by_default_and_wrong_ones_are_refused(
    workspace, storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KDHPC_DATA", "KDHPC_CONFIG_DIR"):
        monkeypatch.setenv(name, workspace.environment[name])
    monkeypatch.chdir(tmp_path)
    plan = plan_study("mine", compose_search(["study=tiny", "study.baselines=[independent,dml]"]))
    assert [given.name for given in plan.baselines] == ["independent", "dml"]
    assert compose_search(["study=quickstart"]).study.baselines == ("independent", "dml")
    plan.open(storage)
    assert scalar(storage, "SELECT count(*) FROM kdhpc_slots WHERE graph_key IS NOT NULL") == 2
    # Of a study that was made before there were baselines, nothing differs.
    plan_study("mine", compose_search(["study=tiny"])).open(storage)
    assert scalar(storage, "SELECT count(*) FROM kdhpc_slots WHERE graph_key IS NOT NULL") == 2
    write_graph(tmp_path / "three.json", dml(3))
    for wrong, said in (
        (
            "indepedent",
            r"graph 'indepedent' is neither a preset nor a file: did you mean 'independent'.*study\.baselines",
        ),
        ("three.json", r"three has 3 nodes, the study's graphs have 2"),
    ):
        with pytest.raises(ConfigError, match=said):
            plan_study("mine", compose_search(["study=tiny", f"study.baselines=[{wrong}]"]))
