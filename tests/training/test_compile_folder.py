"""What is compiled lies where nobody else could put something: else nothing is compiled."""

import logging
import os
import tempfile
from pathlib import Path

import pytest

from kdhpc.training.compile import programs
from kdhpc.training.compile_folder import FOLDERS, keep_private, why_not_private

NOBODY = 65534
VARIABLES = (*FOLDERS, "TORCH_EXTENSIONS_DIR")
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A temporary folder of everybody's, as ``/tmp`` is, and no folders named."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    for variable in (*VARIABLES, "SLURM_TMPDIR", "TMPDIR"):
        monkeypatch.setenv(variable, "to be put back at the end")
        monkeypatch.delenv(variable)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def ours(folder: Path) -> Path:
    return folder / f"kdhpc-{os.getuid()}"


def compilers_folders() -> set[Path]:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    return {Path(default_cache_dir()), Path(tempfile.gettempdir()), *(Path(os.environ[name]) for name in VARIABLES)}


def assert_nothing_compiles(caplog, *said):
    with caplog.at_level(logging.WARNING):
        made = programs.__wrapped__("inductor", batch_backend="inductor")
    assert made.mode == "eager"
    (message,) = caplog.messages
    assert message.startswith("torch.compile is not used")
    assert "\n" not in message
    for words in said:
        assert words in message


def test_keep_private_all_compilers_write_into_one_folder_of_ours(temporary):
    assert keep_private() is None
    assert ours(temporary).stat().st_mode & 0o777 == 0o700
    assert all(folder.is_relative_to(ours(temporary)) for folder in compilers_folders())
    assert os.environ["TMPDIR"] == str(ours(temporary))
    before = compilers_folders()
    assert keep_private() is None
    assert compilers_folders() == before


def test_keep_private_in_a_jobs_own_folder(temporary, tmp_path, monkeypatch):
    (tmp_path / "job").mkdir(mode=0o755)
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "job"))
    assert keep_private() is None
    assert all(folder.is_relative_to(ours(tmp_path / "job")) for folder in compilers_folders())


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o755])
def test_keep_private_folder_that_is_open_is_not_used(temporary, caplog, mode):
    ours(temporary).mkdir()
    ours(temporary).chmod(mode)
    assert keep_private() is None
    assert not any(folder.is_relative_to(ours(temporary)) for folder in compilers_folders())
    assert all(folder.is_relative_to(temporary) for folder in compilers_folders())
    assert caplog.text.count("is not ours alone") == 1


@as_root
@pytest.mark.parametrize("made", ["folder", "link"])
def test_keep_private_folder_that_somebody_else_made_first_is_not_used(temporary, tmp_path, made):
    target = tmp_path / "theirs"
    target.mkdir(mode=0o700)
    if made == "folder":
        target.rename(ours(temporary))
        os.chown(ours(temporary), NOBODY, NOBODY)
    else:
        ours(temporary).symlink_to(target)
        os.chown(ours(temporary), NOBODY, NOBODY, follow_symlinks=False)
    assert keep_private() is None
    used = {folder.resolve() for folder in compilers_folders()}
    assert not any(folder.is_relative_to(target) or folder.is_relative_to(ours(temporary)) for folder in used)


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_programs_where_others_could_exchange_the_folder_nothing_compiles(temporary, caplog, mode):
    temporary.chmod(mode)
    assert_nothing_compiles(caplog, str(temporary), "others can write to", "set TMPDIR to a folder of your own")
    assert not any(name in os.environ for name in VARIABLES)
    assert not ours(temporary).exists()


@pytest.mark.parametrize("variable", VARIABLES)
def test_programs_named_folder_that_is_open_to_others_compiles_nothing(
    temporary, tmp_path, monkeypatch, caplog, variable
):
    (tmp_path / "named").mkdir()
    (tmp_path / "named").chmod(0o777)
    monkeypatch.setenv(variable, str(tmp_path / "named"))
    assert_nothing_compiles(caplog, variable, "chmod 700")


@as_root
def test_programs_named_folder_behind_somebody_elses_link_compiles_nothing(temporary, tmp_path, monkeypatch, caplog):
    (tmp_path / "private").mkdir(mode=0o700)
    (temporary / "link").symlink_to(tmp_path / "private")
    os.chown(temporary / "link", NOBODY, NOBODY, follow_symlinks=False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(temporary / "link"))
    assert_nothing_compiles(caplog, "belongs to another user")


def test_keep_private_named_folder_of_the_users_own_is_made_and_used(temporary, tmp_path, monkeypatch):
    named = tmp_path / "mine" / "inductor"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(named))
    assert keep_private() is None
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(named)
    assert why_not_private(named) is None
    assert Path(os.environ["TRITON_CACHE_DIR"]).is_relative_to(ours(temporary))


def test_programs_where_no_folder_can_be_made_nothing_compiles(temporary, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file" / "tmp"))
    assert_nothing_compiles(caplog, "no private folder can be made")


def test_programs_that_compile_nothing_ask_for_no_folder(temporary):
    temporary.chmod(0o777)
    assert programs.__wrapped__("aot_eager").mode == "compile"
    assert programs.__wrapped__(None).mode == "eager"
