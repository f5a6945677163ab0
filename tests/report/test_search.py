"""The report of a search: its numbers, and its page, of studies in a real PostgreSQL."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sqlalchemy import text

from kdhpc.cli.main import main
from kdhpc.graph.presets import dml, independent
from kdhpc.graph.serial import write_graph
from kdhpc.graph.space import SearchSpace
from kdhpc.report.search_choices import compare_choices
from kdhpc.report.search_progress import follow_progress
from kdhpc.report.search_report import command_line
from kdhpc.study.given import load_given
from kdhpc.study.search_history import SearchHistory, read_search
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.report.made_search import make_search
from tests.study.made import HERE, make, take

_EVIL = "<img src=x onerror=alert(1)> $x$ \N{HIRAGANA LETTER A}"


class Page(HTMLParser):
    """What a page holds."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    @property
    def figures(self) -> list[str]:
        return [str(found["aria-label"]) for tag, found in self.tags if tag == "svg"]


def report(folder: Path, study: str = "tiny", *words: str) -> Page:
    assert main(["report", "search", "--study", study, "--out", str(folder), *words]) == 0
    return Page(folder / "index.html")


def end(study: SharedStudy, *values: float) -> None:
    trial = take(study)
    for epoch, value in zip((1, 2, 4), values, strict=False):
        trial.report(epoch, value)
    if len(values) == 3:
        trial.complete(values[-1])
    else:
        trial.prune()


def history(storage: Storage, name: str = "tiny") -> SearchHistory:
    return read_search(storage, name, top=5)


@pytest.mark.parametrize(("goal", "sign"), [("ensemble", 1), ("nll", -1)])
def test_progress_is_in_the_order_of_ends_and_follows_the_goal(storage: Storage, goal: str, sign: int) -> None:
    study = make(storage, target=6, pruner="none", goal=goal)
    first, second = take(study), take(study)
    second.report(4, 50.0)
    second.complete(50.0)
    end(study, 1.0)
    first.report(4, 50.0 + sign)
    first.complete(50.0 + sign)
    end(study, 1.0, 2.0, 50.0 - sign)
    told = history(storage)
    progress = follow_progress(told)
    assert [(one.number, one.place, one.value, one.best) for one in progress.completed] == [
        (1, 1, 50.0, 50.0),
        (0, 3, 50.0 + sign, 50.0 + sign),
        (3, 4, 50.0 - sign, 50.0 + sign),
    ]
    assert progress.num_ended == 4
    hours = [one.hours for one in progress.completed]
    assert hours == sorted(hours)
    assert hours[-1] == pytest.approx(told.status.hours_used, rel=0.01)
    assert dict(told.curves)[3] == [(1, 1.0), (2, 2.0), (4, 50.0 - sign)]


def test_time_is_told_by_what_became_of_trials_and_of_attempts(storage: Storage) -> None:
    study = make(storage, target=4, pruner="none", max_attempts=3)
    end(study, 1.0, 2.0, 3.0)
    end(study, 1.0)
    take(study).diverge(3, "a loss is not finite")
    take(study).release()
    take(study).crash("once")
    vanished = study.lease(HERE, lease_s=0.01, renew_s=60)
    assert vanished is not None
    vanished._stop_renewing()
    storage.write(
        lambda connection: connection.execute(
            text(
                "UPDATE kdhpc_slots SET claimed = now() - interval '3 hours', renewed = now() - interval '2 hours', "
                "expires = now() - interval '2 hours' WHERE state = 'held'"
            )
        )
    )
    take(study).crash("twice")
    told = history(storage)
    assert {one.state: one.trials for one in told.spent} == {"complete": 1, "pruned": 1, "diverged": 1, "failed": 1}
    assert [(one.how, one.times) for one in told.left] == [("crashed", 1), ("vanished", 1), ("given back", 1)]
    assert {one.how: round(one.hours, 2) for one in told.left} == {"crashed": 0.0, "vanished": 1.0, "given back": 0.0}
    assert next(one.hours for one in told.spent if one.state == "failed") == pytest.approx(1, abs=0.01)


def test_choices_of_the_best_trials_stand_out(storage: Storage) -> None:
    make_search(storage, trials=400)
    choices = compare_choices(history(storage, "made"))
    assert (choices.num_ranked, choices.num_top) == (400, 20)
    by_name = {one.name: one for one in choices.parameters}
    assert sum(one.importance for one in choices.parameters) == pytest.approx(1)
    # As they were made: node 1 needs its labels, and node 2 is to drive its attention apart.
    label = {choice.name: choice for choice in by_name["label_1_gate"].choices}
    assert label["cutoff"].expected == 0.25
    assert label["cutoff"].tried == pytest.approx(0.25, abs=0.1)
    assert label["cutoff"].top == 0
    design = by_name["edge_2_1_design"]
    best = max(design.choices, key=lambda choice: choice.surprise or 0)
    assert (best.name, best.expected) == ("att-", pytest.approx(1 / 6))
    assert best.surprise is not None
    assert best.surprise > 2
    ranked = sorted(choices.parameters, key=lambda one: -one.importance)
    assert "edge_2_1_design" in [one.name for one in ranked[:8]]
    assert design.num_top <= 20


def test_report_of_a_whole_search_tells_all_and_needs_nothing(
    storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a&b <i>"
    study = make_search(storage, name, trials=60, space=SearchSpace(num_nodes=2))
    write_graph(tmp_path / f"{_EVIL}.json", dml(2), {})
    study.give(load_given(("independent", str(tmp_path / f"{_EVIL}.json")), study.definition.space), num_seeds=2)
    study.confirm(top=2, num_seeds=2)
    while (trial := study.lease(HERE, lease_s=60, renew_s=20)) is not None:
        value = 70.0 + 0.1 * trial.number if trial.graph == independent(2) else 72.0 - 0.1 * trial.number
        trial.report(300, value)
        trial.complete(value)
    page = report(tmp_path / "out", name, "--top", "2")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == str(tmp_path / "out" / "index.html")
    stems = ["best-over-trials", "best-over-hours", "learning-curves", "funnel", "confirmed", "importance", "shares"]
    stems += ["where-compute-went", "graph-1", "graph-2"]
    assert [Path(line).name for line in printed[1:]] == [f"{one}.{end}" for one in stems for end in ("svg", "png")]
    assert all(Path(line).stat().st_size > 1000 for line in printed)
    assert len(page.figures) == len(stems)
    # Nothing is looked for elsewhere, nothing runs, and no name is markup.
    source = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\((?!#)", source)
    assert not {"script", "img", "i", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert [found["href"] for tag, found in page.tags if tag == "link"] == ["data:,"]
    identifiers = [found["id"] for _, found in page.tags if "id" in found]
    assert len(identifiers) == len(set(identifiers))
    assert _EVIL in page.words
    assert name in page.words
    assert "The search is over: 60 of 60 trials have ended." in page.words
    assert "points above independent" in page.words
    assert "The best 5 of 60 trials (5 %, but 5 at least) are compared with all of them" in page.words
    assert "kdhpc export-best --study" in page.words


def test_report_of_a_search_that_has_hardly_begun_says_so(storage: Storage, tmp_path: Path) -> None:
    study = make(storage, target=5)
    page = report(tmp_path / "none")
    assert page.figures == []
    assert "No trial has begun yet." in page.words
    assert "Nothing can be said of a gain: no trial is complete." in page.words
    end(study, 30.0, 40.0, 50.0)
    running = take(study)
    page = report(tmp_path / "one")
    assert "The search is not over: 1 of 5 trials have ended, 1 run now." in page.words
    assert "no graphs to compare with, so nothing is known of a gain" in page.words
    assert len(page.figures) == 6, "all but the confirmed values and the choices"
    assert "1 trial has ended without failing" in page.words
    running.release()
    end(study, 10.0)
    end(study, 20.0)
    page = report(tmp_path / "one", "tiny", "--top", "9")
    assert "3 trials have ended without failing" in page.words


def test_report_of_a_search_without_a_single_value(storage: Storage, tmp_path: Path) -> None:
    study = make(storage, target=3, max_attempts=1)
    take(study).diverge(1, f"a loss is not finite {_EVIL}")
    take(study).crash(f"CUDA error \x1b[31m {_EVIL}")
    take(study).crash("out of memory")
    page = report(tmp_path)
    assert "The search is over: 3 of 3 trials have ended." in page.words
    assert "Nothing can be said of a gain: no trial is complete." in page.words
    assert page.words.count(_EVIL) == 2
    assert "\\x1b[31m" in page.words
    assert [figure[:5] for figure in page.figures] == ["Hours"]


def test_report_of_searched_networks_draws_their_shares(storage: Storage, tmp_path: Path) -> None:
    space = SearchSpace(num_nodes=2, networks=("resnet20", "wrn28_2"))
    make_search(storage, "nets", trials=40, space=space, goal="node1", pruner="none")
    page = report(tmp_path, "nets", "--top", "1")
    assert (tmp_path / "networks.svg").exists()
    assert "node 1 network" in page.words
    assert "Accuracy of node 1, higher is better" in page.words


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--study tinny", 1, "did you mean 'tiny'?"),
        ("--study tiny --top 0", 2, "0 is not above 0"),
        ("--study tiny --top 21", 2, "`kdhpc export-best --top` writes as many as there are"),
        ("--study tiny --out {taken}", 2, "is a file: name another"),
        ("--study tiny --out /proc/nowhere", 1, "/proc/nowhere"),
    ],
)
def test_report_that_cannot_be_written_is_one_line(
    storage: Storage, tmp_path: Path, words: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    end(make(storage), 1.0, 2.0, 3.0)
    taken = tmp_path / "taken"
    taken.touch()
    try:
        found = main(["report", "search", *words.format(taken=taken).split()])
    except SystemExit as exc:
        found = int(str(exc.code))
    told = capsys.readouterr()
    assert (found, told.out) == (code, "")
    assert said in told.err
    assert told.err.count("\n") == 1


def test_command_line_is_as_people_type_it() -> None:
    assert command_line(("/opt/x/kdhpc/cli/main.py", "search", "training.milestones=[5, 6]")) == (
        "kdhpc search 'training.milestones=[5, 6]'"
    )
    assert command_line(("notebook.py",)) == "notebook.py"
