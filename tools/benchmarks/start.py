"""``tools/bench start``: how a worker's process starts and ends, with and without looking for garbage all the time."""

import argparse
import os
import subprocess
import sys
from functools import partial

from tools.benchmarks.paired import paired
from tools.benchmarks.report import Report

_AS_IT_IS = """\
import kdhpc.config.compose, kdhpc.searching.job, kdhpc.searching.plan, kdhpc.searching.worker
import torch._dynamo
"""
"""What a worker imports. torch.optim imports torch._dynamo for every optimizer."""
_OURS = f"""\
from kdhpc.garbage import collect_as_usual, collect_seldom
collect_seldom()
{_AS_IT_IS}
collect_as_usual()
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured."""
    parser.add_argument("--rounds", type=int, default=7, help="rounds, at least 2 (default: 7)")


def run(arguments: argparse.Namespace) -> Report:
    """Start both in turns."""
    measured = paired(partial(_start, _OURS), partial(_start, _AS_IT_IS), rounds=arguments.rounds, clock=_children_cpu)
    first, third = measured.quartiles
    return Report(
        title="A worker's imports, and the end of its process",
        settings={"clock": "CPU time of the process"},
        rows=[
            {
                "ours_s": sorted(measured.ours_s)[arguments.rounds // 2],
                "peer_s": sorted(measured.peer_s)[arguments.rounds // 2],
                "ratio": measured.ratio,
                "quartiles": f"{first:.2f}-{third:.2f}",
                "rounds": arguments.rounds,
            }
        ],
        notes=["peer: the same imports, garbage collected as Python does it. ratio: the peer's time over ours."],
    )


def _start(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True)


def _children_cpu() -> float:
    """Seconds of CPU of all processes that this one has waited for."""
    times = os.times()
    return times.children_user + times.children_system
