"""``kdhpc doctor`` as it is printed."""

import json
from pathlib import Path

import pytest

from kdhpc.cli.main import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("KDHPC_STORAGE", "KDHPC_RUNS", "KDHPC_DATA"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_doctor_in_an_empty_folder_has_nothing_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line[:8].strip() for line in lines} == {"ok", "not here", ""}
    assert not list(folder.iterdir())


def test_doctor_exits_1_for_what_is_configured_and_does_not_work(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDHPC_STORAGE", "postgresql://127.0.0.1:9/nothing")
    assert main(["doctor", "--quick", "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["here"]
    assert [each["name"] for each in found["here"] if each["state"] == "to do"] == ["database"]


@pytest.mark.parametrize("words", [["cluster.account=me"], ["--job", "network=resnet8"]])
def test_overrides_that_have_no_meaning_are_refused(
    words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--quick", *words]) == 2
    assert capsys.readouterr().err == f"kdhpc: {words[-1]!r} is not allowed here: give --job cluster.key=value\n"
