"""Attention maps, answers and entropies of a run's nodes, and the command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdhpc.cli.main import main
from kdhpc.config.paths import RunPaths
from kdhpc.data.progress import Progress
from kdhpc.final.finished import open_finished
from kdhpc.final.result import read_result
from kdhpc.report.attention import read_attention
from kdhpc.report.draw_attention import draw_comparison
from kdhpc.report.examples import AttentionExample, AttentionExamples, NodePrediction, Overall
from tests.report.conftest import INDEPENDENT, svg_texts
from tests.report.paper_numbers import accuracy, answers_of, entropy

CLASSES = ("dark", "light")


class Silent:
    """A stream that is no terminal."""

    def isatty(self):
        return False

    def write(self, text):
        return len(text)

    def flush(self):
        pass


def examples_of(folder, *, num_images=2, indices=None):
    return read_attention(
        open_finished(Path(folder)), num_images=num_images, indices=indices, progress=Progress(Silent())
    )


@pytest.mark.parametrize("name", ["branch", "normalised"])
def test_read_attention_agrees_with_the_networks_own_predictions(finished, name):
    folder = Path("runs/train") / name / "seed0"
    found = examples_of(folder, indices=(31, 2))
    result = read_result(RunPaths(folder).result)
    assert (found.name, found.num_images, found.scored_on) == (f"{name}-seed0", 40, "test")
    assert [example.index for example in found.examples] == [31, 2]
    nodes = [answers_of(folder, node) for node in (0, 1)]
    images, labels = nodes[0][2:]
    for node, (logits, maps, *_) in enumerate(nodes):
        assert found.nodes[node].accuracy == pytest.approx(accuracy(logits, labels))
        assert found.nodes[node].accuracy == pytest.approx(result.node_accuracies[node])
        assert found.nodes[node].entropy == pytest.approx(entropy(logits).mean(), rel=1e-4)
        for example in found.examples:
            prediction = example.nodes[node]
            assert prediction.predicted == CLASSES[logits[example.index].argmax()]
            assert prediction.correct == (logits[example.index].argmax() == labels[example.index])
            assert prediction.entropy == pytest.approx(entropy(logits)[example.index], rel=1e-3, abs=1e-5)
            assert example.maps[node] == pytest.approx(maps[example.index], rel=1e-3, abs=1e-5)
    mean = (nodes[0][0] + nodes[1][0]) / 2
    assert found.ensemble.accuracy == pytest.approx(result.ensemble_accuracy)
    assert found.ensemble.entropy == pytest.approx(entropy(mean).mean(), rel=1e-4)
    for example in found.examples:
        assert example.label == CLASSES[labels[example.index]]
        assert example.ensemble.entropy == pytest.approx(entropy(mean)[example.index], rel=1e-3, abs=1e-5)
        # As stored, whatever the networks' normalisation.
        assert example.image * 255 == pytest.approx(images[example.index].astype(np.float64), abs=0.01)


def test_read_attention_without_indices_takes_the_first_image_of_each_class(finished):
    assert [example.index for example in examples_of(f"{INDEPENDENT}/seed0").examples] == [0, 20]
    assert [example.label for example in examples_of(f"{INDEPENDENT}/seed0", num_images=1).examples] == ["dark"]
    all_classes = examples_of(f"{INDEPENDENT}/seed0", num_images=None).examples
    assert sorted(example.label for example in all_classes) == ["dark", "light"]


def test_read_attention_of_a_run_on_the_search_split_shows_what_it_was_scored_on(finished):
    found = examples_of("runs/train/tiny-resnet8-independent1-search/seed0")
    assert (found.num_images, found.scored_on) == (32, "validation")


def test_report_attention_draws_every_node_with_its_answers(finished, capsys):
    assert main(["report", "attention", "runs/train/branch/seed0", "--images", "2"]) == 0
    out, err = capsys.readouterr()
    found = examples_of("runs/train/branch/seed0")
    assert "branch-seed0 on 40 images: 80 of 80" in err
    lines = out.splitlines()
    assert lines[0].split() == ["accuracy", "mean", "entropy"]
    for line, name, overall in zip(
        lines[1:], ("node 1", "node 2", "ensemble"), (*found.nodes, found.ensemble), strict=False
    ):
        assert line.startswith(name)
        assert line.split()[-2:] == [f"{overall.accuracy:.2f}", f"{overall.entropy:.4f}"]
    assert lines[5] == "top-1 in percent, entropy in nats, of 40 test images"
    svg, png = map(Path, lines[-2:])
    assert svg.parent == finished.runs / "report" / "attention-branch-seed0"

    texts = svg_texts(svg)
    assert {"branch-seed0", "Ensemble", "Node 1", "Node 2", "0: dark", "20: light", "lowest", "highest"} <= set(texts)
    for example in found.examples:
        for prediction in (*example.nodes, example.ensemble):
            assert f"{'✓' if prediction.correct else '✗'} {prediction.predicted}" in texts
            assert f"entropy {prediction.entropy:.2f}" in texts
    for overall in (*found.nodes, found.ensemble):
        assert f"mean entropy {overall.entropy:.2f}" in texts
    with Image.open(png) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert (pixels[:20] == 255).all()
    assert (pixels[:, :20] == 255).all()
    yellow = (pixels[..., 0] > 180) & (pixels[..., 1] > 150) & (pixels[..., 2] < 130)
    assert yellow.sum() > 1000  # Each map has its highest value somewhere.


def test_report_attention_of_a_student_is_one_node(finished, capsys):
    student = next(Path("runs/train").glob("*student*"))
    assert main(["report", "attention", f"{student}/seed0", "--indices", "3", "--out", "figures"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:2]] == [["node", "1"]]
    assert sorted(path.name for path in Path("figures").iterdir()) == ["attention.png", "attention.svg"]


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        ([INDEPENDENT], 2, "holds several runs (seed0, seed1): give a runs/train/NAME/seed<k>"),
        (["nowhere"], 2, "nowhere is no folder"),
        (["runs/train/tiny-resnet8-one2/seed0"], 2, "is a run of ONE"),
        ([f"{INDEPENDENT}/seed0", "--images", "3"], 2, "--images 3 is not allowed: 1 to 2"),
        ([f"{INDEPENDENT}/seed0", "--indices", "4", "40"], 2, "--indices 40 is not allowed: 0 to 39"),
        ([f"{INDEPENDENT}/seed0", "--indices", "4", "4"], 2, "each once"),
    ],
)
def test_report_attention_that_cannot_be_meant_is_one_line_and_leaves_nothing(finished, capsys, argv, code, said):
    assert main(["report", "attention", *argv]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not (finished.runs / "report").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_read_attention_on_a_gpu_agrees_with_the_cpu(finished):
    folder = Path("runs/train/branch/seed0")
    logits, maps, *_ = answers_of(folder, 0)
    found = examples_of(folder)
    assert found.nodes[0].entropy == pytest.approx(entropy(logits).mean(), rel=1e-2)
    assert found.examples[0].maps[0] == pytest.approx(maps[0], abs=1e-2)


def test_report_attention_of_several_runs_shows_the_same_images_of_each(finished, capsys):
    runs = [f"{INDEPENDENT}/seed0", "runs/train/branch/seed0", "runs/train/tiny-resnet8-independent1/seed0"]
    assert main(["report", "attention", *runs, "--indices", "31", "2"]) == 0
    out = capsys.readouterr().out.splitlines()
    svg = Path(out[-2])
    labels = [open_finished(Path(run)).label for run in runs]
    assert svg.parent.name == f"attention-{'-vs-'.join(labels)}"
    assert out[0].split() == ["run", "accuracy", "mean", "entropy"]
    texts = svg_texts(svg)
    assert [text for text in texts if text in labels] == labels
    assert (texts.count("Ensemble"), texts.count("Node 1"), texts.count("Node 2")) == (3, 3, 2)
    assert (texts.count("31: light"), texts.count("2: dark"), texts.count("lowest")) == (3, 3, 1)
    for run, label in zip(runs, labels, strict=True):
        found = examples_of(run, indices=(31, 2))
        (line,) = [line for line in out if line.startswith(label) and "ensemble" in line]
        assert line.split()[-2:] == [f"{found.ensemble.accuracy:.2f}", f"{found.ensemble.entropy:.4f}"]
        for example in found.examples:
            assert {f"entropy {node.entropy:.2f}" for node in example.nodes} <= set(texts)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([f"{INDEPENDENT}/seed0", f"{INDEPENDENT}/../tiny-resnet8-independent2/seed0"], "is named twice"),
        (["runs/train/branch/seed0", "runs/train/tiny-resnet8-one2/seed0"], "is a run of ONE"),
        (
            ["runs/train/branch/seed0", "runs/train/tiny-resnet8-independent1-search/seed0"],
            "are not scored on the same images (run.split official and search)",
        ),
        (
            [
                "runs/train/branch/seed0",
                f"{INDEPENDENT}/seed0",
                f"{INDEPENDENT}/seed1",
                "--indices",
                *map(str, range(17)),
            ],
            "3 runs with 17 images are 51 rows, a picture has 48 at most",
        ),
    ],
)
def test_report_attention_of_runs_that_cannot_stand_side_by_side_is_one_line(finished, capsys, argv, said):
    assert main(["report", "attention", *argv]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not (finished.runs / "report").exists()


def test_draw_comparison_stands_beside_each_other_where_columns_are_few_and_else_below(tmp_path):
    def sizes(*nodes: int) -> tuple[int, int]:
        draw_comparison([made(number) for number in nodes], [tmp_path / "a.png"])
        with Image.open(tmp_path / "a.png") as image:
            return image.size

    alone, beside, below = sizes(3), sizes(3, 4), sizes(5, 5, 5)
    assert beside[1] == alone[1]
    assert beside[0] > 2 * alone[0]
    assert below[0] < beside[0]
    assert below[1] > 2.5 * alone[1]


def made(num_nodes: int) -> AttentionExamples:
    """Of a run with one image; the maps of its nodes have different sizes."""
    prediction = NodePrediction(predicted="a class", correct=True, entropy=0.5)
    overall = Overall(accuracy=50.0, entropy=0.5)
    example = AttentionExample(
        index=0,
        label="a class",
        image=np.zeros((8, 8, 3), np.float32),
        maps=tuple(np.eye(2 + node, dtype=np.float32) for node in range(num_nodes)),
        nodes=(prediction,) * num_nodes,
        ensemble=prediction,
    )
    return AttentionExamples(
        name=f"run of {num_nodes}",
        num_images=1,
        scored_on="test",
        nodes=(overall,) * num_nodes,
        ensemble=overall,
        examples=(example,),
    )
