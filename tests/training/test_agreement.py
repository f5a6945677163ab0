import math

import pytest
import torch
from torch import nn

from kdhpc.training.agreement import Expectation, StepRun, nudged
from kdhpc.training.node_trainer import NodeState

NETWORK = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
WEIGHTS = [name for name, _ in NETWORK.named_parameters()]


def state():
    tensors = {name: torch.ones_like(tensor) for name, tensor in NETWORK.state_dict().items()}
    momentum = {name: torch.ones_like(tensors[name]) for name in WEIGHTS}
    return NodeState(tensors=tensors, momentum=momentum, loss_scale={})


def moved(by, **others):
    """All tensors by so much, but for those that are named by ``kind_name``, with _ for dots."""
    start = state()
    changed = {
        kind: {name: tensor + others.get(f"{kind}_{name}".replace(".", "_"), by) for name, tensor in tensors.items()}
        for kind, tensors in (("tensors", start.tensors), ("momentum", start.momentum))
    }
    changed["tensors"]["1.num_batches_tracked"] = torch.tensor(1 + others.get("num_batches", 1))
    return NodeState(**changed, loss_scale={})


START = (state(),)


def run(end, loss=1.0, start=START):
    return StepRun(start=start, losses=torch.tensor([loss], dtype=torch.float64), end=(end,))


def problem(found, *, plain=None, noise=(), loss=1.0):
    expected = Expectation(plain or run(moved(0.5)), [NETWORK])
    for again in noise:
        expected.widen(again)
    return expected.problem(found if isinstance(found, StepRun) else run(found, loss))


def test_replay_equal_to_the_step_agrees():
    assert problem(moved(0.5)) is None


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"tensors_0_weight": 0.6}, "0.weight"),
        ({"momentum_0_bias": 0.7}, "momentum of 0.bias"),
        ({"tensors_1_running_mean": 0.6}, "1.running_mean"),
        ({"tensors_1_running_mean": math.nan}, "1.running_mean"),
        ({"num_batches": 0}, "1.num_batches_tracked"),
    ],
)
def test_replay_with_one_other_tensor_is_told_by_its_name(change, name):
    assert problem(moved(0.5, **change)).startswith(f"a replay came to another {name} of node 1 than a step: ")


def test_replay_with_another_loss_is_told():
    assert problem(moved(0.5), loss=1.01).startswith("a replay came to another loss 1 than a step: 0.01 away")


def test_replay_as_noisy_as_the_step_agrees_and_a_noisier_one_does_not():
    noise = [run(moved(0.5, tensors_0_weight=0.6), loss=1.1)]
    assert problem(moved(0.5, tensors_0_weight=0.25), noise=noise, loss=0.8) is None
    assert "another 0.weight" in problem(moved(0.5, tensors_0_weight=1.0), noise=noise)


def test_tensor_that_moves_by_rounding_alone_is_judged_by_what_the_node_moves():
    plain = run(moved(0.5, momentum_0_bias=1e-5))
    assert problem(moved(0.5, momentum_0_bias=-3e-5), plain=plain) is None


def test_tensor_of_a_node_that_stands_still_must_not_move():
    assert "another 0.weight" in problem(moved(0.0, tensors_0_weight=1e-6), plain=run(moved(0.0)))


def test_start_that_was_nudged_is_no_distance():
    (start,) = nudged(START, 0, by=0.1)
    end = NodeState(
        tensors={name: tensor + (1 if name.endswith("tracked") else 0.5) for name, tensor in start.tensors.items()},
        momentum={name: tensor + 0.5 for name, tensor in start.momentum.items()},
        loss_scale={},
    )
    assert problem(run(end, start=(start,))) is None


def test_step_that_has_no_numbers_asks_for_none():
    plain = run(moved(0.5, tensors_0_weight=math.nan, momentum_0_weight=math.inf), loss=math.nan)
    assert problem(moved(0.5, tensors_0_weight=7, momentum_0_weight=7), plain=plain, loss=2.0) is None
    assert "another 0.bias" in problem(moved(0.5, tensors_0_bias=7), plain=plain)


def test_nudged_moves_every_number_a_little_and_by_its_seed():
    (first,), (same,), (other,) = (nudged(START, seed) for seed in (0, 0, 1))
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, same.tensors[name])
        if tensor.is_floating_point():
            assert ((tensor - 1).abs() > 5e-7).all()
            assert ((tensor - 1).abs() < 2e-6).all()
    assert torch.equal(first.tensors["1.num_batches_tracked"], torch.tensor(1))
    assert any(not torch.equal(tensor, other.tensors[name]) for name, tensor in first.tensors.items())
