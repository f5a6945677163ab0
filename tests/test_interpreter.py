"""What the surroundings of Python bring in: other modules, another home, an encoding, a backend of Matplotlib."""

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest

from kdhpc import interpreter
from kdhpc.cli.main import main
from kdhpc.config.compose import compose_search
from kdhpc.errors import ConfigError
from kdhpc.interpreter import check_modules, child_python, settle
from kdhpc.searching import local
from kdhpc.searching.submission import submission_script

_ROOT = Path(__file__).parents[1]
_RAISES = "raise SystemExit('a module of the working folder was imported')\n"
_INTERRUPTS = """\
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "kdhpc.cli.main" and "--version" not in sys.argv:  # With which the command tries the path first.
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""
_KEEPS_OUT = sys.version_info >= (3, 11)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command sets up is undone after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(interpreter, "write_in_any_encoding", lambda: None)
    monkeypatch.delenv("PYTHONPATH", raising=False)


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(_RAISES)
    return folder


def installed(folder: Path) -> Path:
    """The command as pip installs it, beside this Python."""
    (folder / "bin").mkdir()
    shutil.copy(_ROOT / "bin" / "kdhpc", folder / "bin")
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", folder)
    (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
    (folder / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    return folder / "bin" / "kdhpc"


def run(command: Path, *argv: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("KDHPC_", "PYTHON"))}
    named = os.pathsep.join([environment.pop("PYTHONPATH", ""), str(_ROOT)])
    return subprocess.run(
        [command, *argv],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": named, **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("PYTHONHOME", "/nonexistent", "No module named 'encodings'"),
        ("PYTHONIOENCODING", "no-such", "unknown encoding: no-such"),
        ("PYTHONUTF8", "yes", "invalid PYTHONUTF8 environment variable value"),
    ],
)
def test_command_with_what_keeps_python_from_starting_is_one_line(
    name: str, value: str, reason: str, tmp_path: Path
) -> None:
    done = run(installed(tmp_path), "status", cwd=tmp_path, **{name: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("kdhpc: unset ")
    assert name in done.stderr.partition(": with that")[0]
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_command_is_python_without_a_warning() -> None:
    """Newer Pythons warn of a text with a backslash that means nothing, each time."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile((_ROOT / "bin" / "kdhpc").read_text(encoding="utf-8"), "kdhpc", "exec")


def test_command_with_another_home_of_python_is_one_line(tmp_path: Path) -> None:
    """One that Python starts with."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "lib").symlink_to(Path(sys.base_prefix) / "lib")
    done = run(installed(tmp_path), "status", cwd=tmp_path, PYTHONHOME=str(tmp_path / "home"))
    said = f"kdhpc: PYTHONHOME={tmp_path}/home is another Python than the one that {tmp_path} was made with: "
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{said}unset PYTHONHOME\n")


def test_command_without_an_output_ends_in_order(tmp_path: Path) -> None:
    """As some schedulers start programs: with none of the three standard files. Nobody sees the table."""
    program = f"exec {sys.executable} {_ROOT}/bin/kdhpc data list <&- >&- 2>&-"
    assert run(Path("/bin/sh"), "-c", program, cwd=tmp_path).returncode == 1


def test_command_that_is_interrupted_before_it_begins_says_so(tmp_path: Path) -> None:
    """Its own imports take a tenth of a second, more on a file system of a cluster."""
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "sitecustomize.py").write_text(_INTERRUPTS)
    done = run(installed(tmp_path), "db", "status", cwd=tmp_path, PYTHONPATH=str(tmp_path / "early"))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "kdhpc: interrupted\n")


def test_command_with_its_own_home_of_python_works(tmp_path: Path) -> None:
    done = run(installed(tmp_path), "db", "status", cwd=tmp_path, PYTHONHOME=sys.base_prefix)
    assert (done.stdout[:11], done.stderr) == ("not running", "")


def test_command_imports_nothing_from_the_working_folder(tmp_path: Path) -> None:
    command = installed(tmp_path)
    cwd = made(tmp_path / "cwd", "queue.py", "profile.py", "argparse.py", "numpy/__init__.py", "kdhpc/__init__.py")
    done = run(command, "db", "status", cwd=cwd)
    if _KEEPS_OUT:
        assert (done.stdout[:11], done.stderr) == ("not running", "")
    else:
        assert f"{cwd} has modules that Python 3.10 would import instead of its own: argparse, profile" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["numpy/__init__.py", "torch/__init__.py", "yaml.py", "queue.py"])
def test_foreign_module_on_the_path_is_one_line(
    module: str, tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path / "foreign", module, "mine.py")
    (folder / "scipy").mkdir()  # Without modules it is no package.
    monkeypatch.setenv("PYTHONPATH", f"/nowhere:{folder}:{_ROOT}")
    name = module.partition("/")[0].removesuffix(".py")
    with pytest.raises(ConfigError) as raised:
        check_modules()
    said = f"PYTHONPATH=/nowhere:{folder}:{_ROOT} replaces modules that kdhpc runs with by those of {folder}: {name}; "
    assert str(raised.value) == f"{said}unset PYTHONPATH, or take that folder out"


def test_foreign_modules_are_named_up_to_three(tmp_path, settled, monkeypatch) -> None:
    made(tmp_path, "numpy/__init__.py", "torch/__init__.py", "yaml.py", "queue.py", "csv.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ConfigError, match=": csv, numpy, queue and 2 more;"):
        check_modules()


def test_path_of_a_developer_and_of_other_packages_is_fine(tmp_path, settled, monkeypatch) -> None:
    """A checkout, packages that this environment lacks, its own folder of packages, and links into that."""
    environment = next(name for name in sys.path if name.endswith("site-packages"))
    made(tmp_path, "my_package/__init__.py", "test/__init__.py", "pip/__init__.py")
    (tmp_path / "numpy").symlink_to(Path(environment) / "numpy")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(_ROOT), str(tmp_path), environment]))
    check_modules()


@pytest.mark.parametrize("first", ["", "/nowhere:", ":::"])
def test_empty_name_on_the_path_is_not_the_working_folder(
    first: str, tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{first}:{_ROOT}")
    sys.path.insert(0, str(tmp_path))
    settle()
    assert str(tmp_path) not in sys.path
    assert os.environ["PYTHONPATH"] == f"{first.replace(':', '')}{':' if '/' in first else ''}{_ROOT}"
    assert os.environ["PYTHONSAFEPATH"] == "1"


def test_working_folder_that_the_path_names_stays(tmp_path, settled, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ".")
    sys.path.insert(0, str(tmp_path))
    settle()
    assert str(tmp_path) in sys.path


def test_jobs_run_this_python_without_working_folder_and_other_home(tmp_path, settled, monkeypatch) -> None:
    monkeypatch.delenv("PYTHONHOME", raising=False)
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path))
    monkeypatch.setenv("PATH", f"{made(tmp_path / 'bin', 'srun')}:{os.environ['PATH']}")
    (tmp_path / "bin" / "srun").chmod(0o755)
    python = f"env -u PYTHONHOME {sys.executable}{' -P' if _KEEPS_OUT else ''}"
    assert child_python() == python
    assert f"{python} -u -m submitit.core._submit" in submission_script(
        "study", "launch", compose_search(["study=quickstart", "cluster=slurm"]).cluster, 2
    )
    monkeypatch.setenv("PYTHONHOME", sys.base_prefix)
    assert child_python() == python.removeprefix("env -u PYTHONHOME ")


_ENCODINGS: tuple[Mapping[str, str], ...] = (
    {"LC_ALL": "POSIX"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "latin-1"},
)


@pytest.mark.parametrize("environment", _ENCODINGS)
def test_output_in_any_encoding(environment: Mapping[str, str], tmp_path: Path) -> None:
    """Names with letters that the encoding lacks are no reason to fail, and files are the same in every locale."""
    text = "é ± 漢"
    folder = tmp_path / text
    folder.mkdir()
    (folder / "own.yaml").write_text(f"# {text}\nlearning_rate: 0.5\n", encoding="utf-8")
    configs = tmp_path / "configs" / "training"
    configs.mkdir(parents=True)
    (folder / "own.yaml").replace(configs / "own.yaml")
    program = (
        "import sys; from kdhpc.cli.main import main\n"
        "sys.argv[1:] = ['search', '--study', 'quickstart', 'training=own', '--dry-run']; code = main()\n"
        f"print({text!a}); sys.exit(code)\n"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("KDHPC_", "LC_", "LANG"))}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env={**inherited, "KDHPC_CONFIG_DIR": "../configs", **environment},
        capture_output=True, check=False,
    )  # fmt: skip
    unprepared = b"data set 'fashion_mnist' is not prepared here: the search would not begin\n"
    assert (done.returncode, done.stderr) == (0, unprepared)
    assert b"learning_rate: 0.5" in done.stdout
    encoding = environment.get("PYTHONIOENCODING", "utf-8" if "PYTHONUTF8" not in environment else "ascii")
    assert done.stdout.splitlines()[-1] == text.encode(encoding, "backslashreplace")


def test_text_that_cannot_be_encoded_is_one_line_without_secrets(capsys, monkeypatch) -> None:
    monkeypatch.setenv("KDHPC_STORAGE", "postgresql://someone\udce9:secret@127.0.0.1:1/none")
    assert main(["status", "--study", "any"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("kdhpc: '\\udce9', in a path, a name, a setting or a file, is no text in utf-8")
    assert said.count("\n") == 1
    assert "secret" not in said


def test_command_whose_python_is_away_names_it(tmp_path: Path) -> None:
    """On a node that does not see the Python of the environment, another one is no help."""
    command = installed(tmp_path)
    (tmp_path / "bin" / "python").unlink()
    (tmp_path / "bin" / "python").symlink_to("/of/another/node/python3")
    done = run(command, "status", cwd=tmp_path)
    assert done.returncode != 0
    assert f"{tmp_path}/bin/python" in done.stderr


def test_worker_with_foreign_modules_says_so_to_its_launcher(tmp_path, settled, monkeypatch) -> None:
    """Its node's own modules, loaded by what runs before it."""
    monkeypatch.setenv("PYTHONPATH", str(made(tmp_path, "numpy/__init__.py")))
    failure = local._work("study", "config", "")
    assert failure is not None
    assert failure.hopeless
    assert "unset PYTHONPATH" in failure.reason
