"""The command line as users meet it: its surface, its cost, its errors."""

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from kdhpc.cli.main import build_parser, main


def run(*argv: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command, on a machine without GPUs wherever it runs."""
    return subprocess.run(
        [sys.executable, "-m", "kdhpc.cli.main", *argv],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
        check=False,
    )


def surface(parser: argparse.ArgumentParser, name: str = "kdhpc") -> dict[str, list[str]]:
    """Options and arguments of every command, by its full name."""
    found = {name: []}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, subparser in action.choices.items():
                found |= surface(subparser, f"{name} {command}")
        else:
            found[name] += [word for word in action.option_strings or [action.dest] if word not in ("-h", "--help")]
    return found


def test_surface_is_frozen() -> None:
    assert surface(build_parser()) == {
        "kdhpc": ["--version", "--debug"],
        "kdhpc search": ["--study", "--workers", "--trials", "--config-dir", "--dry-run", "overrides"],
        "kdhpc launch": [
            *("--study", "--workers", "--trials", "--config-dir", "--wait", "--requeue", "--dry-run", "overrides"),
        ],
        "kdhpc status": ["--study", "--format", "--watch"],
        "kdhpc studies": ["--format"],
        "kdhpc dashboard": ["--study", "--port"],
        "kdhpc trial": ["trial", "--study", "--out", "--format"],
        "kdhpc logs": ["--study", "--trial", "--worker", "--follow", "-n"],
        "kdhpc stop": ["--study", "--no-wait"],
        "kdhpc retry": ["--study", "--trial"],
        "kdhpc enqueue": ["--study", "graphs", "--seeds"],
        "kdhpc confirm": [
            *("--study", "--top", "--seeds", "--workers", "--launch", "--no-train", "--wait", "--config-dir"),
            "overrides",
        ],
        "kdhpc export-best": ["--study", "--top", "--out"],
        "kdhpc export": ["run", "--format", "--out", "--seed", "--node", "--images", "--network", "--study"],
        "kdhpc import-graph": ["config", "--out"],
        "kdhpc train": [
            *(
                "--graph",
                "--nodes",
                "--teacher",
                "--teacher-node",
                "--seeds",
                "--launcher",
                "--dry-run",
                "--config-dir",
                "overrides",
            ),
        ],
        "kdhpc evaluate": ["folders", "--ood", "--network"],
        "kdhpc results": [
            *("folder", "--ddof", "--columns", "--against", "--ensemble", "--members", "--network", "--format"),
        ],
        "kdhpc predict": [
            *("run", "images", "--top", "--csv", "--json", "--attention", "--batch", "--device", "--network"),
        ],
        "kdhpc report": [],
        "kdhpc report search": ["--study", "--top", "--out"],
        "kdhpc report pairs": ["folders", "--out", "--network"],
        "kdhpc report graph": ["folder", "--out", "--plugin"],
        "kdhpc report attention": ["folders", "--images", "--indices", "--out", "--network"],
        "kdhpc report accuracy": ["folders", "--by", "--measure", "--out"],
        "kdhpc reproduce": [
            "name",
            "--scale",
            "--data",
            "--launcher",
            "--requeue",
            "--dry-run",
            "--config-dir",
            "overrides",
        ],
        "kdhpc worker": ["--study", "--requeue", "overrides"],
        "kdhpc db": [],
        "kdhpc db start": ["--listen", "--allow", "--port", "--workers", "--take-over"],
        "kdhpc db stop": [],
        "kdhpc db status": ["--format"],
        "kdhpc db url": [],
        "kdhpc db delete-study": ["study", "--yes"],
        "kdhpc db upgrade": ["--yes"],
        "kdhpc data": [],
        "kdhpc data prepare": [
            "reader",
            "source",
            "--name",
            "--size",
            "--split",
            "--classes",
            "--jobs",
            "--skip-broken",
            "--altered",
            "--force",
        ],
        "kdhpc data list": ["--format"],
        "kdhpc doctor": ["--job", "--quick", "--format", "overrides"],
        "kdhpc data check": ["name"],
        "kdhpc init": ["folder"],
        "kdhpc completion": ["shell"],
    }


@pytest.mark.parametrize(
    "command",
    [
        *("--help", "search --help", "status --help", "db --help", "data --help", "report --help"),
        *("predict --help", "report search --help", "report pairs --help", "report attention --help"),
        *("report accuracy --help", "dashboard --help"),
    ],
)
def test_help_teaches_without_heavy_imports(command: str, tmp_path: Path) -> None:
    heavy = "torch,optuna,sqlalchemy,hydra,omegaconf,submitit,matplotlib,numpy"
    code = (
        "import sys\n"
        "from kdhpc.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as exit: assert exit.code == 0\n"
        f"print('LOADED', [name for name in '{heavy}'.split(',') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "usage: kdhpc" in done.stdout
    assert "LOADED []" in done.stdout


def test_help_costs_little_cpu_time(tmp_path: Path) -> None:
    """A bound that users feel at every call, with room for a slow machine; not a benchmark."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run("--help", cwd=tmp_path).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 0.3


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["search", "--study", "dog4"], 2, "did you mean 'dogs4'?"),
        (["search", "--study", "../x"], 2, "study name '../x' is not allowed"),
        (["search", "--study", "quickstart", "training.epoch=3"], 2, "did you mean 'training.epochs'?"),
        (["search", "--study", "quickstart", "network=resnt8"], 2, "did you mean 'resnet8'"),
        (["search", "--study", "quickstart", "network.name=resnt8", "--dry-run"], 2, "did you mean 'resnet8'"),
        (["search", "--study", "quickstart", "network.crops=[9]", "--dry-run"], 2, "the attention map of resnet8"),
        (["search", "--study", "quickstart", "~training"], 2, "override '~training' is not allowed"),
        (["search", "--study", "quickstart", "cluster=slurm"], 2, "cluster.executor=slurm is not allowed here"),
        (["search", "--study", "quickstart", "--config-dir", "nowhere"], 2, "nowhere"),
        (["search", "--workers", "2"], 2, "no study is named: give --study NAME, or study=CONFIG, or set KDHPC_STUDY"),
        (["search", "--study", "quickstart"], 1, "data set 'fashion_mnist' is not prepared"),
        (
            ["search", "--study", "quickstart", "device.device=cuda"],
            2,
            "device.device=cuda cannot be used, this machine",
        ),
        (["search", "--study", "quickstart", "device.precision=fp16"], 2, "device.precision=fp16 needs CUDA"),
        (["search", "--study", "quickstart", "device.mode=cudagraph"], 2, "device.mode=cudagraph needs CUDA"),
        (["confirm", "--study", "mine", "--wait"], 2, "--wait has no meaning without --launch"),
        (
            ["confirm", "--study", "mine", "--no-train", "--workers", "2"],
            2,
            "--workers 2 has no meaning with --no-train",
        ),
        (["confirm", "--study", "mine", "--no-train", "device=cpu"], 2, "device=cpu has no meaning with --no-train"),
        (["launch", "--study", "quickstart", "cluster=local"], 2, "cluster.executor=local is not allowed here"),
        (["data", "prepare", "folder", ".", "--name", "../evil"], 2, "data set name '../evil' is not allowed"),
        (["data", "check", "../evil"], 2, "data set name '../evil' is not allowed"),
        (["data", "prepare", "folder", ".", "--name", "x", "--size", "0"], 2, "--size 0 is not allowed"),
        (["data", "prepare", "folder", ".", "--name", "x", "--jobs", "0"], 2, "--jobs 0 is not allowed"),
        (["status", "--study", "x"], 1, "kdhpc db start"),
        (["export-best"], 1, "kdhpc db start"),
        (["report", "pairs", "nowhere"], 2, "nowhere is no folder"),
        (["report", "attention", "nowhere"], 2, "nowhere is no folder"),
        (["report", "accuracy", "--by", "nodes"], 1, "make one with `kdhpc train`"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(argv: list[str], code: int, said: str, tmp_path: Path) -> None:
    done = run(*argv, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_unreachable_database_is_named_at_once(tmp_path: Path) -> None:
    done = run("status", "--study", "x", cwd=tmp_path, KDHPC_STORAGE="postgresql://someone:secret@127.0.0.1:1/none")
    assert done.returncode == 1
    assert "127.0.0.1" in done.stderr
    assert "secret" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_search_overrides_may_follow_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["search", "--study", "quickstart", "training.epochs=7", "--dry-run", "--trials", "5", "study.seed=3"])
        == 0
    )
    printed = capsys.readouterr().out
    assert "epochs: 7" in printed
    assert "trials: 5" in printed
    assert "seed: 3" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("report", "REPORT"),
        ("report attention x --images 0", "0 is not above 0"),
        ("report attention x --indices -1", "--indices"),
        ("report attention x --images 2 --indices 3", "not allowed with"),
        ("report accuracy", "--by"),
    ],
)
def test_report_that_cannot_be_meant_is_refused(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(words.split())
    assert error.value.code == 2
    assert said in capsys.readouterr().err


def test_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["search", "--study", "quickstart", "--wokers", "3"])
    assert error.value.code == 2
    assert "--wokers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "environment"),
    [
        (("study=quickstart",), {}),
        (("--study", "mine", "study=quickstart"), {"KDHPC_STUDY": "dogs4"}),
        ((), {"KDHPC_STUDY": "quickstart"}),
    ],
)
def test_search_study_is_named_by_option_override_or_environment(
    argv: tuple[str, ...],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["search", *argv, "--dry-run"]) == 0
    assert "name: fashion_mnist" in capsys.readouterr().out


def test_system_error_is_one_line_that_names_the_path(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    done = run("db", "start", cwd=tmp_path, KDHPC_RUNS=str(tmp_path / "runs"))
    said = f"kdhpc: {tmp_path / 'runs' / 'db'} cannot be made: it, or a part of its path, is a file and no folder\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert "Traceback" in run("--debug", "db", "start", cwd=tmp_path, KDHPC_RUNS=str(tmp_path / "runs")).stderr


def test_output_that_nobody_reads_ends_the_command_quietly(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "kdhpc.cli.main", "data", "list", "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 141
