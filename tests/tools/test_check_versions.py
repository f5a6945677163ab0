"""What tools/check_versions would install and run; it does so for an hour, and is not run here."""

import importlib.util
import re
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    loader = SourceFileLoader("check_versions", str(_ROOT / "tools" / "check_versions"))
    spec = importlib.util.spec_from_loader("check_versions", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_lowest_is_the_bound_of_every_package_that_kdhpc_needs(tool: ModuleType) -> None:
    lowest = tool.lowest()
    assert "dacite==1.9.1" in lowest
    assert "optuna==5.0" in lowest
    assert all(re.fullmatch(r"[a-z0-9-]+==[\d.]+", line) for line in lowest)
    needed = tool.tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert {re.split("[>=<]", need)[0] for need in needed} <= {line.partition("=")[0] for line in lowest}


def test_tests_that_are_run_are_there(tool: ModuleType) -> None:
    assert [test for test in tool.TESTS if not (_ROOT / test).exists()] == []


def test_pythons_are_the_oldest_and_the_newest_that_start(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three in PATH, of which the oldest has no venv, and one of pyenv."""
    for place, version, code in (
        ("bin/python3.10", "3.10.1", 1),
        ("bin/python3.11", "3.11.2", 0),
        ("bin/python3.12", "3.12.3", 0),
        ("pyenv/versions/3.13.0/bin/python", "3.13.0", 0),
    ):
        program = tmp_path / place
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\necho {version}\nexit {code}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    found = tool.found_pythons()
    assert found[0] != str(tmp_path / "bin" / "python3.10")
    assert found == [str(tmp_path / "bin" / "python3.11"), str(tmp_path / "pyenv/versions/3.13.0/bin/python")]


def test_report_is_counted(tool: ModuleType, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite tests="9" failures="2" errors="1" skipped="3"/><testsuite tests="1"/></testsuites>'
    )
    assert tool.read_report(report) == ("4", "3", "3")


def test_check_installs_tests_tells_and_removes(tool: ModuleType, tmp_path: Path) -> None:
    """With a Python that only writes down what it is told, and a pytest that fails."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >> {tmp_path}/calls\n'
        'case "$2" in\n'
        f'    venv) mkdir -p "$3/bin" && cp {python} "$3/bin/python" ;;\n'
        '    pip) [ "$3" = install ] || echo torch==2.11.0 ;;\n'
        f'    pytest) echo \'<testsuite tests="5" failures="1"/>\' > {tmp_path}/place/report.xml; exit 1 ;;\n'
        "esac\n"
    )
    python.chmod(0o755)
    (tmp_path / "place").mkdir()
    cells, fine = tool.check(str(python), "lowest", ["tests/x"], tmp_path / "place", tmp_path / "log")
    assert not fine
    assert (cells[0], cells[1], cells[-4:-1]) == ("2.11.0", "-", ("4", "1", "0"))
    assert not (tmp_path / "place" / "venv").exists()
    assert "torch==2.11" in (tmp_path / "place" / "constraints.txt").read_text().splitlines()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[1] for call in calls] == ["venv", "pip", "pip", "pytest"]
    assert calls[-1].endswith(" tests/x")
