"""What is recorded of the code: commits of real repositories, and nothing where git does not say."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdhpc import __version__, provenance
from kdhpc.provenance import code_versions, commit, driver_version

_SECRET = "https://me:token@example.org/x.git"
_DRIVER = """\
NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.82.07  Thu Aug  7 00:30:24 UTC 2025
GCC version:  gcc version 12.2.0
"""


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    provenance._code_versions.cache_clear()
    yield
    provenance._code_versions.cache_clear()


def git(folder: Path, *words: str) -> str:
    named = ["-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *named, *words], capture_output=True, encoding="utf-8", check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A user's: with a tag, a remote with a token, and a folder below."""
    folder = tmp_path / "mine"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "a.yaml").write_text("a: 1\n")
    git(folder, "init", "--quiet")
    git(folder, "remote", "add", "origin", _SECRET)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    git(folder, "tag", "v1")
    return folder


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_commit_is_that_of_the_folder_and_says_whether_it_was_changed(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    assert commit(repository) == commit(repository / "configs") == head
    (repository / "notes").write_text("git does not know it")
    assert commit(repository) == head
    index = repository / ".git" / "index"
    (repository / "configs" / "a.yaml").write_text("a: 2\n")
    before = (index.read_bytes(), index.stat().st_mtime_ns)
    assert commit(repository) == f"{head}-dirty"
    assert (index.read_bytes(), index.stat().st_mtime_ns) == before


def test_commit_is_none_where_there_is_none(tmp_path: Path) -> None:
    assert commit(tmp_path) is None
    assert commit(tmp_path / "nowhere") is None
    git(tmp_path, "init", "--quiet")
    assert commit(tmp_path) is None, "nothing is committed yet"


def test_variables_of_another_git_do_not_count(repository: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert commit(tmp_path) is None


@pytest.mark.parametrize(
    "script", ["exit 1", "echo v1.0", "echo '# branch.oid (initial)'", "echo; echo fatal: not a commit >&2", None]
)
def test_git_that_is_absent_or_says_something_else_costs_nothing_but_the_commit(
    script: str | None, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    if script is not None:
        program(tmp_path / "bin", "git", script)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(repository)
    assert code_versions().keys() == {"kdhpc", "python", "torch", "torchvision"}


def test_git_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its child holds the output open, and would be waited for.
    program(tmp_path / "bin", "git", "sleep 60 &\nsleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(provenance, "_GIT_S", 0.3)
    begin = time.monotonic()
    assert commit(tmp_path) is None
    assert time.monotonic() - begin < 20


def test_code_versions_name_the_folder_that_it_works_in_and_no_address(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository / "configs")
    versions = code_versions()
    assert versions["kdhpc"] == __version__
    assert versions["folder_commit"] == git(repository, "rev-parse", "HEAD")
    assert "token" not in str(versions)
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", versions.get("kdhpc_commit", "0" * 40))
    (repository / "configs" / "a.yaml").write_text("a: 3\n")
    assert code_versions() == versions, "what this process began with"


def test_code_versions_of_an_installed_package_know_no_commit_of_kdhpc(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed into an environment that lies in a user's repository."""
    monkeypatch.setattr(provenance, "_CHECKOUT", repository / ".venv" / "lib" / "site-packages")
    monkeypatch.chdir(repository)
    versions = code_versions()
    assert "kdhpc_commit" not in versions
    assert versions["folder_commit"] == git(repository, "rev-parse", "HEAD")


def test_code_versions_in_the_checkout_itself_name_it_once(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "pyproject.toml").touch()
    monkeypatch.setattr(provenance, "_CHECKOUT", repository)
    monkeypatch.chdir(repository / "configs")
    versions = code_versions()
    assert versions["kdhpc_commit"] == git(repository, "rev-parse", "HEAD")
    assert "folder_commit" not in versions


def test_driver_is_what_the_kernel_says_else_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(provenance, "_DRIVER_FILE", tmp_path / "version")
    assert driver_version() is None
    program(tmp_path, "nvidia-smi", "echo 570.124.06")
    assert driver_version() == "570.124.06"
    (tmp_path / "version").write_text(_DRIVER)
    assert driver_version() == "580.82.07"
