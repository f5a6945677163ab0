"""``kdhpc trial``, ``kdhpc logs`` and ``kdhpc studies`` as users meet them, on a real database and real files."""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdhpc.cli.main import main
from kdhpc.config.paths import StudyPaths
from kdhpc.graph.presets import load_graph
from kdhpc.graph.serial import read_stored
from kdhpc.study.given import GivenGraph
from kdhpc.study.owner import Owner
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.study.made import make, take

Said = tuple[int, str, str]


@pytest.fixture
def said(
    storage: Storage,
    storage_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Said]:
    """What a command says: exit code, output, errors; with folders of its own."""
    monkeypatch.setenv("KDHPC_STORAGE", storage_url)
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)

    def said(*words: str) -> Said:
        code = main(list(words))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return said


def worker(job: str | None) -> Owner:
    return Owner.current(job=job)


def write_log(job: str, *messages: str, launch: str = "launch1", study: str = "tiny") -> Path:
    path = StudyPaths.of(study).launch_jobs(launch) / f"{job}_0_log.out"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"2026-11-29 11:00:00,000 INFO {text}\n" for text in messages), encoding="utf-8")
    return path


def with_trials(storage: Storage) -> SharedStudy:
    """A complete, a pruned and a running trial; logs of two of them."""
    study = make(storage, target=5, settings=json.dumps({"training": {"epochs": 4, "milestones": [3]}}))
    for value in (60.0, 70.0):
        trial = take(study, worker("17_0"))
        for epoch in (1, 2, 4):
            trial.report_rung(epoch, value)
    pruned = take(study, worker("local-4242"))
    pruned.describe(mode="eager", data="disk")
    pruned.report_rung(1, 40.0)
    take(study, worker(None))
    write_log("17_0", "trial 0, slot 0, attempt 1: starts", "trial 0: complete")
    write_log("4242", "trial 2, slot 2, attempt 1: starts", "epoch \x1b[31m\x07", "trial 2: pruned", "the end")
    return study


def test_trial_tells_its_story(storage: Storage, said: Callable[..., Said]) -> None:
    with_trials(storage)
    code, out, err = said("trial", "2")
    assert (code, err) == (0, "")
    assert max(map(len, out.split("worker  ")[0].splitlines())) <= 120
    for words in (
        "trial    2 of study tiny",
        "state    pruned at epoch 1: 40.00 % was below the median of the others that had reported by then",
        "work     0 s (eager, disk)",
        "ensemble",
        "1      40.00 %   65.00 %  2       pruned",
        f"{socket.gethostname()}:{os.getpid()}  local-4242",
        "log      runs/tiny/jobs/launch1/4242_0_log.out",
        "kdhpc trial 2 --study tiny --out runs/tiny/export/tiny-trial2.json",
        "kdhpc train --graph runs/tiny/export/tiny-trial2.json dataset=fashion_mnist network=resnet20",
    ):
        assert words in out
    assert "complete: 60.00 %, place 2 of 2 complete trials" in said("trial", "0")[1]
    assert "none is there: its worker was started by hand" in said("trial", "3")[1]


def test_trial_as_json_and_its_graph_as_a_file(storage: Storage, said: Callable[..., Said]) -> None:
    study = with_trials(storage)
    code, out, _ = said("trial", "2", "--format", "json", "--out", "graph.json")
    told = json.loads(out)
    assert code == 0
    assert (told["state"], told["pruned_at"], told["label"]) == ("pruned", 1, "2")
    assert told["curve"] == [{"epoch": 1, "value": 40.0, "median": 65.0, "others": 2}]
    (attempt,) = told["attempts"]
    assert (attempt["job"], attempt["how"]) == ("local-4242", "pruned")
    assert [Path(path).name for path in attempt["logs"]] == ["4242_0_log.out"]
    assert told["train_command"].startswith("kdhpc train --graph graph.json dataset=fashion_mnist network=resnet20")
    assert "training.epochs=4" in told["train_command"]
    stored = read_stored(Path("graph.json"))
    assert stored.graph == study.definition.space.graph(0, 2)
    assert (stored.provenance["study"], stored.provenance["trial"]) == ("tiny", 2)
    assert said("trial", "2", "--out", "graph.json")[0] == 0, "a graph's file is replaced"
    Path("notes.txt").write_text("mine")
    code, out, err = said("trial", "2", "--out", "notes.txt")
    assert (code, out, Path("notes.txt").read_text()) == (2, "", "mine")
    assert "--out notes.txt is not allowed: it exists, and is no graph's file" in err


def test_given_trial_is_named_as_status_names_it(storage: Storage, said: Callable[..., Said]) -> None:
    study = make(storage, target=2)
    study.give([GivenGraph(graph=load_graph("dml", 2), name="dml")])
    take(study, worker("17_0")).report_rung(4, 50.0)
    write_log("17_0", "given trial 1, slot 0, attempt 1: starts", "given trial 1: complete", "trial 1: complete")
    for words in (("given", "1"), ("given 1",), ("-1",)):
        code, out, _ = said("trial", *words)
        assert (code, "given 1: training 1 of dml of study tiny" in out) == (0, True)
    _, out, _ = said("logs", "--trial", "given", "1")
    assert out.splitlines()[1:] == [
        "2026-11-29 11:00:00,000 INFO given trial 1, slot 0, attempt 1: starts",
        "2026-11-29 11:00:00,000 INFO given trial 1: complete",
    ]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("trial 4", 1, "trial 4 is not begun yet, so there is nothing to tell: study 'tiny' has trials 0 to 4, and 4"),
        ("trial 9", 1, "trial 9 is not there: study 'tiny' has trials 0 to 4"),
        ("trial given 1", 1, "given trial 1 is not there: study 'tiny' was given no graphs"),
        ("trial best", 2, "'best' is no trial: give the number of one, as 17, or `given 1`"),
        ("trial 0 --study tinny", 1, "unknown study 'tinny': did you mean 'tiny'? there are tiny"),
        ("logs --trial 4", 1, "trial 4 is not begun yet"),
        ("logs --trial 3", 1, "trial 3 has no log in"),
        ("logs --worker 17_5", 2, "no worker '17_5' is known: did you mean '17_0'?"),
        ("logs --study tinny", 1, "did you mean 'tiny'?"),
    ],
)
def test_what_is_not_there_is_one_line_that_says_what_is(
    storage: Storage, said: Callable[..., Said], words: str, code: int, message: str
) -> None:
    with_trials(storage)
    was, out, err = said(*words.split())
    assert (was, out, err.count("\n")) == (code, "", 1)
    assert message in err


def test_wrong_study_in_the_environment_is_told_where_it_comes_from(
    storage: Storage, said: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(12):
        make(storage, name=f"quickstart{index}", target=1)
    monkeypatch.setenv("KDHPC_STUDY", "quikstart1")
    code, _, err = said("status")
    assert code == 1
    assert "did you mean 'quickstart1' or 'quickstart" in err
    assert "quickstart7 and 2 more (see `kdhpc studies`)" in err
    assert err.endswith("(KDHPC_STUDY=quikstart1 names this study)\n")


def test_logs_show_the_latest_and_which_others_there_are(storage: Storage, said: Callable[..., Said]) -> None:
    with_trials(storage)
    old = StudyPaths.of("tiny").launch_jobs("launch1") / "17_0_0_log.out"
    os.utime(old, (time.time() - 3600,) * 2)
    code, out, err = said("logs", "-n", "2")
    assert code == 0
    assert out == (
        f"==> {old.with_name('4242_0_log.out')} <==\n"
        "2026-11-29 11:00:00,000 INFO trial 2: pruned\n2026-11-29 11:00:00,000 INFO the end\n"
    )
    assert [line.split()[0] for line in err.splitlines()[2:] if line] == ["17_0", "4242"]
    assert "60 min ago" in err
    here = f"{socket.gethostname()}:{os.getpid()}"
    assert here in err
    for name in ("17_0", "4242", "local-4242"):
        assert f"{name.removeprefix('local-')}_0_log.out <==" in said("logs", "--worker", name)[1]


def test_logs_of_a_trial_are_its_lines_without_control_characters(storage: Storage, said: Callable[..., Said]) -> None:
    with_trials(storage)
    _, out, _ = said("logs", "--trial", "2")
    assert out.splitlines()[1:] == [
        "2026-11-29 11:00:00,000 INFO trial 2, slot 2, attempt 1: starts",
        "2026-11-29 11:00:00,000 INFO epoch \\x1b[31m\\x07",
        "2026-11-29 11:00:00,000 INFO trial 2: pruned",
    ]


def test_logs_that_end_are_followed_to_their_end(storage: Storage, said: Callable[..., Said]) -> None:
    with_trials(storage)
    _, out, _ = said("logs", "--trial", "2", "--follow")
    assert out.splitlines()[-1].endswith("trial 2: pruned")


def test_following_ends_by_ctrl_c_without_a_traceback(storage: Storage, said: Callable[..., Said]) -> None:
    with_trials(storage)
    interrupt = threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    code, out, err = said("logs", "--follow")
    interrupt.join()
    assert (code, err.splitlines()[-1]) == (130, "kdhpc: interrupted")
    assert out.splitlines()[-1].endswith("the end")


def test_logs_are_shown_while_the_database_is_away(
    said: Callable[..., Said], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_trials(storage)
    monkeypatch.setenv("KDHPC_STORAGE", "postgresql://someone@127.0.0.1:1/none")
    code, out, err = said("logs", "--study", "tiny", "--trial", "2")
    assert (code, len(out.splitlines())) == (0, 4)
    assert "logs are shown by their files alone" in err
    assert said("logs")[0] == 1


def test_studies_are_listed(storage: Storage, said: Callable[..., Said]) -> None:
    assert said("studies")[1] == "there is no study yet: make one with `kdhpc search --study NAME`\n"
    with_trials(storage)
    _, out, _ = said("studies")
    head, row = out.splitlines()
    assert head.split() == ["study", "state", "trials", "best", "trial", "last", "data", "networks"]
    assert row.split()[:7] == ["tiny", "running", "3/5", "70.00", "%", "1", "0"]
    (told,) = json.loads(said("studies", "--format", "json")[1])
    assert (told["study"], told["best"]["value"], told["dataset"]) == ("tiny", 70.0, "fashion_mnist")


def test_drawing_is_ascii_where_the_output_is(
    storage: Storage, said: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_trials(storage)
    monkeypatch.setattr(type(sys.stdout), "encoding", "ascii", raising=False)
    assert said("trial", "0")[1].isascii()
