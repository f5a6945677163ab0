"""Real compilations, in processes of their own, each with a node's temporary folder."""

import dataclasses
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdhpc.training.compile_cache import CompileCache
from kdhpc.training.compiling import cache_key
from tests.training.memory_source import setting_of

ROOT = Path(__file__).parents[2]
KEY = cache_key(setting_of(), name="resnet8", num_nodes=2)
# Counts what was compiled, and what was found.
WORKER = """
import logging, os, sys
from pathlib import Path
import torch
from tests.training.test_compile_cache import KEY
from kdhpc.training.compile_cache import CompileCache
from kdhpc.training.compile_folder import keep_private
import kdhpc.searching.worker  # As in a worker: what is imported has set the variables by now.

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
cache = CompileCache(Path(sys.argv[1]), KEY)
cache.use()
assert keep_private() is None
before = set(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).rglob("*.so"))

@torch.compile(fullgraph=True, dynamic=False)
def program(x, y):
    return (x @ y).relu().softmax(dim=1) * 2

x = torch.ones(8, 8, requires_grad=True)
program(x, torch.eye(8)).sum().backward()
new = [path for path in Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).rglob("*.so") if path not in before]
print("kernels compiled:", len(new))
print("found:", torch._dynamo.utils.counters["aot_autograd"]["autograd_cache_hit"])
print("published:", cache.publish())
"""


def work(shared: Path, node: Path) -> dict[str, str]:
    """One worker on a node; what it says."""
    node.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("SLURM_TMPDIR", "CXX")}
    environment |= {"TMPDIR": str(node), "OMP_NUM_THREADS": "1"}
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(shared)], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    said = dict(line.split(": ", 1) for line in lines if line.startswith(("kernels", "found", "published: ")))
    return said | {"log": "\n".join(lines)}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The shared folder after the first worker, and what that said."""
    folder = tmp_path_factory.mktemp("shared")
    first = work(folder / "cache", folder / "node1")
    return folder, first


def test_first_worker_compiles_and_publishes(published):
    folder, first = published
    assert int(first["kernels compiled"]) > 0
    assert (first["found"], first["published"]) == ("0", "True")
    (path,) = (folder / "cache").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    # Not even torch's precompiled headers lie where somebody else could have put them; importing torch makes a folder.
    compiled = [path for path in (folder / "node1").rglob("*") if not path.is_dir()]
    assert {path.relative_to(folder / "node1").parts[0] for path in compiled} == {f"kdhpc-{os.getuid()}"}


def test_second_worker_on_another_node_starts_warm(published):
    folder, _ = published
    second = work(folder / "cache", folder / "node2")
    assert (second["kernels compiled"], second["found"], second["published"]) == ("0", "1", "False")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "it is damaged"),
        (lambda content: content[:100], "it is damaged"),
        (lambda content: b"", "it is cut off"),
        (lambda content: b"X" + content[1:], "it is of another format"),
    ],
)
def test_damaged_file_is_ignored_in_one_line(published, tmp_path, monkeypatch, caplog, damage, reason):
    content = next((published[0] / "cache").iterdir()).read_bytes()
    (tmp_path / f"{KEY.digest}.bin").write_bytes(damage(content))
    used(tmp_path, monkeypatch, caplog)
    (message,) = caplog.messages
    assert message.endswith(f"is ignored: {reason}")


def test_worker_with_a_damaged_file_compiles_and_replaces_it(published, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{KEY.digest}.bin").write_bytes(b"half a cache")
    third = work(tmp_path / "cache", tmp_path / "node3")
    assert int(third["kernels compiled"]) > 0
    assert third["published"] == "True"
    assert third["log"].count("is ignored") == 1


@pytest.mark.parametrize("mode", [0o666, 0o620])
def test_file_that_others_may_write_is_not_executed(published, tmp_path, monkeypatch, caplog, mode):
    path = tmp_path / f"{KEY.digest}.bin"
    path.write_bytes(next((published[0] / "cache").iterdir()).read_bytes())
    path.chmod(mode)
    used(tmp_path, monkeypatch, caplog)
    (message,) = caplog.messages
    assert "not ours alone to write" in message


def used(shared, monkeypatch, caplog, key=KEY):
    """A cache in use in this process, on a node of its own."""
    (shared / "node").mkdir(exist_ok=True)
    monkeypatch.setenv("SLURM_TMPDIR", str(shared / "node"))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "to be put back at the end")
        monkeypatch.delenv(name)
    cache = CompileCache(shared, key)
    with caplog.at_level(logging.INFO):
        cache.use()
    return cache


def test_publish_where_nothing_can_be_written_is_one_line(tmp_path, monkeypatch, caplog):
    cache = used(tmp_path, monkeypatch, caplog)
    (tmp_path / "file").write_text("in the way")
    cache._path = tmp_path / "file" / "blob.bin"
    with caplog.at_level(logging.INFO):
        assert not cache.publish()
    (message,) = caplog.messages
    assert "is not published" in message


def test_other_programs_have_another_file_and_folder(tmp_path, monkeypatch, caplog):
    folders = set()
    for key in (KEY, dataclasses.replace(KEY, batch_size=8), dataclasses.replace(KEY, device="another GPU")):
        used(tmp_path, monkeypatch, caplog, key)
        folders.add(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert len(folders) == 3


def test_folders_that_the_user_named_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    cache = CompileCache(tmp_path, KEY)
    cache.use()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/mine"
    assert not cache.publish()


def test_folder_that_others_can_write_is_not_used(tmp_path, monkeypatch, caplog):
    foreign = tmp_path / "node" / f"kdhpc-{os.getuid()}"
    foreign.mkdir(parents=True)
    foreign.chmod(0o777)
    used(tmp_path, monkeypatch, caplog)
    assert not os.environ["TORCHINDUCTOR_CACHE_DIR"].startswith(f"{foreign}/")
    assert "is not ours alone" in caplog.text


@pytest.mark.parametrize("rule", ["open,getattr .bin err=EACCES", "open,getattr .bin err=EIO", "read .bin err=ESTALE"])
def test_file_that_the_disk_does_not_give_is_ignored_in_one_line(disk, published, monkeypatch, caplog, rule):
    (disk.path / f"{KEY.digest}.bin").write_bytes(next((published[0] / "cache").iterdir()).read_bytes())
    (disk.path / f"{KEY.digest}.bin").chmod(0o600)
    disk.rules(rule.replace(".bin", f"{KEY.digest}.bin"))
    used(disk.path, monkeypatch, caplog)
    (message,) = caplog.messages
    assert message.startswith(f"compile cache {disk.path}/{KEY.digest}.bin is ignored: ")


def test_publish_over_a_quota_that_is_told_at_close_leaves_nothing(disk, monkeypatch, caplog):
    cache = used(disk.path, monkeypatch, caplog)
    disk.rules(f"write,flush {KEY.digest}.bin late=EDQUOT")
    with caplog.at_level(logging.INFO):
        assert not cache.publish()
        assert [path.name for path in disk.backing.iterdir()] == ["node"]
        disk.rules()
        assert cache.publish()
        assert not cache.publish(), "there is one"
    assert "is not published: " in caplog.messages[0]
    assert "Disk quota exceeded" in caplog.messages[0]
