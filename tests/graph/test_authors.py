"""Graphs that the authors have published. Their loss is worked out here from their file alone, in NumPy."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from kdhpc.cli.main import main
from kdhpc.errors import GraphError
from kdhpc.graph.authors import read_authors_graph
from kdhpc.graph.serial import read_stored
from kdhpc.graph.spec import Design, Gate
from kdhpc.losses.coefficients import graph_coefficients, needed_terms
from kdhpc.losses.distillation import crop_windows
from kdhpc.losses.objective import EnsembleOutput, node_losses

M, N, C, SIDE = 3, 8, 5, 6
CROPS = (3, 5)
RAMP = 0.4
EPSILON = 1e-10

LOSSES = {
    "KL+": ("KLLoss", {"T": 1, "soft_loss_positive": 1}),
    "KL-": ("KLLoss", {"T": 1, "soft_loss_positive": 0}),
    "att+": ("AttLoss", {"att_loss_positive": 1}),
    "att-": ("AttLoss", {"att_loss_positive": 0}),
    "both+": ("KL_AttLoss", {"T": 1, "soft_loss_positive": 1, "att_loss_positive": 1}),
    "both-": ("KL_AttLoss", {"T": 1, "soft_loss_positive": 0, "att_loss_positive": 0}),
    "label": ("IndependentLoss", {}),
    "DCL": ("KLLoss", {"T": 1}),
}


def entry(loss: str, gate: str) -> dict[str, object]:
    name, args = LOSSES[loss]
    return {"name": name, "args": {"loss_weight": 1, "gate": {"name": f"{gate}Gate", "args": {}}, **args}}


def model(name: str, **args: object) -> dict[str, object]:
    return {"name": name, "args": args, "load_weight": {"path": None}, "optim": {"name": "SGD"}}


def document(rows: list[list[tuple[str, str]]], network: str = "resnet18_abn") -> dict[str, object]:
    """With the ensemble at index 0."""
    off = entry("KL+", "Cutoff")
    losses = [[off] * (len(rows) + 1), *([off, *(entry(*cell) for cell in row)] for row in rows)]
    losses[0][0] = entry("label", "Cutoff")
    return {
        "doc": "",
        "manualSeed": 4711,
        "dataloader": {"name": "StanfordDogs", "batch_size": 16, "num_class": 120},
        "trainer": {"name": "ClassificationTrainer", "epochs": 300},
        "models": [model("Ensemble", source_list=[1, 2, 3]), *(model(network) for _ in rows)],
        "losses": losses,
    }


# A row for each target, a column for each source.
ROWS = [
    [("label", "Through"), ("KL+", "Correct"), ("both-", "Linear")],
    [("KL-", "Through"), ("label", "Linear"), ("att+", "Correct")],
    [("att-", "Linear"), ("both+", "Through"), ("label", "Correct")],
]


def written(folder: Path, content: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return path


def theirs(config: dict[str, object], logits: np.ndarray, maps: np.ndarray, labels: np.ndarray) -> list[float]:
    """The total loss of each network but the ensemble, as their file describes it; float64."""
    losses = config["losses"]
    assert isinstance(losses, list)
    return [
        sum(_edge(losses[t + 1][s + 1], logits[s], maps[s], logits[t], maps[t], labels) for s in range(M))
        for t in range(M)
    ]


def _edge(
    cell: dict[str, dict[str, object]],
    teacher: np.ndarray,
    teacher_map: np.ndarray,
    student: np.ndarray,
    student_map: np.ndarray,
    labels: np.ndarray,
) -> float:
    name, args = cell["name"], cell["args"]
    gate = args["gate"]["name"]
    samples = np.zeros(N)
    right = teacher.argmax(1) == labels
    if name == "IndependentLoss":
        samples -= np.log(softmax(student, 1)[np.arange(N), labels])
        right[:] = True
    p, q = softmax(teacher, 1), softmax(student, 1)
    if "soft_loss_positive" in args:
        divergence = (p * np.log(p / (q + EPSILON) + EPSILON)).sum(1)
        cosine = (p * q).sum(1) / (np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1))
        samples += divergence if args["soft_loss_positive"] else cosine
    if "att_loss_positive" in args:
        for side in CROPS:
            for n in range(N):
                y, x = np.unravel_index(teacher_map[n].argmax(), (SIDE, SIDE))
                top, left = (min(max(place - side // 2, 0), SIDE - side) for place in (y, x))
                one, other = (
                    crop / np.linalg.norm(crop)
                    for crop in (found[n, top : top + side, left : left + side] for found in (teacher_map, student_map))
                )
                loss = ((one - other) ** 2).mean() if args["att_loss_positive"] else (one * other).sum()
                samples[n] += loss / len(CROPS)
    weight = {"ThroughGate": 1, "CutoffGate": 0, "LinearGate": RAMP, "CorrectGate": right}[gate]
    return float((weight * samples).mean())


def test_imported_graph_has_their_loss_on_their_logits(tmp_path: Path) -> None:
    config = document(ROWS)
    graph = read_authors_graph(written(tmp_path, config)).stored.graph
    rng = np.random.default_rng(0)
    logits, maps, labels = rng.normal(size=(M, N, C)), rng.random((M, N, SIDE, SIDE)), rng.integers(C, size=N)
    logits[:, : N // 2, :] += 2 * np.eye(C)[labels[: N // 2]]  # Some are right.
    found = node_losses(
        EnsembleOutput(torch.from_numpy(logits), torch.from_numpy(maps)),
        torch.from_numpy(labels),
        graph_coefficients(graph, device="cpu", dtype=torch.float64),
        crop_windows(CROPS, height=SIDE, width=SIDE, reduction="mean", device="cpu", dtype=torch.float64),
        torch.tensor(RAMP, dtype=torch.float64),
        terms=needed_terms(graph),
    )
    expected = theirs(config, logits, maps, labels)
    assert len(set(expected)) == M
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-8)  # But for their 1e-10.


def test_rows_are_targets_and_columns_sources(tmp_path: Path) -> None:
    graph = read_authors_graph(written(tmp_path, document(ROWS))).stored.graph
    assert graph.label_gates == (Gate.THROUGH, Gate.LINEAR, Gate.CORRECT)
    assert {(e.source + 1, e.target + 1): (e.design, e.gate) for e in graph.edges} == {
        (2, 1): (Design.PROB_CLOSER, Gate.CORRECT),
        (3, 1): (Design.BOTH_APART, Gate.LINEAR),
        (1, 2): (Design.PROB_APART, Gate.THROUGH),
        (3, 2): (Design.ATTENTION_CLOSER, Gate.CORRECT),
        (1, 3): (Design.ATTENTION_APART, Gate.LINEAR),
        (2, 3): (Design.BOTH_CLOSER, Gate.THROUGH),
    }


def test_command_writes_a_file_and_says_what_it_cannot_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["import-graph", str(written(tmp_path, document(ROWS)))]) == 0
    out, err = capsys.readouterr()
    stored = read_stored(tmp_path / out.strip())
    assert stored.graph == read_authors_graph(tmp_path / "config.json").stored.graph
    assert stored.provenance == {
        "imported_from": str(tmp_path / "config.json"),
        "network": "abn_resnet18",
        "dataset": "stanford_dogs",
        "config.training.batch_size": 16,
        "config.training.epochs": 300,
    }
    assert "3 nodes, networks abn_resnet18, abn_resnet18, abn_resnet18; data set stanford_dogs, epochs 300" in err
    assert "not in the file: the accuracy, the trial's number, " in err
    assert main(["import-graph", "config.json", "--out", "mine.json"]) == 0
    assert (tmp_path / "mine.json").is_file()


def test_file_of_the_forerunner_has_no_ensemble_and_no_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = [[("label", "Through"), ("DCL", "Linear")], [("DCL", "Cutoff"), ("label", "Cutoff")]]
    teacher = model("WideResNet", depth=28, widen_factor=2) | {"load_weight": {"path": "./pre-train/x.pkl"}}
    content = {"models": [model("resnet32"), teacher], "losses": [[entry(*cell) for cell in row] for row in cells]}
    assert main(["import-graph", str(written(tmp_path, content)), "--out", "ktg.json"]) == 0
    stored = read_stored(tmp_path / "ktg.json")
    assert [(e.design, e.gate) for e in stored.graph.edges if e.source == 1] == [(Design.PROB_CLOSER, Gate.LINEAR)]
    assert stored.graph.unlearned_nodes == (1,)
    assert stored.provenance["network"] == "resnet32,wrn28_2"
    assert "node 2 had pretrained weights, which are not imported" in capsys.readouterr().err


def _changed(*path: str | int, to: object) -> dict[str, object]:
    changed = copy.deepcopy(document(ROWS))
    at: object = changed
    for key in path[:-1]:
        at = at[key]  # type: ignore[index]
    at[path[-1]] = to  # type: ignore[index]
    return changed


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], ": [] is not allowed: must be an object"),
        ({"models": []}, ": field 'losses' is missing: give a log/config.json"),
        (_changed("models", to=[]), "models: (none) is not allowed: the ensemble first, or none, then nodes"),
        (_changed("models", to=[model("a")] * 3), "losses: it must have 3 rows and columns, one for each of models"),
        (_changed("losses", 1, to=[]), "losses: it must have 4 rows and columns"),
        (
            _changed("losses", 1, 2, "name", to="CELoss"),
            "losses[1][2]: loss CELoss is not known: did you mean 'KLLoss'",
        ),
        (_changed("losses", 1, 1, "name", to="KLLoss"), "losses[1][1]: loss KLLoss is not allowed on the diagonal"),
        (_changed("losses", 1, 2, "args", "T", to=4), "losses[1][2].args.T: 4 is not allowed: kdhpc's designs have 1"),
        (_changed("losses", 2, 2, "args", "loss_weight", to=0.5), "losses[2][2].args.loss_weight: 0.5 is not allowed"),
        (
            _changed("losses", 1, 2, "args", "beta", to=1),
            "losses[1][2].args.beta: an argument of that name is not known",
        ),
        (
            _changed("losses", 1, 3, "args", "soft_loss_positive", to=1),
            "losses[1][3]: KL_AttLoss with soft_loss_positive=1",
        ),
        (
            _changed("losses", 1, 2, "args", "soft_loss_positive", to=2),
            "soft_loss_positive: 2 is not allowed: must be 0 to 1",
        ),
        (
            _changed("losses", 3, 2, "args", "gate", "name", to="Gate"),
            "losses[3][2].args.gate: gate Gate is not known: ",
        ),
        (
            _changed("losses", 3, 2, "args", "gate", "args", to={"tau": 2}),
            'losses[3][2].args.gate.args: {"tau": 2} is not allowed: ',
        ),
        (_changed("losses", 2, 0, to=entry("KL+", "Linear")), "losses[2][0]: an edge of the ensemble is not allowed"),
        (_changed("losses", 0, 2, to=entry("KL+", "Through")), "losses[0][2]: an edge of the ensemble is not allowed"),
        (_changed("models", 1, "name", to=3), "models[1].name: 3 is not allowed: must be a string"),
    ],
)
def test_file_that_no_graph_stands_for_is_refused_by_its_place(tmp_path: Path, content: object, said: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(GraphError) as raised:
        read_authors_graph(path)
    assert said in str(raised.value)
    assert str(raised.value).startswith(str(path))


def test_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="cannot be read: No such file"):
        read_authors_graph(tmp_path / "none.json")
