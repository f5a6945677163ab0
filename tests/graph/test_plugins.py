"""Designs and gates of one's own, without torch: how they are found, refused, written into files and drawn."""

import copy
import importlib
import logging
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdhpc.config.compose import compose_search, compose_train
from kdhpc.config.document import read_config, write_config
from kdhpc.config.schema import SearchConfig
from kdhpc.errors import ConfigError, GraphError
from kdhpc.graph import catalogue
from kdhpc.graph.drawing import draw_graph
from kdhpc.graph.plugins import _digest, load_plugins, names_in, plugins_of
from kdhpc.graph.presets import load_graph
from kdhpc.graph.serial import read_stored, write_graph
from kdhpc.graph.space import SearchSpace, graph_key
from kdhpc.graph.spec import BUILT_IN_DESIGNS, Design, Gate
from tests.plugins import EXAMPLES, forget_plugins, plugin_writer

HEAD = "import kdhpc\ndef f(a, b): return a\nL = kdhpc.LossEntry(name='l', compares='probability', function=f)\n"
DESIGN = HEAD + "DESIGNS = [kdhpc.DesignEntry(name='{}', losses=(L,), colour='#123456', meaning='m')]\n"
GATE = "GATES = [kdhpc.GateEntry(name='{}', weight=f, line='dotted')]\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    return plugin_writer(tmp_path, monkeypatch)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> str:
    """The plug-in of examples/."""
    forget_plugins(monkeypatch)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return "own_designs"


@pytest.mark.parametrize("member", [Gate.CUTOFF, Design.BOTH_APART])
def test_member_is_one_object_also_after_copies_and_pickles(member: Gate | Design) -> None:
    assert pickle.loads(pickle.dumps(member)) is copy.deepcopy([member])[0] is type(member)(str(member)) is member
    assert type(member.value) is str
    assert member.value == member


def test_every_design_and_gate_of_kdhpc_has_an_entry_or_the_catalogue_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [catalogue.design_entry(design).name for design in Design] == list(BUILT_IN_DESIGNS)
    monkeypatch.setattr(Gate, "_known", dict(Gate._known))
    Gate.add("new", is_built_in=True)
    source = Path(catalogue.__file__).read_text()
    with pytest.raises(GraphError, match=r"no weight, colour or line is in .* for new"):
        exec(compile(source, "catalogue", "exec"), {"__name__": "kdhpc.graph.catalogue"})


def test_plugin_is_found_named_and_ordered_alike_whatever_was_imported_first(write: Callable[..., str]) -> None:
    write(DESIGN.format("b+"), "one")
    write(DESIGN.format("a+") + GATE.format("g"), "other")
    load_plugins(["one", "other"])
    assert [*Design][6:] == ["a+", "b+"]
    space = SearchSpace(num_nodes=2, designs=(Design("b+"), Design("a+"), Design.PROB_CLOSER))
    assert space.designs == ("prob+", "a+", "b+")
    assert list(plugins_of([Design("a+")])) == ["other"]
    assert plugins_of([*BUILT_IN_DESIGNS, Gate.LINEAR]) == {}
    assert load_plugins(["one"]) == load_plugins(["one"])
    graph = load_graph("uniform:a+", 2)
    assert graph_key(graph) != graph_key(load_graph("uniform:b+", 2))


def test_plugin_prints_to_stderr(write: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    write("print('hello')\n" + DESIGN.format("a+"))
    load_plugins(["my_plugin"])
    assert capsys.readouterr() == ("", "hello\n")


def test_default_search_space_has_no_plugins(write: Callable[..., str]) -> None:
    write(DESIGN.format("a+"))
    config = compose_search(["study=quickstart", "plugins=[my_plugin]"])
    assert config.study.designs == BUILT_IN_DESIGNS
    assert config.plugins == ("my_plugin",)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1", "defines no DESIGNS and no GATES"),
        ("import nothing_of_that_name", "my_plugin.py, line 1 fails: ModuleNotFoundError: No module named"),
        ("\nraise RuntimeError('no\\nluck')", "my_plugin.py, line 2 fails: RuntimeError: no luck"),
        ("def f(:", "my_plugin.py, line 1 fails: SyntaxError: "),
        ("raise SystemExit(3)", "my_plugin.py, line 1 fails: SystemExit: 3"),
        (DESIGN.format("prob+"), "design 'prob.' is there already: give yours another name"),
        (HEAD + GATE.format("cutoff"), "gate 'cutoff' is there already"),
        (HEAD + GATE.format("g") + "GATES += GATES", "gate 'g' is there already"),
        (DESIGN.format("My design"), "my_plugin.py, line 4 fails: GraphError: design name 'My design' is not allowed"),
        (DESIGN.format("a+").replace("colour='#123456', ", ""), "line 4 fails: TypeError: .*'colour'"),
        (DESIGN.format("a+").replace("#123456", "green"), "has colour='green': give '#rrggbb'"),
        (DESIGN.format("a+").replace("'#123456'", "None"), "has colour=None: give '#rrggbb'"),
        (DESIGN.format("a+").replace("(L,)", "L"), "has losses=LossEntry.*give one LossEntry or more, as losses="),
        (DESIGN.format("a+").replace("'m'", "7"), "has meaning=7: give the words of the legend"),
        (DESIGN.format("a+").replace("(L,)", "()"), "has losses=\\(\\): give one LossEntry or more"),
        (DESIGN.format("a+").replace("name='a+', ", ""), "line 4 fails: TypeError: .*'name'"),
        (HEAD + GATE.format("g").replace("weight=f, ", ""), "line 4 fails: TypeError: .*'weight'"),
        (HEAD + GATE.format("g").replace("weight=f", "weight=1"), "has weight=1: give a function"),
        (HEAD + GATE.format("g").replace("dotted", "wavy"), "has line='wavy': allowed are solid, dashed"),
        (HEAD.replace("probability", "label"), "has compares='label': allowed are probability, attention"),
        ("DESIGNS = 3", "has DESIGNS that is no list of DesignEntry"),
    ],
)
def test_plugin_that_cannot_be_used_is_refused_in_one_line(write: Callable[..., str], source: str, said: str) -> None:
    write(source)
    for _ in range(2):  # Nothing of it stays.
        with pytest.raises(ConfigError, match=said) as raised:
            compose_train(
                ["run.graph=dml", "dataset=cifar10", "network=resnet8", "run.num_nodes=2", "plugins=[my_plugin]"]
            )
        assert "\n" not in str(raised.value)
        assert "my_plugin" in str(raised.value)
        assert len([*Design, *Gate]) == 10


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            "[not_there]",
            "there is no module 'not_there': a plug-in is a module of an installed package, or of a folder",
        ),
        ("[my_plugin.py]", "plug-in 'my_plugin.py' is no name of a module"),
        ("my_plugin", "plugins='my_plugin' is not allowed: a list, each text"),
        ("[my_plugin,my_plugin]", "is not allowed: different names of modules"),
    ],
)
def test_plugins_that_are_not_names_of_modules_are_refused(write: Callable[..., str], value: str, said: str) -> None:
    write(DESIGN.format("a+"))
    with pytest.raises(ConfigError) as raised:
        compose_search(["study=quickstart", f"plugins={value}"])
    assert said in str(raised.value)


def test_unknown_design_of_a_config_names_those_of_plugins(write: Callable[..., str]) -> None:
    write(DESIGN.format("a+"))
    with pytest.raises(ConfigError, match=r"study.designs=.* is not allowed: a list, each .*, prob-att-, a\+"):
        compose_search(["study=quickstart", "plugins=[my_plugin]", "study.designs=[b+]"])


def test_frozen_config_has_its_plugins_and_is_what_it_was_without(write: Callable[..., str], tmp_path: Path) -> None:
    write(DESIGN.format("a+"))
    for plugins in ([], ["plugins=[my_plugin]", "study.designs=[a+,att-]"]):
        config = compose_search(["study=quickstart", *plugins])
        write_config(config, tmp_path / "config.yaml")
        assert ("plugins" in (tmp_path / "config.yaml").read_text()) == bool(plugins)
        assert read_config(SearchConfig, tmp_path / "config.yaml") == config


def test_graph_file_names_its_plugin_and_needs_it(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (plugin,) = load_plugins([example])
    graph = load_graph("uniform:soft+", 2)
    path = tmp_path / "graph.json"
    write_graph(path, graph)
    assert f'"plugins": {{\n    "{example}": "{plugin.digest}"\n  }}' in path.read_text()
    assert read_stored(path).graph == graph
    path.write_text(path.read_text().replace(plugin.digest, "0" * 12))
    with caplog.at_level(logging.WARNING):
        assert read_stored(path).graph == graph
    assert caplog.messages == [f"{path} was made with another plug-in {example} was {'0' * 12}, is {plugin.digest}"]
    forget_plugins(monkeypatch)
    monkeypatch.delitem(sys.modules, example)
    with pytest.raises(GraphError) as raised:
        read_stored(path)
    assert "plugins: the graph needs plug-in own_designs: add plugins=[own_designs], if you trust its code" in str(
        raised.value
    )
    assert example not in sys.modules  # A file from somebody else imports nothing.


def test_cutoff_edge_needs_no_plugin(example: str) -> None:
    load_plugins([example])
    soft = load_graph("uniform:soft+", 2)
    cut = type(soft)(
        label_gates=soft.label_gates,
        edges=tuple(type(edge)(**{**vars(edge), "gate": Gate.CUTOFF}) for edge in soft.edges),
    )
    assert plugins_of(names_in(cut)) == {}


def test_drawing_has_the_colour_the_line_and_the_meaning(example: str, tmp_path: Path) -> None:
    load_plugins([example])
    space = SearchSpace(
        num_nodes=2, label_gates=(Gate("wrong"),), gates=(Gate("decaying"),), designs=(Design("soft+"),)
    )
    draw_graph(space.graph(0, 0), [tmp_path / "graph.svg"])
    drawn = (tmp_path / "graph.svg").read_text()
    for text in ("#2a7f62", "brings softly closer", ">soft+<", ">decaying<", ">wrong<", "stroke-dasharray"):
        assert text in drawn
    assert "brings closer" not in drawn
    assert not re.search(r'style="fill: #[^"]*stroke-dasharray', drawn), "the head of a dotted arrow has no gaps"


def test_digest_is_of_the_source_and_of_all_files_of_a_package(write: Callable[..., str], tmp_path: Path) -> None:
    write(DESIGN.format("a+"))
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text(DESIGN.format("b+"))
    (package / "more.py").write_text("x = 1\n")
    (alone,) = load_plugins(["my_plugin"])
    (whole,) = load_plugins(["my_package"])
    assert alone.digest != whole.digest
    source = (package / "more.py").read_text()
    (package / "more.py").write_text(source.replace("1", "2"))
    assert _digest(importlib.import_module("my_package")) != whole.digest


def test_plugin_of_the_example_is_imported_without_torch() -> None:
    code = (
        "import sys; from kdhpc.graph.plugins import load_plugins; load_plugins(['own_designs']); print(*sys.modules)"
    )
    paths = f"sys.path[:0] = [{str(EXAMPLES)!r}, {str(EXAMPLES.parent)!r}]"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {paths}; {code}"], capture_output=True, text=True, check=True
    )
    assert "own_designs" in done.stdout.split()
    assert "torch" not in done.stdout.split()
