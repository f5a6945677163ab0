"""The code of plug-ins: tried before it is used, then part of the one program that serves all graphs."""

import importlib
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from kdhpc.errors import ConfigError
from kdhpc.graph.catalogue import Code, DesignEntry, GateEntry, LossEntry, Output, add_design, add_gate
from kdhpc.graph.plugins import load_plugins, names_in
from kdhpc.graph.space import SearchSpace
from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec
from kdhpc.losses.coefficients import (
    Knowledge,
    all_terms,
    graph_coefficients,
    knowledge_taught,
    needed_code,
    needed_terms,
    other_coefficients,
)
from kdhpc.losses.distillation import crop_windows
from kdhpc.losses.kinds import BUILT_IN_KINDS, kinds_of
from kdhpc.losses.objective import EnsembleOutput, node_losses
from kdhpc.methods.graph import graph_losses
from tests.plugins import EXAMPLES, forget_plugins

M, N, C, SIDE = 3, 6, 5, 4
RAMP = 0.3


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    forget_plugins(monkeypatch)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    load_plugins(["own_designs"])
    return importlib.import_module("own_designs")


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_plugins(monkeypatch)


def pair(design: Design, gate: Gate, label: Gate = Gate.CUTOFF) -> GraphSpec:
    """The first node teaches the second one; only that one's label edge has a gate."""
    edges = (
        DistillationEdge(source=0, target=1, design=design, gate=gate),
        DistillationEdge(source=1, target=0, design=design, gate=Gate.CUTOFF),
    )
    return GraphSpec(label_gates=(Gate.CUTOFF, label), edges=edges)


def outputs(num_nodes: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_nodes, N, C, generator=generator, dtype=torch.float64)
    maps = torch.rand(num_nodes, N, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), maps.requires_grad_(), torch.randint(C, (N,), generator=generator)


def losses_of(graph: GraphSpec, logits: Tensor, maps: Tensor, labels: Tensor, *, ramp: float = RAMP) -> Tensor:
    kinds = kinds_of(names_in(graph))
    windows = crop_windows((3,), height=SIDE, width=SIDE, reduction="mean", device="cpu", dtype=torch.float64)
    return node_losses(
        EnsembleOutput(logits, maps),
        labels,
        graph_coefficients(graph, device="cpu", dtype=torch.float64, kinds=kinds),
        windows,
        torch.tensor(ramp, dtype=torch.float64),
        terms=needed_terms(graph),
        code=needed_code(graph, kinds),
    )


@pytest.mark.parametrize("gate", ["through", "decaying", "wrong", "correct"])
def test_example_is_the_divergence_at_its_temperature_under_its_gates(example: ModuleType, gate: str) -> None:
    """Against NumPy."""
    logits, maps, labels = outputs()
    loss = losses_of(pair(Design("soft+"), Gate(gate)), logits, maps, labels)
    source, target = logits.detach().numpy()
    p, log_p, log_q = softmax(source / 4, 1), log_softmax(source / 4, 1), log_softmax(target / 4, 1)
    right = (source.argmax(1) == labels.numpy()).astype(float)
    weight = {"through": np.ones(N), "decaying": np.full(N, 1 - RAMP), "wrong": 1 - right, "correct": right}[gate]
    expected = (weight * 16 * (p * (log_p - log_q)).sum(1)).mean()
    np.testing.assert_allclose(loss.detach().numpy(), [0, expected], rtol=1e-12, atol=1e-15)
    gradient, _ = torch.autograd.grad(loss.sum(), (logits, maps), allow_unused=True)
    expected_gradient = weight[:, None] * 4 * (softmax(target / 4, 1) - p) / N
    np.testing.assert_allclose(gradient[1].numpy(), expected_gradient, rtol=1e-9, atol=1e-12)
    assert not gradient[0].any()  # A source learns nothing from whom it teaches.


@pytest.mark.parametrize(("gate", "weight"), [("decaying", 1 - RAMP), ("wrong", 0.0), ("correct", 1.0)])
def test_label_edge_has_a_gate_of_ones_own_and_labels_are_right(example: ModuleType, gate: str, weight: float) -> None:
    logits, maps, labels = outputs()
    loss = losses_of(pair(Design.PROB_CLOSER, Gate.CUTOFF, Gate(gate)), logits, maps, labels)
    plain = torch.nn.functional.cross_entropy(logits[1], labels)
    torch.testing.assert_close(loss, torch.stack([0 * plain, weight * plain]))


def test_one_program_serves_all_graphs_of_a_space_and_learns_as_plain_code_does(example: ModuleType) -> None:
    space = SearchSpace(
        num_nodes=M,
        designs=(Design("soft+"), Design.PROB_CLOSER, Design.ATTENTION_APART),
        gates=(Gate("wrong"), Gate("decaying"), Gate.CORRECT, Gate.CUTOFF),
        label_gates=(Gate("decaying"), Gate.THROUGH),
    )
    kinds = kinds_of((*space.designs, *space.gates, *space.label_gates))
    counter = CompileCounter()
    compiled = torch.compile(graph_losses, backend=counter, fullgraph=True, dynamic=False)
    windows = crop_windows((3,), height=SIDE, width=SIDE, reduction="mean", device="cpu", dtype=torch.float64)
    ramp = torch.tensor(RAMP, dtype=torch.float64)
    for slot in range(6):
        graph = space.graph(0, slot)
        logits, maps, labels = outputs(M, seed=slot)
        coefficients = graph_coefficients(graph, device="cpu", dtype=torch.float64, kinds=kinds)
        args = EnsembleOutput(logits, maps), labels, coefficients, windows, ramp
        one = compiled(*args, all_terms(M), 0.0, kinds.code)
        other = graph_losses(*args, needed_terms(graph), 0.0, needed_code(graph, kinds))
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)
        # Alone, with nothing but its own kinds.
        torch.testing.assert_close(losses_of(graph, logits, maps, labels), other, rtol=0, atol=0)
    assert counter.frame_count == 1


def test_loss_that_no_edge_needs_is_not_computed_and_each_has_a_row(example: ModuleType) -> None:
    kinds = kinds_of([Design("soft+"), Gate("wrong")])
    assert [entry.name for entry in kinds.losses[4:]] == ["soft_divergence"]
    assert kinds.gates[3:] == ("wrong",)
    assert needed_code(pair(Design.PROB_CLOSER, Gate.THROUGH), kinds).losses == (None,)
    assert needed_code(pair(Design("soft+"), Gate.CUTOFF), kinds).losses == (None,)
    coefficients = graph_coefficients(
        pair(Design("soft+"), Gate("wrong")), device="cpu", dtype=torch.float32, kinds=kinds
    )
    assert coefficients.design_LST[4].tolist() == [[0, 1], [0, 0]] == coefficients.gate_GST[3].tolist()
    assert other_coefficients(coefficients).gate_GST[3].tolist() == [[0, 0.25], [1, 0]]
    with pytest.raises(ValueError, match="not in tuple"):
        graph_coefficients(pair(Design("soft+"), Gate("wrong")), device="cpu", dtype=torch.float32)
    assert kinds_of([]).code == BUILT_IN_KINDS.code


def test_design_of_maps_teaches_by_attention_and_masks_broken_sources(empty: None) -> None:
    def overlap(source: Tensor, target: Tensor) -> Tensor:
        assert source.shape == target.shape == (len(source), len(source[0]), SIDE, SIDE)
        return source.flatten(2) @ target.flatten(2).mT

    loss = LossEntry(name="overlap", compares="attention", function=overlap)
    design = add_design(DesignEntry(name="overlap", losses=(loss,), colour="#000000", meaning="m"))
    graph = pair(design, Gate.THROUGH, Gate.THROUGH)
    assert knowledge_taught(graph) == (frozenset(), {Knowledge.LABEL, Knowledge.ATTENTION})
    logits, maps, labels = outputs()
    found = losses_of(graph, logits, maps, labels)
    own = torch.nn.functional.cross_entropy(logits[1], labels)
    torch.testing.assert_close(found[1] - own, (maps[0] * maps[1]).sum(dim=(1, 2)).mean())
    broken = maps.detach().clone()
    broken[0, 2, 1, 1] = torch.nan
    assert losses_of(graph, logits, broken, labels)[1].isnan()
    away = pair(Design.PROB_CLOSER, Gate.THROUGH, Gate.THROUGH)
    assert losses_of(away, logits, broken, labels).isfinite().all()


def _root(source: Tensor, target: Tensor) -> Tensor:
    return (source.unsqueeze(2) - target.unsqueeze(1)).square().sum(dim=3).sqrt()


def _waits(source: Tensor, target: Tensor) -> Tensor:
    return source @ target.mT * source.max().item()


def _in_place(source: Tensor, target: Tensor) -> Tensor:
    return source.mul_(2) @ target.mT


def _draws(source: Tensor, target: Tensor) -> Tensor:
    return (source * torch.rand_like(source)) @ target.mT


class _Counts:
    """A gate with a number of its own."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, ramp: Tensor, right: Tensor) -> Tensor:
        self.calls += 1
        return ramp * 0.5**self.calls


@pytest.mark.parametrize(
    ("function", "compares", "said"),
    [
        (_in_place, "attention", "changes a tensor that it is given, which other losses need: make a new one"),
        (_draws, "probability", "gives another result for the same tensors when it is called again"),
        (lambda s, t: s @ s.mT, "probability", "does not depend on the target's probability"),
        (lambda s, t: t, "probability", r"shape \(2, 3, 5\), which must be \(2 samples, 3 sources, 3 targets\)"),
        (lambda s, t: (s @ t.mT).mean(), "probability", r"losses of shape \(\), which must be"),
        (lambda s, t: 1.0, "attention", "gives float: it must give a tensor of floating point"),
        (lambda s, t: s @ t.mT > 0, "probability", "gives torch.bool: it must give a tensor of floating point"),
        (lambda s, t: s @ t, "probability", "fails on tensors of the right shapes: RuntimeError"),
        (_root, "probability", "no finite number where source and target are the same node: clamp before a root"),
        (_waits, "probability", "it may ask for the values of a tensor, which no step can wait for"),
        ("kdhpc.losses.nothing:f", "probability", "kdhpc.losses.nothing:f cannot be imported: ModuleNotFoundError"),
        ("kdhpc.losses.kinds:BUILT_IN_KINDS", "probability", "is a Kinds: name a function"),
    ],
)
def test_loss_that_is_none_is_refused_before_training(empty: None, function: Code, compares: Output, said: str) -> None:
    loss = LossEntry(name="mine", compares=compares, function=function)
    design = add_design(DesignEntry(name="mine", losses=(loss,), colour="#000000", meaning="m"))
    with pytest.raises(ConfigError, match=f"^elementary loss 'mine' .*{said}"):
        kinds_of([design])


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (_Counts(), "gives another result for the same tensors when it is called again"),
        (lambda ramp, right: right.mul_(ramp), "changes a tensor that it is given"),
        (lambda ramp, right: 1, "gives int: it must give a tensor"),
        (lambda ramp, right: ramp.new_ones(7), r"gives a weight of shape \(7,\), which must fit"),
        (lambda ramp, right: 1 / ramp, "gives a weight that is no finite number at ramp 0.0"),
        (lambda ramp, right: ramp if ramp > 0 else right, "it may ask for the values of a tensor"),
    ],
)
def test_gate_whose_weight_is_none_is_refused_before_training(
    empty: None, weight: Callable[..., object], said: str
) -> None:
    gate = add_gate(GateEntry(name="mine", weight=weight, line="solid"))
    with pytest.raises(ConfigError, match=f"^gate 'mine' .*{said}"):
        kinds_of([gate])
