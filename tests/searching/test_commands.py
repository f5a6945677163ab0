"""What commands say about a study that exists, is stopped, or is to be deleted."""

from pathlib import Path

from kdhpc.config.compose import compose_search
from kdhpc.searching.plan import plan_study
from kdhpc.study.storage import Storage


def test_study_that_exists_keeps_its_budget_and_needs_no_config(workspace) -> None:
    made = workspace.run("search", "--study", "lasting", "study=tiny", "--trials", "2", "training.epochs=1")
    assert made.returncode == 0, made.stderr
    again = workspace.run("search", "--study", "lasting", "study=tiny", "training.epochs=1")
    assert again.returncode == 0, again.stderr
    assert workspace.status("lasting")["target"] == 2
    assert "study lasting keeps its budget of 2 trials, not study.trials=6 of its config: --trials" in again.stderr
    stored = workspace.run("search", "--study", "lasting", "device.threads=1")
    assert (stored.returncode, workspace.status("lasting")["target"]) == (0, 2)
    assert "keeps its budget" not in made.stderr + stored.stderr
    more = workspace.run("search", "--study", "lasting", "--trials", "3")
    assert more.returncode == 0, more.stderr
    assert workspace.status("lasting")["trials"]["waiting"] == 0
    fewer = workspace.run("search", "--study", "lasting", "--trials", "1")
    assert fewer.returncode == 1
    assert "cannot be lowered to 1 trial: 3 have started" in fewer.stderr.splitlines()[-1]

    blocked = workspace.folder / "afile"
    blocked.write_text("")
    for out in (blocked, blocked / "x"):
        done = workspace.run("export-best", "--study", "lasting", "--out", str(out))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert f"{out} cannot be a folder to write into, {blocked} is a file: name another" in done.stderr
    exported = workspace.run("export-best", "--study", "lasting").stdout.splitlines()
    assert Path(exported[0]) == workspace.folder / "runs" / "lasting" / "export" / "lasting-best.json"

    stopped = workspace.run("stop", "--study", "lasting")
    assert stopped.returncode == 0, stopped.stderr
    worker = workspace.run("worker", "--study", "lasting")
    assert worker.returncode == 0
    assert "study lasting is stopped" in worker.stderr
    bad = workspace.run("worker", "--study", "lasting", "device.threads=[1")
    assert bad.returncode == 2
    assert bad.stderr.splitlines()[-1].startswith("kdhpc: override 'device.threads=[1' cannot be read: device.threads")

    kept = workspace.run("db", "delete-study", "lasting")
    assert (kept.returncode, kept.stderr.count("\n")) == (2, 1)
    assert "study 'lasting' has 3 trials: `kdhpc db delete-study lasting --yes`" in kept.stderr
    deleted = workspace.run("db", "delete-study", "lasting", "--yes")
    assert deleted.returncode == 0, deleted.stderr
    assert "lasting deleted; its files in" in deleted.stderr
    assert workspace.run("status", "--study", "lasting").returncode == 1


def test_study_that_was_never_trained_is_deleted_without_asking(workspace, monkeypatch) -> None:
    for name in ("KDHPC_RUNS", "KDHPC_DATA", "KDHPC_CONFIG_DIR"):
        monkeypatch.setenv(name, workspace.environment[name])
    storage = Storage.connect()
    plan_study("unused", compose_search(["study=tiny"])).open(storage)
    storage.close()
    assert "unused" in workspace.run("db", "delete-study", "unusd").stderr
    done = workspace.run("db", "delete-study", "unused")
    assert (done.returncode, done.stderr) == (0, "study unused deleted\n")
