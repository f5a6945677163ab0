import pytest
import torch

from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec
from kdhpc.losses.coefficients import Elementary, all_terms, graph_coefficients, needed_terms
from kdhpc.losses.kinds import BUILT_IN_KINDS


def pair(design, gate, *, back=Gate.CUTOFF, labels=(Gate.THROUGH, Gate.THROUGH)):
    return GraphSpec(
        label_gates=labels,
        edges=(
            DistillationEdge(source=0, target=1, design=design, gate=gate),
            DistillationEdge(source=1, target=0, design=Design.BOTH_APART, gate=back),
        ),
    )


@pytest.mark.parametrize(
    ("design", "expected"),
    [
        ("prob+", [1, 0, 0, 0]),
        ("prob-", [0, 1, 0, 0]),
        ("att+", [0, 0, 1, 0]),
        ("att-", [0, 0, 0, 1]),
        ("prob+att+", [1, 0, 1, 0]),
        ("prob-att-", [0, 1, 0, 1]),
    ],
)
def test_coefficients_each_design_has_its_elementary_losses(design, expected):
    coefficients = graph_coefficients(pair(Design(design), Gate.THROUGH), device="cpu", dtype=torch.float32)
    assert coefficients.design_LST[:, 0, 1].tolist() == expected
    assert coefficients.design_LST.sum() == sum(expected)


@pytest.mark.parametrize("gate", list(Gate))
def test_coefficients_each_gate_is_one_in_its_own_tensor(gate):
    coefficients = graph_coefficients(pair(Design.PROB_CLOSER, gate), device="cpu", dtype=torch.float32)
    for name, value_ST in zip(BUILT_IN_KINDS.gates, coefficients.gate_GST, strict=True):
        assert value_ST.tolist() == [[0, float(name is gate)], [0, 0]]
    assert coefficients.design_LST[Elementary.PROB_CLOSER, 0, 1] == float(gate is not Gate.CUTOFF)


def test_coefficients_label_gates_have_rows_as_other_gates():
    labels = (Gate.CORRECT, Gate.LINEAR)
    coefficients = graph_coefficients(
        pair(Design.PROB_CLOSER, Gate.CUTOFF, labels=labels), device="cpu", dtype=torch.float64
    )
    assert BUILT_IN_KINDS.gates == (Gate.THROUGH, Gate.LINEAR, Gate.CORRECT)
    assert coefficients.label_gate_GM.tolist() == [[0, 0], [0, 1], [1, 0]]
    assert coefficients.label_gate_GM.dtype == torch.float64


def test_needed_terms_edges_cut_off_need_nothing():
    assert not any(needed_terms(pair(Design.BOTH_CLOSER, Gate.CUTOFF)))


def test_needed_terms_are_those_of_any_edge():
    assert needed_terms(pair(Design.PROB_CLOSER, Gate.LINEAR)) == (True, False, False, False)
    assert needed_terms(pair(Design.PROB_CLOSER, Gate.LINEAR, back=Gate.CORRECT)) == (True, True, False, True)


def test_all_terms_of_a_single_node_are_none():
    assert not any(all_terms(1))
    assert all(all_terms(2))
