import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from kdhpc.errors import GraphError, StorageError
from kdhpc.graph.drawing import draw_graph
from kdhpc.graph.layout import NODE_RADIUS, TAG_FONT_SIZE, lay_out, text_box
from kdhpc.graph.presets import dml, independent
from kdhpc.graph.space import SearchSpace
from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec
from tests.faults import FaultyDisk

GRAPH = GraphSpec(
    label_gates=(Gate.LINEAR, Gate.CUTOFF),
    edges=(
        DistillationEdge(source=0, target=1, design=Design.PROB_CLOSER, gate=Gate.CUTOFF),
        DistillationEdge(source=1, target=0, design=Design.BOTH_APART, gate=Gate.CORRECT),
    ),
)


def _texts(svg: Path) -> list[str]:
    tree = ElementTree.parse(svg)
    return [(element.text or "").strip() for element in tree.iter("{http://www.w3.org/2000/svg}text")]


def _draw(
    graph: GraphSpec,
    stem: Path,
    *,
    title: str = "",
    nodes: tuple[float, ...] | None = None,
    ensemble: float | None = None,
) -> tuple[Path, Path]:
    svg, png = stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")
    draw_graph(graph, (svg, png), title=title, node_accuracies=nodes, ensemble_accuracy=ensemble)
    return svg, png


def test_drawing_names_the_network_of_each_node_beside_it(tmp_path: Path) -> None:
    names = ("resnet50", "abn_resnet18", "torchvision/mobilenet_v3_small")
    graph = replace(SearchSpace(num_nodes=3).graph(0, 1), networks=names)
    svg, _ = _draw(graph, tmp_path / "named")
    assert set(names) <= set(_texts(svg))
    layout = lay_out(graph)
    boxes = [*layout.names, layout.label, *(arrow.tag for arrow in layout.arrows)]
    assert len(layout.names) == 3
    assert not any(box.overlap(other) for at, box in enumerate(boxes) for other in boxes[:at])
    assert all(box.distance(node) >= NODE_RADIUS for box in layout.names for node in layout.nodes)


def _settings() -> dict[str, object]:
    # Looking at the backend would choose one.
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}


def test_drawing_shows_every_edge_that_is_not_cut_off_as_text(tmp_path: Path) -> None:
    svg, _ = _draw(GRAPH, tmp_path / "best", title="dogs2, trial 17", nodes=(68.123, 4.2), ensemble=71.256)
    assert sorted(_texts(svg)) == sorted(
        [
            *("dogs2, trial 17", "Label", "1", "(68.12)", "2", "(4.20)", "Ensemble", "(71.26)", "untrained"),
            *("linear", "prob-att-", "correct"),
            *("label edge", "drives apart", "votes"),
        ]
    )


def test_drawing_with_a_long_title_of_special_characters_shows_it_whole(tmp_path: Path) -> None:
    title = "a $study$ of <graphs> & a name that is as long as a study's name may be, _x^2_"
    svg, png = _draw(dml(1), tmp_path / "best", title=title)
    assert title in _texts(svg)
    with Image.open(png) as image:
        pixels = np.asarray(image.convert("L"))
    assert (pixels[:, :20] == 255).all()
    assert (pixels[:, -20:] == 255).all()


def test_drawing_without_accuracies_shows_none(tmp_path: Path) -> None:
    svg, _ = _draw(independent(3), tmp_path / "plain")
    assert sorted(_texts(svg)) == sorted(["Label", "1", "2", "3", "Ensemble", *["through"] * 3, "label edge", "votes"])


@pytest.mark.parametrize("num_nodes", [1, 2, 3, 4, 5])
def test_drawing_of_any_size_writes_two_whole_files(tmp_path: Path, num_nodes: int) -> None:
    stem = tmp_path / "new folder" / "best.of.5"
    paths = _draw(SearchSpace(num_nodes=num_nodes).graph(0, 3), stem)
    assert paths == (tmp_path / "new folder" / "best.of.5.svg", tmp_path / "new folder" / "best.of.5.png")
    assert sorted(stem.parent.iterdir()) == sorted(paths)
    with Image.open(paths[1]) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert (pixels[0] == 255).all()
    red = (pixels[..., 0] > 180) & (pixels[..., 1] < 80) & (pixels[..., 2] < 80)
    assert red.sum() > 10_000  # the ensemble node: a circle of 69 pixels radius, less its text


_PROGRAM = (
    "import sys\nfrom pathlib import Path\nfrom kdhpc.graph.drawing import draw_graph\n"
    "from kdhpc.graph.presets import dml\n"
    "draw_graph(dml(3), [Path(path) for path in sys.argv[1:]])\n"
    "assert 'matplotlib.pyplot' not in sys.modules\n"
)


def _draw_elsewhere(stem: Path, **environment: str) -> tuple[list[Path], str]:
    """The drawing by another process, in a folder ``cwd`` beside it, and what that says."""
    paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".svg", ".png")]
    (stem.parent / "cwd").mkdir(exist_ok=True)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, paths)],
        cwd=stem.parent / "cwd",
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return paths, done.stderr


def test_drawing_twice_gives_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    here = _draw(dml(3), tmp_path / "here")
    there, said = _draw_elsewhere(tmp_path / "there", PYTHONHASHSEED="3", SOURCE_DATE_EPOCH="1")
    assert said == ""
    assert [path.read_bytes() for path in here] == [path.read_bytes() for path in there]


def test_drawing_needs_no_backend_and_no_configuration(tmp_path: Path) -> None:
    """That of a notebook, which is not installed here, and a configuration of nonsense in the working folder."""
    backend = "module://matplotlib_inline.backend_inline"
    here = _draw(dml(3), tmp_path / "here")
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "matplotlibrc").write_text("backend: nonsense\nlines.linewidth: wide\nno.such.key: 1\n")
    there, said = _draw_elsewhere(tmp_path / "there", MPLBACKEND=backend, MPLCONFIGDIR="/proc/nowhere")
    assert said == ""
    assert [path.read_bytes() for path in here] == [path.read_bytes() for path in there]


def test_drawing_with_a_configuration_that_is_no_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "matplotlibrc").write_bytes(b"font.family: caf\xe9\n")
    _, said = _draw_elsewhere(tmp_path / "there")
    assert "ConfigError: Matplotlib cannot be used: its configuration (matplotlibrc in the working folder" in said


def test_drawing_heeds_no_settings_of_the_user_and_changes_none(tmp_path: Path) -> None:
    plain = _draw(GRAPH, tmp_path / "plain")
    with matplotlib.rc_context({"font.size": 30.0, "lines.linewidth": 9.0, "savefig.dpi": 10, "axes.facecolor": "red"}):
        before = _settings()
        styled = _draw(GRAPH, tmp_path / "styled")
        assert _settings() == before
    assert [path.read_bytes() for path in plain] == [path.read_bytes() for path in styled]


def test_drawing_gives_every_tag_enough_room_for_its_text() -> None:
    figure = Figure(dpi=720)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for text in (*(design.value for design in Design), *(gate.value for gate in Gate)):
        extent = figure.text(0, 0, text, fontsize=TAG_FONT_SIZE).get_window_extent(renderer)
        box = text_box((text,))
        assert extent.width / 10 <= box.width
        assert extent.height / 10 <= box.height


def test_drawing_with_a_wrong_number_of_accuracies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="1 node accuracies for a graph of 2 nodes"):
        _draw(GRAPH, tmp_path / "best", nodes=(68.1,))
    assert not list(tmp_path.iterdir())


def test_drawing_of_another_format_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"best\.gif cannot be a drawing: its name must end in \.svg or \.png"):
        draw_graph(GRAPH, (tmp_path / "best.svg", tmp_path / "best.gif"))
    assert not list(tmp_path.iterdir())


def test_drawing_where_no_folder_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(StorageError, match="file cannot be made: it, or a part of its path, is a file and no folder"):
        _draw(GRAPH, tmp_path / "file" / "best")


@pytest.mark.parametrize("rule", ["write,flush,fsync * late=EDQUOT", "flush .png late=EDQUOT", "write .svg err=ENOSPC"])
def test_drawing_on_a_full_disk_names_the_file_and_leaves_the_old_one(disk: FaultyDisk, rule: str) -> None:
    before = [path.read_bytes() for path in _draw(GRAPH, disk.path / "best")]
    disk.rules(rule)
    with pytest.raises(StorageError, match=r"best\.(svg|png) cannot be written: (Disk quota exceeded|No space left)"):
        _draw(dml(3), disk.path / "best")
    disk.rules()
    # A picture that was written before the disk was full is whole, too.
    assert (disk.path / "best.png").read_bytes() == before[1]
    assert ElementTree.parse(disk.path / "best.svg")
    assert sorted(path.name for path in disk.path.iterdir()) == ["best.png", "best.svg"]


def test_graphs_without_pictures_import_neither_matplotlib_nor_numpy() -> None:
    program = (
        "import sys, kdhpc.graph.presets, kdhpc.graph.space\n"
        "print([name for name in ('matplotlib', 'numpy', 'torch', 'optuna') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
