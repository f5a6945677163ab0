"""``tools/bench losses``: the losses of a whole graph, forward and backward, against an edge at a time."""

import argparse
import time
from itertools import product

import torch

from kdhpc.config.schema import TrainingConfig
from kdhpc.losses.coefficients import all_terms, graph_coefficients, needed_terms
from kdhpc.losses.distillation import crop_windows
from kdhpc.losses.objective import EnsembleOutput
from kdhpc.methods.graph import graph_losses
from kdhpc.networks.output import NetworkOutput
from kdhpc.training.compile import programs
from tools.benchmarks.paired import paired
from tools.benchmarks.peers_published import EdgeLosses, PerEdgeLosses, PerSampleLosses, PublishedLoop
from tools.benchmarks.report import Cell, Report
from tools.benchmarks.step import full_graph

_CROPS = (3, 7, 11)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured."""
    parser.add_argument("--nodes", type=int, default=5, help="M (default: 5)")
    parser.add_argument("--batch", type=int, default=16, help="N (default: 16)")
    parser.add_argument("--classes", type=int, default=120, help="C (default: 120)")
    parser.add_argument("--map", type=int, default=14, help="side of the attention maps (default: 14)")
    parser.add_argument("--modes", nargs="+", choices=("eager", "compile"), default=["eager", "compile"])
    parser.add_argument("--rounds", type=int, default=15, help="default: 15")


def run(arguments: argparse.Namespace) -> Report:
    """Measure both peers, with one thread."""
    torch.set_num_threads(1)
    rows: list[dict[str, Cell]] = []
    peers: dict[str, EdgeLosses] = {
        "crops in tensors": PerEdgeLosses(_CROPS),
        "crops by sample": PerSampleLosses(_CROPS),
    }
    for mode, (name, edge_losses) in product(arguments.modes, peers.items()):
        case = LossCase(arguments, edge_losses, compiled=mode == "compile")
        measured = paired(case.ours, case.peer, rounds=arguments.rounds, clock=time.process_time)
        first, third = measured.quartiles
        rows.append(
            {
                "mode": mode,
                "peer": name,
                "ours_ms": 1e3 * sorted(measured.ours_s)[arguments.rounds // 2],
                "peer_ms": 1e3 * sorted(measured.peer_s)[arguments.rounds // 2],
                "ratio": measured.ratio,
                "quartiles": f"{first:.1f}-{third:.1f}",
                "rounds": arguments.rounds,
            }
        )
    settings: dict[str, Cell] = {"M": arguments.nodes, "N": arguments.batch, "C": arguments.classes}
    return Report(
        title="Losses of all edges, forward and backward, on the CPU",
        settings=settings | {"map": arguments.map, "crops": str(_CROPS), "threads": 1, "clock": "process time"},
        rows=rows,
    )


class LossCase:
    """Random answers of all networks, and both ways to their losses."""

    def __init__(self, arguments: argparse.Namespace, edge_losses: EdgeLosses, *, compiled: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        shape, side = (arguments.nodes, arguments.batch), arguments.map
        self.logits = torch.randn(*shape, arguments.classes, generator=generator).requires_grad_()
        self.maps = torch.rand(*shape, side, side, generator=generator).requires_grad_()
        self._labels = torch.randint(arguments.classes, (arguments.batch,), generator=generator)
        graph = full_graph(arguments.nodes)
        self._loop = PublishedLoop([], graph, TrainingConfig(), edge_losses)
        # Compiled, a program serves all graphs, as it does in training; as it is, it leaves out what this one has not.
        self._terms = all_terms(arguments.nodes) if compiled else needed_terms(graph)
        self._losses = programs("inductor" if compiled else None).of(graph_losses)
        self._coefficients = graph_coefficients(graph, device="cpu", dtype=torch.float32)
        self._windows = crop_windows(
            _CROPS, height=side, width=side, reduction="mean", device="cpu", dtype=torch.float32
        )  # fmt: skip

    def ours(self) -> torch.Tensor:
        """All at once; gives the losses, (M,)."""
        return self._differentiated(
            self._losses(
                EnsembleOutput(self.logits, self.maps),
                self._labels,
                self._coefficients,
                self._windows,
                torch.tensor(0.5),
                self._terms,
            )
        )

    def peer(self) -> torch.Tensor:
        """An edge at a time; gives the losses, (M,)."""
        outputs = [NetworkOutput(logits, maps) for logits, maps in zip(self.logits, self.maps, strict=True)]
        return self._differentiated(torch.stack(self._loop.losses(outputs, self._labels, 0.5)))

    def _differentiated(self, losses: torch.Tensor) -> torch.Tensor:
        self.logits.grad = self.maps.grad = None
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return losses.detach()
