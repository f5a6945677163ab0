"""The benchmarks' other sides compute what ours does; the commands run."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdhpc.config.schema import DeviceConfig
from kdhpc.errors import NetworkError
from tools.benchmarks.losses import LossCase
from tools.benchmarks.peers_published import PerEdgeLosses, PerSampleLosses, plain_answer
from tools.benchmarks.step import PEERS, OurLoop, StepCell, batch_of, peer_loop

ROOT = Path(__file__).parents[2]


def run_bench(*argv):
    return subprocess.run([sys.executable, "-m", "tools.benchmarks", *argv], capture_output=True, text=True, cwd=ROOT)


def cell_of(network):
    return StepCell(network=network, num_nodes=3, batch_size=4, image_size=32, device=DeviceConfig(device="cpu"))


@pytest.mark.parametrize(
    ("network", "peer"),
    [("resnet8", peer) for peer in PEERS if peer not in ("no_sync", "compiled")]
    + [("abn_resnet8", "published"), ("abn_resnet8", "vmap")],
)
def test_peer_learns_as_our_step_does(network, peer):
    cell = cell_of(network)
    ours = OurLoop(cell)
    theirs = peer_loop(peer, ours, cell)
    for seed in range(3):
        batch = batch_of(cell, seed)
        expected = ours.step(batch, 0.5, 0.1)
        found = torch.as_tensor(theirs.step(batch, 0.5, 0.1))
        # Convolutions are summed up in another order, and a learning rate of 0.1 makes the rounding grow.
        torch.testing.assert_close(found, expected.clone(), rtol=2e-3, atol=2e-3)


def test_grouped_refuses_attention_branches():
    cell = cell_of("abn_resnet8")
    with pytest.raises(NetworkError, match="only plain residual networks"):
        peer_loop("grouped", OurLoop(cell), cell)


@pytest.mark.parametrize("kind", [PerEdgeLosses, PerSampleLosses])
def test_losses_and_gradients_of_both_sides_are_the_same(kind):
    case = LossCase(argparse.Namespace(nodes=3, batch=4, classes=7, map=14), kind((3, 7, 11)))
    losses, gradients = [], []
    for side in (case.ours, case.peer):
        losses.append(side())
        gradients.append([case.logits.grad.clone(), case.maps.grad.clone()])
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_bench_step_reports_each_peer_of_each_cell():
    argv = ("step", "--networks", "resnet8", "--nodes", "2", "--batches", "4", "--rounds", "3", "--json")
    done = run_bench(*argv, "--peers", "published", "grouped")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [row["peer"] for row in report["rows"]] == ["published", "grouped"]
    for row in report["rows"]:
        assert row["ratio"] > 0
        assert (row["M"], row["batch"], row["mode"], row["rounds"]) == (2, 4, "eager", 3)
    assert {"cpu", "torch", "load"} <= report["machine"].keys()


def test_bench_step_in_bf16_is_compared_in_both_precisions():
    argv = ("step", "--networks", "resnet8", "--nodes", "2", "--batches", "4", "--rounds", "3", "--json")
    done = run_bench(*argv, "--precisions", "bf16", "--peers", "published", "vmap")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    found = [(row["precision"], row["peer"], row["peer precision"]) for row in rows]
    assert found == [("bf16", "published", "bf16"), ("bf16", "published", "float32"), ("bf16", "vmap", "bf16")]
    assert all(row["warm, s"] > 0 for row in rows)


@pytest.mark.parametrize("network", ["resnet8", "abn_resnet8"])
def test_published_layers_give_the_answers_of_our_network(network):
    cell = cell_of(network)
    ours, images = OurLoop(cell).learner.networks[0].eval(), batch_of(cell).images
    torch.testing.assert_close(plain_answer(ours, images), ours(images), rtol=1e-4, atol=1e-5)


def test_bench_losses_prints_a_table():
    done = run_bench("losses", "--nodes", "2", "--batch", "2", "--rounds", "2", "--modes", "eager")
    assert done.returncode == 0, done.stderr
    assert "| crops in tensors |" in done.stdout
    assert "torch" in done.stdout
