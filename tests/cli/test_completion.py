"""Tab, in shells that run in a terminal: what is typed becomes what was meant."""

import fcntl
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdhpc.cli import completers
from kdhpc.cli.main import build_parser
from tests.workspace import PATIENCE_S

_ROOT = Path(__file__).parents[2]
_WAIT_S = 120.0
_EMPTY_LINE = "\x15"
_MARKER = _ROOT / "bin" / "kdhpc"
_BASH = ("bash", "--norc", "--noprofile", "-i")
_LOADS = {
    "bash": (_BASH, 'eval "$(kdhpc completion bash)"'),
    "zsh": (("zsh", "-f", "-i"), 'autoload -Uz compinit; compinit -u -D; eval "$(kdhpc completion zsh)"'),
    "fish": (("fish", "--no-config", "-i"), "kdhpc completion fish | source"),
}


class Terminal:
    """A shell in a terminal of its own."""

    def __init__(self, argv: tuple[str, ...], folder: Path, environment: dict[str, str]) -> None:
        self.process_id, self._file = pty.fork()
        if self.process_id == 0:
            os.chdir(folder)
            os.execvpe(argv[0], argv, environment)
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 300, 0, 0))  # No line is wrapped.
        self._shown = ""

    def type(self, keys: str, *, until: str) -> str:
        """Type, wait for some text, and give what was shown since."""
        begin = len(self._shown)
        os.write(self._file, keys.encode())
        deadline = time.monotonic() + _WAIT_S
        while until not in self._shown[begin:]:
            assert time.monotonic() < deadline, f"{until!r} is not in {self._shown[begin:]!r}"
            if select.select([self._file], [], [], 1.0)[0]:
                self._shown += os.read(self._file, 4096).decode(errors="replace")
        return self._shown[begin:]

    def close(self) -> None:
        os.close(self._file)  # As when a window is closed: the shell is told by SIGHUP.
        os.waitpid(self.process_id, 0)


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """A folder with the command, as pip installs it, beside this Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy(_MARKER, folder)
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "python").chmod(0o755)
    return folder


@pytest.fixture
def environment(command: Path, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KDHPC_")}
    for study in ("pets", "db"):
        (tmp_path / "runs" / study).mkdir(parents=True)
    return {**kept, "PATH": f"{command}:{os.environ['PATH']}", "PYTHONPATH": str(_ROOT), "TERM": "dumb"}


@pytest.fixture
def shell(request: pytest.FixtureRequest, tmp_path: Path, environment: dict[str, str]) -> Iterator[Terminal]:
    argv, load = _LOADS[request.param]
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    terminal = Terminal(argv, tmp_path, environment)
    terminal.type(f"{load}; echo LOADED''NOW\r", until="LOADEDNOW")
    yield terminal
    terminal.close()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"], indirect=True)
def test_tab_completes_commands_choices_configs_keys_and_studies(shell: Terminal) -> None:
    shell.type("kdhpc sear\t", until="search ")
    shell.type("--stu\t", until="study ")
    shell.type("quick\t", until="quickstart ")
    shell.type("dataset=fash\t", until="fashion_mnist")
    shell.type(" training.sch\t", until="schedule=")
    shell.type("cos\t", until="cosine")
    shell.type(f"{_EMPTY_LINE}kdhpc status --format js\t", until="json")
    shell.type(" --study pe\t", until="pets")


def test_global_completion_of_argcomplete_finds_the_command(tmp_path: Path, environment: dict[str, str]) -> None:
    terminal = Terminal(_BASH, tmp_path, environment)
    load = f"{sys.executable} -m argcomplete.scripts.activate_global_python_argcomplete --dest=-"
    terminal.type(f"eval \"$({load})\"; echo LOADED''NOW\r", until="LOADEDNOW")
    terminal.type("kdhpc export-b\t", until="export-best ")
    terminal.close()


def answers(line: str, folder: Path, environment: dict[str, str]) -> list[str]:
    """What the command tells a shell, which also hears no other word of it."""
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SUPPRESS_SPACE": "1", "_ARGCOMPLETE_IFS": "\n"}
    done = subprocess.run(
        ["/bin/sh", "-c", 'kdhpc 8>answer 9>/dev/null; echo "$?"'],
        cwd=folder,
        env={**environment, **asked, "COMP_LINE": line, "COMP_POINT": str(len(line))},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
    return (folder / "answer").read_text(encoding="utf-8").splitlines()


def test_database_that_does_not_answer_is_not_waited_for(tmp_path: Path, environment: dict[str, str]) -> None:
    # An address that nobody has: packets to it are lost, and a connection takes minutes to fail.
    away = {**environment, "KDHPC_STORAGE": "postgresql://me@192.0.2.1/kdhpc"}
    begin = time.monotonic()
    assert answers("kdhpc status --study ", tmp_path, away) == ["pets"]
    took = time.monotonic() - begin
    begin = time.monotonic()
    assert answers("kdhpc status --study ", tmp_path, environment) == ["pets"]
    assert took - (time.monotonic() - begin) < 10


def test_broken_surroundings_are_silent(tmp_path: Path, environment: dict[str, str]) -> None:
    broken = {**environment, "KDHPC_CONFIG_DIR": "/nowhere", "KDHPC_RUNS": "/dev/null", "KDHPC_STORAGE": "no url"}
    for line in ("kdhpc search --study ", "kdhpc search dataset="):
        assert answers(line, tmp_path, broken) == []


def test_studies_are_those_of_the_database(storage, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.study.made import make

    monkeypatch.setattr(completers, "_DATABASE_S", PATIENCE_S)
    make(storage)
    assert list(completers._studies("status")) == ["tiny"]
    assert {"tiny", "quickstart"} <= set(completers._studies("search"))


@pytest.mark.parametrize(
    ("command", "prefix", "some"),
    [
        ("search", "", {"dataset=", "network=", "study="}),
        ("search", "study.", {"study.trials=", "study.seed="}),
        ("search", "network=", {"network=resnet8", "network=timm/"}),
        ("launch", "device.precision=", {"device.precision=bf16"}),
        ("launch", "training.nesterov=", {"training.nesterov=true", "training.nesterov=false"}),
        ("train", "run.", {"run.name="}),
        ("train", "no.such=", set()),
    ],
)
def test_overrides_are_completed(command: str, prefix: str, some: set[str]) -> None:
    found = set(completers._overrides(prefix, command, None))
    assert some <= found
    assert not any(word.startswith("run.") for word in found) or command == "train"


def test_every_study_file_and_override_has_its_completer() -> None:
    parser = build_parser()
    completers.add_completers(parser)
    commands = next(action for action in parser._actions if action.dest == "command").choices
    search, train = (
        {action.dest for action in commands[name]._actions if hasattr(action, "completer")}
        for name in ("search", "train")
    )
    assert search == {"study", "config_dir", "overrides"}
    assert train == {"graph", "teacher", "config_dir", "overrides"}


def test_completion_imports_nothing_heavy(tmp_path: Path, environment: dict[str, str]) -> None:
    heavy = ("torch", "optuna", "sqlalchemy", "hydra", "omegaconf", "submitit", "matplotlib", "numpy")
    code = (
        "import sys\nfrom kdhpc.cli import completers\nfrom kdhpc.cli.main import build_parser\n"
        "completers.add_completers(build_parser())\n"
        "assert list(completers._studies('search')) and list(completers._overrides('dataset=', 'train', None))\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout == "[]\n"
