"""`kdhpc dashboard`: a real optuna-dashboard on a real database, asked as a browser asks it."""

import gzip
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path

import optuna
import pytest

from kdhpc.cli import dashboard as command
from kdhpc.cli.main import main
from kdhpc.graph.space import SearchSpace
from kdhpc.searching import dashboard
from kdhpc.study.dashboard_view import DashboardView
from kdhpc.study.given import load_given
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.study.made import make, scalar, take

pytest.importorskip("optuna_dashboard")


class Browser:
    """Asks a dashboard at an address, and keeps cookies."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._base = urllib.parse.urljoin(address, "/").rstrip("/")
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def open(self, path: str, method: str = "GET", **document: object) -> tuple[int, bytes]:
        """Status and answer."""
        body = json.dumps(document).encode() if document else None
        headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip"}
        url = path if path.startswith("http") else self._base + path
        request = urllib.request.Request(url, data=body, method=method, headers=headers)
        try:
            with self._opener.open(request, timeout=120) as answer:
                found = answer.read()
                packed = answer.headers.get("Content-Encoding") == "gzip"
                return answer.status, gzip.decompress(found) if packed else found
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read()

    def json(self, path: str) -> dict:
        status, found = self.open(path)
        assert status == 200, found
        return json.loads(found)


class Running:
    """A process of `kdhpc dashboard`."""

    def __init__(self, *argv: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "kdhpc.cli.main", "dashboard", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        lines = [self.process.stdout.readline() for _ in range(3)]
        self.said = "".join(lines)
        assert "http" in self.said, self.process.communicate()
        self.browser = Browser(re.search(r"http\S+", self.said)[0])

    def interrupt(self) -> tuple[int, str, str]:
        """Ctrl-C: exit code, and what it has written."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, self.said + out, err


@pytest.fixture
def running(storage: Storage) -> Iterator[Running]:
    """A dashboard of a study with finished, running and given trials."""
    study = make(storage, target=4)
    study.give(load_given(("dml",), SearchSpace(num_nodes=2)))
    end(study, 71.5)
    end(study, 50.0)
    take(study).report(1, 30.0)
    started = Running("--study", "tiny", "--port", str(free_port()))
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.process.communicate()


def end(study: SharedStudy, value: float) -> None:
    leased = take(study)
    for epoch in (1, 2, 4):
        leased.report(epoch, value)
    leased.complete(value)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def ids(browser: Browser) -> dict[str, int]:
    return {study["study_name"]: study["study_id"] for study in browser.json("/api/studies")["study_summaries"]}


def test_dashboard_shows_trials_with_their_graphs_and_changes_nothing_but_notes(
    running: Running, storage: Storage, storage_url: str, server_folder: Path
) -> None:
    browser = running.browser
    port = browser.address.rpartition(":")[2].partition("/")[0]
    assert re.search(rf"ssh -N -L {port}:127\.0\.0\.1:{port} \S+@{socket.gethostname()}\n", running.said)

    # Nobody else who is logged in here sees anything.
    stranger = Browser(browser.address)
    for path in ("/api/studies", "/dashboard", "/static/bundle.js", "/?token=guessed", "/csv/1"):
        status, found = stranger.open(path)
        assert (status, b"its user's alone" in found) == (403, True), path
    assert browser.open(browser.address)[0] == 200

    found = ids(browser)
    assert set(found) == {"tiny", "tiny:given"}
    assert f":{port}/dashboard/studies/{found['tiny']}?token=" in running.said
    assert dashboard.page_of(storage, None) == "/", "all studies"
    detail = browser.json(f"/api/studies/{found['tiny']}")
    assert "kdhpc trial N --study tiny" in detail["note"]["body"]
    assert detail["objective_names"] == ["accuracy of the ensemble"]
    assert [(trial["number"], trial["state"]) for trial in detail["trials"]] == [(0, "Complete"), (1, "Running")]
    first = detail["trials"][0]
    assert first["values"] == [50.0]
    assert [report["step"] for report in first["intermediate_values"]] == [1, 2, 4]
    drawn = f"/artifacts/{found['tiny']}/{first['trial_id']}/{first['artifacts'][0]['artifact_id']}"
    assert first["note"] == {"version": 0, "body": f"![graph]({drawn})"}
    svg = artifact(browser, found["tiny"], first)
    assert {"Label", "Ensemble", "(50.00)", "1", "2"} <= set(svg)
    assert any(text.startswith("tiny, trial 0") for text in svg)

    # The companion says what it is, and which graph each of its trials trains.
    given = browser.json(f"/api/studies/{found['tiny:given']}")
    assert "given trials of the search **tiny**" in given["note"]["body"]
    (baseline,) = given["trials"]
    attributes = {attribute["key"]: attribute["value"] for attribute in baseline["user_attrs"]}
    assert (attributes["graph"], attributes["training"], baseline["values"]) == ("dml", "1", [71.5])
    assert any("given trial 1: dml" in text for text in artifact(browser, found["tiny:given"], baseline))

    # What is written or deleted elsewhere is refused; notes are kept.
    before = everything(storage)
    study, trial, (drawing,) = found["tiny"], first["trial_id"], first["artifacts"]
    refused = [
        ("DELETE", f"/api/studies/{study}", {"remove_associated_artifacts": True}),
        ("POST", "/api/studies", {"study_name": "mine", "directions": ["maximize"]}),
        ("POST", f"/api/studies/{study}/rename", {"study_name": "mine"}),
        ("POST", f"/api/trials/{trial}/tell", {"state": "Complete", "values": [99.0]}),
        ("POST", f"/api/trials/{trial}/user-attrs", {"user_attrs": {"kdhpc": {}}}),
        ("POST", f"/api/artifacts/{study}/{trial}", {"file": "data:text/plain;base64,", "filename": "a"}),
        ("DELETE", f"/api/artifacts/{study}/{trial}/{drawing['artifact_id']}", {}),
        ("POST", "/incompatible-rdb-schema", {}),
    ]
    for method, path, document in refused:
        status, said = browser.open(path, method, **document)
        assert status == 403, path
        assert "changes nothing but notes" in json.loads(said)["reason"]
    assert everything(storage) == before
    for at, path in ((1, f"/api/studies/{study}/note"), (1, f"/api/studies/{study}/{trial}/note")):
        assert browser.open(path, "PUT", version=at, body="looks *odd*")[0] == 204
    detail = browser.json(f"/api/studies/{study}")
    assert detail["note"] == {"version": 1, "body": "looks *odd*"}
    assert detail["trials"][0]["note"]["body"] == "looks *odd*"
    assert browser.open(f"/api/studies/{study}/note", "PUT", version=1, body="a second one")[0] == 409

    # The search goes on beside it, and its budget is met.
    search = SharedStudy.open(storage, "tiny")
    end(search, 60.0)
    end(search, 61.0)
    assert search.progress().complete == 3
    command_line = Path(f"/proc/{running.process.pid}/cmdline").read_text()
    code, out, err = running.interrupt()
    assert (code, err) == (130, "kdhpc: interrupted\n")
    (password,) = {line.rpartition(":")[2] for line in (server_folder / "passfile").read_text().splitlines()}
    assert password not in out + err + command_line


def artifact(browser: Browser, study_id: int, trial: dict) -> list[str]:
    """The texts in the drawing of a trial's graph."""
    (found,) = trial["artifacts"]
    assert found["mimetype"] == "image/svg+xml"
    status, svg = browser.open(f"/artifacts/{study_id}/{trial['trial_id']}/{found['artifact_id']}")
    assert status == 200
    elements = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(element.itertext()).strip() for element in elements]


def everything(storage: Storage) -> list[object]:
    tables = ("studies", "trials", "trial_values", "trial_user_attributes", "trial_system_attributes", "kdhpc_slots")
    tables += ("study_system_attributes", "study_user_attributes")
    return [
        scalar(storage, f"SELECT md5(string_agg(CAST(t AS text), ' ' ORDER BY t)) FROM {table} AS t")
        for table in tables
    ]


def test_view_reads_the_trials_that_optuna_reads(storage: Storage, storage_url: str) -> None:
    study = make(storage, target=3)
    end(study, 50.0)
    take(study).report(1, 30.0)
    foreign = optuna.create_study(study_name="beside", storage=storage_url, directions=["minimize", "maximize"])

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        trial.set_user_attr("tags", ["a"])
        return trial.suggest_float("x", 1e-3, 1, log=True), trial.suggest_int("n", 1, 9) * float("inf")

    foreign.optimize(objective, n_trials=3)
    foreign.enqueue_trial({"x": 0.5})
    view = DashboardView(storage, None)
    for name in ("tiny", "beside"):
        expected = optuna.load_study(study_name=name, storage=storage_url).trials
        study_id = view.get_study_id_from_name(name)
        for found in (view.get_all_trials(study_id), view.get_all_trials(study_id, deepcopy=False)):
            for trial, wanted in zip(found, expected, strict=True):
                trial.system_attrs = {
                    key: value for key, value in trial.system_attrs.items() if not key.startswith("artifacts:")
                }
                assert trial == wanted
        assert view.get_study_directions(study_id) == optuna.load_study(study_name=name, storage=storage_url).directions
    end(study, 70.0)
    assert view.get_best_trial(view.get_study_id_from_name("tiny")).value == 70.0, "what is new is read"
    alone = DashboardView(storage, "tiny")
    assert [found.study_name for found in alone.get_all_studies()] == ["tiny"]
    with pytest.raises(KeyError):
        alone.get_trial(view.get_all_trials(view.get_study_id_from_name("beside"))[0]._trial_id)


def test_dashboard_tells_of_studies_whose_pages_take_long(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    end(make(storage), 50.0)
    assert command._told_of_size(storage, None) == []
    monkeypatch.setattr(command, "_PARAMETER_S", 2.0)
    (told,) = command._told_of_size(storage, "tiny")
    assert "study tiny has 1 trials: its page takes about 12 s, and again" in told
    assert command._told_of_size(storage, "another") == []


@pytest.mark.parametrize("settled", [True, False])
def test_answer_is_kept_until_the_study_changes_once_the_dashboard_can_have_seen_it(
    monkeypatch: pytest.MonkeyPatch, settled: bool
) -> None:
    now, asked, moment = 0.0, 0, "first"

    def app(environ: dict, start_response: object) -> list[bytes]:
        nonlocal asked
        asked += 1
        start_response("200 OK", [("Content-Type", "application/json")])  # type: ignore[operator]
        return [b"x" * 5000]

    monkeypatch.setattr(dashboard.time, "monotonic", lambda: now)
    kept = dashboard.Kept(app, lambda _: moment)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies/1", "HTTP_ACCEPT_ENCODING": "gzip"}

    def ask() -> bytes:
        (body,) = kept(dict(environ), lambda status, headers: None)
        return gzip.decompress(body)

    ask()
    now = 13.0 if settled else 5.0
    assert (ask(), ask()) == (b"x" * 5000,) * 2
    assert asked == (2 if settled else 3)
    moment = "second"
    ask()
    assert asked == (3 if settled else 4)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--study", "tinny"], "did you mean 'tiny'"),
        (["--port", "0"], "'0' is no port: 1 to 65535"),
        (["--port", "x"], "'x' is no port"),
    ],
)
def test_dashboard_that_cannot_be_meant_is_one_line(
    storage: Storage, capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    make(storage)
    try:
        code = main(["dashboard", *argv])
    except SystemExit as exc:
        code = int(exc.code or 0)
    out, err = capsys.readouterr()
    assert code in (1, 2)
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_dashboard_without_studies_or_package_or_port_is_one_line(
    storage: Storage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["dashboard"]) == 2
    assert "there is no study yet" in capsys.readouterr().err
    make(storage)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["dashboard", "--port", str(port)]) == 2
        assert f"--port {port}: another program has it: give another one" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    assert main(["dashboard"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "pip install 'kdhpc[optuna]'" in err
