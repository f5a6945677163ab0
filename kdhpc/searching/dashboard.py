"""optuna-dashboard for the studies of a database, as a web application that one user sees.

The dashboard itself knows no users: whoever reaches its port sees all and may delete all. Machines that many people
log in to are no place for that. So before it stands :class:`Door`, which wants a token that only the user was told, and
lets through what reads, and notes. Before large studies, it also keeps answers until there is something new.
"""

import gzip
import hmac
import io
import json
import logging
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn
from urllib.parse import parse_qsl, quote, urlencode

from kdhpc.config.goals import DEFAULT_GOAL
from kdhpc.errors import ConfigError, KdhpcError
from kdhpc.searching.export import named_graph
from kdhpc.study.dashboard_view import DashboardView, trial_of
from kdhpc.study.numbers import trial_words
from kdhpc.study.storage import Storage
from kdhpc.study.trial_history import KnownTrial

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_COOKIE = "kdhpc-dashboard"
_TOKEN = "token"
_SMALL = 4096
"""Bytes; shorter answers are not compressed."""
_OF_A_STUDY = re.compile(r"/api/studies/(?P<study_id>\d{1,9})/?")
_MOST_KEPT = 8
"""Answers, of some MB each."""
_STALE_S = 12.0
"""The dashboard itself may answer with what was so long ago: it asks for trials every 2 to 10 seconds."""
_REFUSED = "kdhpc's dashboard changes nothing but notes: `kdhpc db delete-study` deletes a study"
_CLOSED = "this dashboard is its user's alone: open the address that `kdhpc dashboard` has printed, with its token\n"


def dashboard_app(storage: Storage, study: str | None, *, token: str) -> "WSGIApplication":
    """optuna-dashboard behind a door.

    Args:
        storage: The server.
        study: Show this study and its given trials alone; None: all studies.
        token: What a browser must show before it sees anything.

    Raises:
        ConfigError: optuna-dashboard is not installed.
    """
    try:
        from optuna_dashboard import wsgi
    except ImportError as exc:
        raise ConfigError(f"optuna-dashboard cannot be imported ({exc}): pip install 'kdhpc[optuna]'") from exc
    logging.getLogger("optuna_dashboard._bottle_util").addFilter(_without_traceback)
    view = DashboardView(storage, study)
    return Door(Kept(wsgi(view, artifact_store=GraphDrawings(view)), view.moment), token=token)


def page_of(storage: Storage, study: str | None) -> str:
    """The path of a study's page; None: of the list of studies.

    Raises:
        StudyError: there is no such study.
    """
    return "/" if study is None else f"/dashboard/studies/{DashboardView(storage, study).get_study_id_from_name(study)}"


def _without_traceback(record: logging.LogRecord) -> bool:
    """What went wrong in one line, such as that the database is away."""
    record.msg = record.getMessage().partition("\n")[0].removeprefix("Exception: ")
    record.args = ()
    return True


class GraphDrawings:
    """The artifacts of trials: the drawings of their graphs, each made when it is asked for.

    Args:
        view: What the dashboard sees.
    """

    def __init__(self, view: DashboardView) -> None:
        self._view = view
        self._drawing = threading.Lock()

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The drawing, as SVG.

        Raises:
            KeyError: there is none of that name.
            KdhpcError: the trial cannot be read.
        """
        known = self._view.known_trial(trial_of(artifact_id))
        # Matplotlib's settings are the whole process's.
        with self._drawing:
            return io.BytesIO(_drawn(known))

    def write(self, artifact_id: str, content_body: BinaryIO) -> NoReturn:
        """Refused."""
        raise ConfigError(_REFUSED)

    def remove(self, artifact_id: str) -> NoReturn:
        """Refused."""
        raise ConfigError(_REFUSED)


def _drawn(known: KnownTrial) -> bytes:
    from kdhpc.graph.drawing import draw_graph

    definition, history = known.definition, known.history
    assert history.graph is not None, "only trials with a graph have an artifact"
    graph = named_graph(definition, history.graph)
    title = f"{definition.name}, {trial_words(history.number)}"
    name = "" if history.name is None else f": {history.name}"
    value = history.value if definition.goal == DEFAULT_GOAL else None
    with tempfile.TemporaryDirectory(prefix="kdhpc-dashboard-") as folder:
        path = Path(folder) / "graph.svg"
        draw_graph(graph, [path], title=f"{title}{name}", ensemble_accuracy=value)
        return path.read_bytes()


class Door:
    """Lets a web application be used by whoever has a token, to read, and to write notes.

    Args:
        app: The application.
        token: What its user was told. A browser that shows it gets a cookie for later.
    """

    def __init__(self, app: "WSGIApplication", *, token: str) -> None:
        self._app = app
        self._token = token

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request."""
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "/")
        query = parse_qsl(environ.get("QUERY_STRING", ""))
        shown = dict(query).get(_TOKEN)
        if shown is not None and self._is_right(shown) and method == "GET":
            rest = urlencode([(key, value) for key, value in query if key != _TOKEN])
            cookie = f"{self._cookie(environ)}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            plain = "/" + quote(path.strip("/"))
            where = [("Location", f"{plain}?{rest}" if rest else plain), ("Set-Cookie", cookie)]
            start_response("303 See Other", [*where, ("Content-Length", "0")])
            return [b""]
        if not self._is_right(self._kept(environ)):
            return _answer(start_response, "403 Forbidden", "text/plain; charset=utf-8", _CLOSED.encode())
        is_note = method == "PUT" and path.rstrip("/").endswith("/note")
        if method not in ("GET", "HEAD") and not is_note:
            said = json.dumps({"reason": _REFUSED}).encode()
            return _answer(start_response, "403 Forbidden", "application/json", said)
        return self._app(environ, start_response)

    def _is_right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())

    def _cookie(self, environ: "WSGIEnvironment") -> str:
        """Its name: browsers send the cookies of all ports of a machine."""
        return f"{_COOKIE}-{environ.get('SERVER_PORT', '')}"

    def _kept(self, environ: "WSGIEnvironment") -> str:
        try:
            found = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(self._cookie(environ))
        except CookieError:
            return ""
        return "" if found is None else found.value


class Kept:
    """Compresses what a dashboard says of a study, and keeps it until the study changes.

    An open page asks every few seconds, and to answer the dashboard goes through all trials: seconds, where they are
    thousands.

    Args:
        app: The dashboard.
        moment: Of a study by its id: changes whenever the study does.
    """

    def __init__(self, app: "WSGIApplication", moment: Callable[[int], str]) -> None:
        self._app = app
        self._moment = moment
        self._answers: OrderedDict[tuple[str, str, bool], tuple[str, _Answer]] = OrderedDict()
        self._seen: dict[int, tuple[str, float]] = {}
        self._asking = threading.Lock()

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request."""
        asked = _OF_A_STUDY.fullmatch(environ.get("PATH_INFO", ""))
        if asked is None or environ["REQUEST_METHOD"] != "GET":
            answer = self._ask(environ)
        else:
            with self._asking:  # Two pages of one study want the same.
                answer = self._known(int(asked["study_id"]), environ)
        start_response(answer.status, answer.headers)
        return [answer.body]

    def _known(self, study_id: int, environ: "WSGIEnvironment") -> "_Answer":
        try:
            moment = self._moment(study_id)
        except KdhpcError:  # The dashboard will say so.
            return self._ask(environ)
        if self._seen.get(study_id, ("", 0.0))[0] != moment:
            self._seen[study_id] = (moment, time.monotonic())
        has_settled = time.monotonic() - self._seen[study_id][1] > _STALE_S
        key = (environ["PATH_INFO"], environ.get("QUERY_STRING", ""), _takes_gzip(environ))
        was, answer = self._answers.get(key, ("", None))
        if answer is None or was != moment:
            answer = self._ask(environ)
            if has_settled and answer.status.startswith("200"):
                self._answers[key] = (moment, answer)
                self._answers.move_to_end(key)
        while len(self._answers) > _MOST_KEPT:
            self._answers.popitem(last=False)
        return answer

    def _ask(self, environ: "WSGIEnvironment") -> "_Answer":
        status, headers = "", list[tuple[str, str]]()

        def keep(said: str, given: list[tuple[str, str]], exc_info: object = None) -> Callable[[bytes], object]:
            nonlocal status, headers
            status, headers = said, given
            return lambda _: None

        # Where the application writes tracebacks to.
        environ["wsgi.errors"] = io.StringIO()
        found = self._app(environ, keep)
        try:
            body = b"".join(found)
        finally:
            getattr(found, "close", lambda: None)()
        is_json = any(name.lower() == "content-type" and "json" in value for name, value in headers)
        if is_json and len(body) > _SMALL and _takes_gzip(environ):
            body = gzip.compress(body, 1)
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            headers += [("Content-Encoding", "gzip"), ("Content-Length", str(len(body)))]
        return _Answer(status=status, headers=headers, body=body)


@dataclass(frozen=True, kw_only=True)
class _Answer:
    status: str
    headers: list[tuple[str, str]]
    body: bytes


def _takes_gzip(environ: "WSGIEnvironment") -> bool:
    return "gzip" in environ.get("HTTP_ACCEPT_ENCODING", "")


def _answer(start_response: "StartResponse", status: str, kind: str, body: bytes) -> list[bytes]:
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]
