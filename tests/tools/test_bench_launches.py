"""Kernels of a step on a GPU, counted without one: that the counting counts, and that no more are launched than were.

The whole count is held on the smallest ensemble that has everything: two ResNet-8. Larger ones are made of the same
parts (see docs/performance.md): a node adds calls of cuDNN and cuBLAS and its updates, a layer adds kernels that do not
depend on the number of nodes.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tools.benchmarks.__main__ import main
from tools.benchmarks.launches import KINDS, published_step
from tools.benchmarks.lowering import CARDS, CountedOperations, Lowering
from tools.benchmarks.noise import Size

ROOT = Path(__file__).parents[2]
H200 = CARDS["h200"]
# What two ResNet-8 launch, batch 16, bf16. The loop that looks at every edge launches four times as many, and more.
OWN_CALLS = {"convolution": 40, "product": 14, "optimizer": 4}
SHARED = {"reduction": 36, "pointwise": 31, "other": 7}
SLACK = 1.05


def is_pinned_torch():
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")]
    return [f"torch=={torch.__version__.partition('+')[0]}"] == pinned


@pytest.mark.skipif(not is_pinned_torch(), reason="another torch lowers differently")
@pytest.mark.timeout(900)  # A minute, where nothing else runs.
@pytest.mark.filterwarnings("ignore")
def test_launches_of_a_step_are_no_more_than_they_were(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", "launches", "--network", "resnet8", "--nodes", "2", "--json"])
    assert main() == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["network"], row["nodes"], row["batch"]) == ("resnet8", 2, 16)
    assert row["kernels"] == sum(row[kind] for kind in KINDS)
    # A convolution of a layer is one call forward and two backward, of which the first layer needs one.
    assert {kind: row[kind] for kind in OWN_CALLS} == OWN_CALLS
    shared = sum(row[kind] for kind in SHARED)
    assert shared <= SLACK * sum(SHARED.values())
    assert row["kernels"] <= SLACK * (sum(OWN_CALLS.values()) + sum(SHARED.values()))
    assert row["peer_kernels"] >= 4 * row["kernels"]
    # Both sides compute the same convolutions and products; losses differ.
    assert row["GFLOP"] == pytest.approx(row["peer_GFLOP"], rel=0.02)
    assert 0 < row["floor_ms"] < row["peer_floor_ms"]


def test_published_side_is_counted_layer_by_layer():
    launched = published_step("resnet8", Size(num_nodes=2, batch_size=16, image_size=None, num_steps=2), "bf16", H200)
    assert launched.kernels["convolution"] == OWN_CALLS["convolution"]
    assert launched.num_kernels > 500


def counted(work):
    with CountedOperations(H200) as operations:
        work()
    return operations.launched


def test_operations_are_counted_as_cuda_launches_them():
    values = torch.zeros(4, 8)
    assert counted(lambda: values.view(8, 4).t().unsqueeze(0)).num_kernels == 0
    assert counted(lambda: torch.empty(3)).num_kernels == 0
    one = counted(lambda: values + 1)
    assert (one.num_kernels, one.num_bytes) == (1, 2 * 4 * 8 * 4)
    product = counted(lambda: values @ values.t())
    assert (product.kernels["product"], product.flops) == (1, 2 * 4 * 4 * 8)
    assert product.floor_s == pytest.approx(1e-6)


def test_backward_convolutions_are_one_call_for_each_gradient():
    images, layer = torch.zeros(1, 3, 8, 8), nn.Conv2d(3, 4, 3, bias=False)
    assert counted(lambda: layer(images).sum().backward()).kernels["convolution"] == 2
    images.requires_grad_()
    assert counted(lambda: layer(images).sum().backward()).kernels["convolution"] == 3


@pytest.mark.parametrize(
    ("sizes", "launches"),
    [([5], 1), ([5] * 336, 1), ([5] * 337, 2), ([65536 * 2240], 1), ([65536 * 2241], 2), ([5, 65536 * 2240], 2)],
)
def test_updates_of_many_weights_are_cut_as_in_torch(sizes, launches):
    lists = [[torch.empty(size, device="meta") for size in sizes] for _ in range(3)]
    operations = CountedOperations(H200)
    with operations:
        torch._foreach_addcmul_(*lists)
    assert operations.launched.kernels["optimizer"] == launches


@pytest.mark.skipif(not is_pinned_torch(), reason="another torch lowers differently")
@pytest.mark.filterwarnings("ignore")
def test_a_lowered_program_is_fused_counted_at_each_call_and_gives_zeros():
    lowering = Lowering(H200, {})
    program = torch.compile(lambda values: ((values * 2).relu() + 1).sum(dim=1), backend=lowering, fullgraph=True)
    program(torch.ones(16, 16))
    operations = CountedOperations(H200)
    lowering.launched = operations.launched
    with operations:
        assert program(torch.ones(16, 16)).tolist() == [0] * 16
        program(torch.ones(16, 16))
    assert dict(operations.launched.kernels) == {"reduction": 2, "other": 2}  # The others make the ones.
    assert operations.launched.num_bytes >= 2 * (16 * 16 + 16) * 4
    assert lowering.num_lowered == 1
