from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec
from kdhpc.losses.coefficients import all_terms, graph_coefficients, needed_terms
from kdhpc.losses.distillation import crop_windows
from kdhpc.losses.objective import EnsembleOutput, node_losses
from tests.losses import paper_reference

CROPS = (3, 5)
RAMP = 0.3
ALL_TERMS = all_terms(2)


@dataclass(frozen=True, kw_only=True)
class Case:
    graph: GraphSpec
    logits: Tensor
    maps: Tensor
    extra: tuple[Tensor, ...]
    labels: Tensor
    reduction: str = "mean"


def random_case(seed, *, num_nodes=3, num_extra=1, reduction="mean", graph=None):
    """Half of the answers are right, so that ``correct`` gates differ from ``through`` and from ``cutoff``."""
    rng = np.random.default_rng(seed)
    num_samples, num_classes, side = 4, 5, 6
    labels = rng.integers(num_classes, size=num_samples)
    logits = rng.normal(size=(num_nodes, num_samples, num_classes)) * 2
    logits[:, ::2] += 4 * np.eye(num_classes)[labels][::2]
    extra = tuple(torch.tensor(rng.normal(size=logits.shape)) for _ in range(num_extra))
    return Case(
        graph=graph or paper_reference.random_graph(rng, num_nodes),
        logits=torch.tensor(logits),
        maps=torch.tensor(rng.random((num_nodes, num_samples, side, side))),
        extra=extra,
        labels=torch.tensor(labels),
        reduction=reduction,
    )


def losses(case, *, dtype=torch.float64, ramp=RAMP, terms=None, **options):
    return node_losses(
        EnsembleOutput(case.logits.to(dtype), case.maps.to(dtype), tuple(extra.to(dtype) for extra in case.extra)),
        case.labels,
        graph_coefficients(case.graph, device="cpu", dtype=dtype),
        crop_windows(
            CROPS,
            height=case.maps.shape[2],
            width=case.maps.shape[3],
            reduction=case.reduction,
            device="cpu",
            dtype=dtype,
        ),
        torch.tensor(ramp, dtype=dtype),
        terms=terms or needed_terms(case.graph),
        **options,
    )


def reference(case, *, logits=None, maps=None):
    return paper_reference.node_losses(
        case.graph,
        case.logits.numpy() if logits is None else logits,
        case.maps.numpy() if maps is None else maps,
        [extra.numpy() for extra in case.extra],
        case.labels.numpy(),
        RAMP,
        CROPS,
        case.reduction,
    )


def two_nodes(design, gate, *, label_gates=(Gate.CUTOFF, Gate.CUTOFF)):
    """0 -> 1 as given, nothing back."""
    return GraphSpec(
        label_gates=label_gates,
        edges=(
            DistillationEdge(source=0, target=1, design=design, gate=gate),
            DistillationEdge(source=1, target=0, design=design, gate=Gate.CUTOFF),
        ),
    )


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("num_nodes", [1, 2, 3, 4])
def test_node_losses_random_graphs_match_the_equations(num_nodes, seed):
    case = random_case(seed, num_nodes=num_nodes, num_extra=seed % 3, reduction=("mean", "sum")[seed % 2])
    expected = reference(case)
    np.testing.assert_allclose(losses(case).numpy(), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(losses(case, dtype=torch.float32).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gate", list(Gate))
@pytest.mark.parametrize("design", list(Design))
def test_node_losses_each_design_and_gate_match_the_equations(design, gate):
    case = random_case(5, num_nodes=2, graph=two_nodes(design, gate, label_gates=(Gate.LINEAR, Gate.CUTOFF)))
    expected = reference(case)
    assert (expected[1] == 0) == (gate is Gate.CUTOFF)
    np.testing.assert_allclose(losses(case).numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_node_losses_computing_unneeded_terms_changes_nothing(seed):
    case = random_case(seed, graph=two_nodes(Design.PROB_CLOSER, Gate.THROUGH), num_nodes=2)
    assert torch.equal(losses(case), losses(case, terms=ALL_TERMS))


@pytest.mark.parametrize("seed", range(6))
def test_node_losses_gradients_match_finite_differences_of_the_reference(seed):
    case = random_case(seed, num_nodes=3, reduction=("mean", "sum")[seed % 2])
    live = replace(case, logits=case.logits.clone().requires_grad_(), maps=case.maps.clone().requires_grad_())
    losses(live, terms=ALL_TERMS).sum().backward()
    rng = np.random.default_rng(seed)
    delta = 1e-6
    for name, gradient in (("logits", live.logits.grad), ("maps", live.maps.grad)):
        values = getattr(case, name).numpy()
        for _ in range(12):
            node = rng.integers(3)
            place = (node, *(rng.integers(size) for size in values.shape[1:]))
            up, down = values.copy(), values.copy()
            up[place] += delta
            down[place] -= delta
            # Only the node's own loss: what it does to the others' is cut off.
            slope = (reference(case, **{name: up})[node] - reference(case, **{name: down})[node]) / (2 * delta)
            np.testing.assert_allclose(gradient[place].item(), slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("seed", range(8))
def test_node_losses_gradient_at_the_source_is_exactly_zero(seed):
    case = random_case(seed, num_nodes=4)
    live = replace(
        case,
        logits=case.logits.clone().requires_grad_(),
        maps=case.maps.clone().requires_grad_(),
        extra=tuple(extra.clone().requires_grad_() for extra in case.extra),
    )
    leaves = (live.logits, live.maps, *live.extra)
    loss_M = losses(live, terms=ALL_TERMS)
    for target in range(4):
        for gradient in torch.autograd.grad(loss_M[target], leaves, retain_graph=True):
            others = torch.cat([gradient[:target], gradient[target + 1 :]])
            assert torch.equal(others, torch.zeros_like(others))


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_node_losses_source_not_finite_breaks_only_the_nodes_that_it_teaches(broken):
    edges = []
    for source in range(3):
        for target in range(3):
            if source != target:
                gate = Gate.THROUGH if (source, target) in ((0, 1), (1, 2), (2, 1)) else Gate.CUTOFF
                edges.append(DistillationEdge(source=source, target=target, design=Design.BOTH_CLOSER, gate=gate))
    case = random_case(0, graph=GraphSpec(label_gates=(Gate.THROUGH,) * 3, edges=tuple(edges)))
    healthy = losses(case)
    logits, maps = case.logits.clone(), case.maps.clone()
    logits[0, 1, 2] = broken
    maps[0, 1, 3, 3] = broken
    live = replace(case, logits=logits.requires_grad_(), maps=maps.requires_grad_())
    loss_M = losses(live)
    assert not loss_M[1].isfinite()
    assert loss_M[2] == healthy[2]
    loss_M.sum().backward()
    assert not live.logits.grad[1].isfinite().all()
    assert live.logits.grad[2].isfinite().all()
    assert live.maps.grad[2].isfinite().all()
    assert live.logits.grad[2].abs().sum() > 0


@pytest.mark.parametrize("half", ["logits", "maps"])
def test_node_losses_broken_half_that_no_edge_compares_changes_nothing(half):
    design = Design.ATTENTION_APART if half == "logits" else Design.PROB_APART
    case = random_case(1, graph=two_nodes(design, Gate.THROUGH, label_gates=(Gate.CUTOFF, Gate.THROUGH)), num_nodes=2)
    values = getattr(case, half).clone()
    values[0] = float("nan")
    assert torch.equal(losses(replace(case, **{half: values}), terms=ALL_TERMS), losses(case, terms=ALL_TERMS))


def test_node_losses_correct_gate_takes_a_broken_answer_for_a_wrong_one():
    case = random_case(2, graph=two_nodes(Design.PROB_CLOSER, Gate.CORRECT), num_nodes=2)
    logits = case.logits.clone()
    logits[0, 0, case.labels[0]] = float("inf")  # The right class has the highest logit, and softmax is undefined.
    wrong = case.logits.clone()
    wrong[0, 0] = -wrong[0, 0]
    wrong[0, 0, case.labels[0]] = -100.0
    assert torch.equal(losses(replace(case, logits=logits)), losses(replace(case, logits=wrong)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 100.0, 1e4, 1e20, 3e38])
def test_node_losses_any_finite_logits_give_finite_losses_and_gradients(size, dtype):
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(-1, 2, (3, 4, 5), generator=generator)
    case = random_case(3, graph=paper_reference.random_graph(np.random.default_rng(3), 3))
    dense = replace(
        case.graph,
        edges=tuple(
            replace(edge, gate=Gate.THROUGH, design=(Design.BOTH_CLOSER, Design.BOTH_APART)[edge.source % 2])
            for edge in case.graph.edges
        ),
        label_gates=(Gate.CUTOFF,) * 3,
    )
    logits = (signs * size).to(dtype).requires_grad_()
    output = EnsembleOutput(logits, case.maps.to(dtype))
    windows = crop_windows(CROPS, height=6, width=6, reduction="mean", device="cpu", dtype=dtype)
    coefficients = graph_coefficients(dense, device="cpu", dtype=dtype)
    loss_M = node_losses(output, case.labels, coefficients, windows, torch.tensor(1.0, dtype=dtype), terms=ALL_TERMS)
    assert loss_M.isfinite().all()
    loss_M.sum().backward()
    assert logits.grad.isfinite().all()


def test_node_losses_no_incoming_edges_is_exactly_zero():
    case = random_case(4, graph=two_nodes(Design.BOTH_CLOSER, Gate.THROUGH), num_nodes=2)
    assert losses(case)[0] == 0
    assert losses(case)[1] > 0


def test_node_losses_correct_gate_without_a_right_answer_is_exactly_zero():
    case = random_case(4, graph=two_nodes(Design.BOTH_CLOSER, Gate.CORRECT), num_nodes=2)
    wrong = case.logits.clone()
    wrong[0] = -100.0 * torch.nn.functional.one_hot(case.labels, 5)
    assert losses(replace(case, logits=wrong)).tolist() == [0, 0]


def test_node_losses_half_precision_is_computed_in_float32():
    case = random_case(6)
    half = replace(case, logits=case.logits.to(torch.bfloat16), maps=case.maps.float())
    loss_M = node_losses(
        EnsembleOutput(half.logits, half.maps),
        half.labels,
        graph_coefficients(half.graph, device="cpu", dtype=torch.float32),
        crop_windows(CROPS, height=6, width=6, reduction="mean", device="cpu", dtype=torch.float32),
        torch.tensor(RAMP),
        terms=ALL_TERMS,
    )
    assert loss_M.dtype == torch.float32
    rounded = replace(half, logits=half.logits.double(), maps=half.maps.double(), extra=())
    np.testing.assert_allclose(loss_M.numpy(), reference(rounded), rtol=1e-5, atol=1e-5)
