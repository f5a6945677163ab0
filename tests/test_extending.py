"""docs/extending.md is true: its blocks run, and what it says of plug-ins holds in searches, workers and resumes."""

import json
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest

import kdhpc
from kdhpc.cli.main import main
from kdhpc.config.compose import compose_search
from kdhpc.config.document import read_config
from kdhpc.config.schema import SearchConfig
from kdhpc.data.readers.registry import READERS
from kdhpc.errors import ConfigError, GraphError, StudyMismatchError
from kdhpc.graph.plugins import load_plugins
from kdhpc.methods.registry import METHODS
from kdhpc.searching.manifest import read_manifests
from kdhpc.searching.plan import check_same_study, stored_groups
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.api.conftest import make_images
from tests.plugins import EXAMPLES, forget_plugins

_ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+\.py)\n")
_MODULES = ("my_networks", "my_designs", "my_reader", "my_method", "my_trackers", "own_designs")


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server_folder: Path) -> Path:
    """A folder of PYTHONPATH, with the example; commands work in another one, with the tests' server."""
    folder = tmp_path / "code"
    folder.mkdir()
    shutil.copy(EXAMPLES / "own_designs.py", folder)
    for name in ("KDHPC_CONFIG_DIR", "KDHPC_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KDHPC_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("KDHPC_RUNS", str(server_folder.parent))
    monkeypatch.setenv("PYTHONPATH", f"{_ROOT}:{folder}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(folder))
    _begin_anew(monkeypatch)
    return folder


def _begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process that has imported none of it."""
    forget_plugins(monkeypatch)
    for name in _MODULES:
        sys.modules.pop(name, None)


def test_page_runs_and_its_study_goes_on_only_with_its_plugins(
    storage: Storage, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for registry in (READERS, METHODS):  # What the page adds goes again.
        for name, entry in list(registry.items()):
            monkeypatch.setitem(registry, name, entry)  # type: ignore[attr-defined]
    names: dict[str, object] = {"__name__": "page"}
    try:
        for block in _BLOCK.findall((_ROOT / "docs" / "extending.md").read_text()):
            if named := _FILE.match(block):
                (code / named[1]).write_text(block)
            else:
                exec(compile(block, "docs/extending.md", "exec"), names)
    finally:
        READERS.pop("npz", None)
        METHODS.pop("pull", None)
    study = names["study"]
    assert isinstance(study, kdhpc.Study)
    assert study.plugins == ("my_designs", "own_designs")
    assert study.status.trials.complete == 1

    # Exported with name and digest, and drawn.
    capsys.readouterr()
    assert main(["export-best", "--study", "soft"]) == 0
    exported = json.loads(Path(capsys.readouterr().out.splitlines()[0]).read_text())
    digests = {plugin.module: plugin.digest for plugin in load_plugins(study.plugins)}
    used = {edge["design"] for edge in exported["edges"]} | {edge["gate"] for edge in exported["edges"]}
    assert used & {"soft+", "logits+", "decaying", "wrong", "late"}
    assert exported["plugins"].items() <= digests.items()
    assert "decaying" in (tmp_path / "soft.svg").read_text() or used.isdisjoint({"decaying"})

    # Another process goes on by the study's name alone: it hears of the plug-ins from the study.
    _begin_anew(monkeypatch)
    shared = SharedStudy.open(storage, "soft")
    check_same_study(shared, compose_search([], given=stored_groups(shared)))

    # With other code, neither a launch nor a worker does.
    (code / "my_designs.py").write_text((code / "my_designs.py").read_text() + "# changed\n")
    _begin_anew(monkeypatch)
    said = f'plugins.my_designs was "{digests["my_designs"]}", is '
    with pytest.raises(StudyMismatchError, match=re.escape(said)):
        kdhpc.search("soft", trials=3)
    shared = SharedStudy.open(storage, "soft")
    config = _frozen("soft")
    assert config.plugins == ("own_designs", "my_designs")
    with pytest.raises(StudyMismatchError, match=re.escape(said)):
        check_same_study(shared, config)
    (code / "my_designs.py").write_text("raise RuntimeError('broken')")
    _begin_anew(monkeypatch)
    assert main(["export-best", "--study", "soft"]) == 2
    err = capsys.readouterr().err
    assert f"{code}/my_designs.py, line 1 fails: RuntimeError: broken" in err
    assert err.count("\n") == 1


def _frozen(study: str) -> SearchConfig:
    return read_config(SearchConfig, read_manifests(study)[-1].config)


def test_run_with_a_plugin_stopped_anywhere_ends_with_the_same_bits(
    code: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def train(name: str, *, stop: bool = False) -> kdhpc.Run:
        return kdhpc.train(
            "soft.json",
            plugins=["own_designs"],
            dataset=make_images(64),
            test=make_images(32, seed=1),
            network="resnet8",
            crops=[3],
            epochs=3,
            batch_size=16,
            learning_rate=0.05,
            device="cpu",
            name=name,
            on_epoch=lambda report: signal.raise_signal(signal.SIGINT) if stop and report.epoch == 1 else None,
        )

    edges = [
        {"source": s, "target": 3 - s, "design": "soft+", "gate": gate} for s, gate in ((1, "decaying"), (2, "wrong"))
    ]
    labels = [{"target": node, "gate": gate} for node, gate in ((1, "decaying"), (2, "through"))]
    written = {"format": "kdhpc-graph", "version": 1, "nodes": 2, "label_edges": labels, "edges": edges}
    Path("soft.json").write_text(json.dumps(written | {"plugins": {"own_designs": "0123456789ab"}}))
    with pytest.raises(GraphError, match=r"the graph needs plug-in own_designs: add plugins=\[own_designs\]"):
        kdhpc.load_graph("soft.json")

    whole = train("whole")
    assert "soft.json was made with another plug-in own_designs was 0123456789ab, is " in caplog.text
    with pytest.raises(KeyboardInterrupt):
        train("pieces", stop=True)
    _begin_anew(monkeypatch)
    pieces = train("pieces")
    for node in ("node1.safetensors", "node2.safetensors"):
        assert (whole.folder / node).read_bytes() == (pieces.folder / node).read_bytes()
    (plugin,) = load_plugins(["own_designs"])
    assert json.loads((pieces.folder / "graph.json").read_text())["plugins"] == {"own_designs": plugin.digest}

    # With other code it neither goes on nor counts as the same; what is done is used without it.
    source = (code / "own_designs.py").read_text()
    (code / "own_designs.py").write_text(source.replace("TEMPERATURE = 4.0", "TEMPERATURE = 2.0"))
    _begin_anew(monkeypatch)
    with pytest.raises(ConfigError, match=f'plugins.own_designs was "{plugin.digest}", is "'):
        train("pieces")
    (code / "own_designs.py").unlink()
    _begin_anew(monkeypatch)
    assert kdhpc.load(pieces.folder).predict(make_images(4)[0]).shape == (4, 2)
    with pytest.raises(ConfigError, match="there is no module 'own_designs'"):
        train("pieces")
