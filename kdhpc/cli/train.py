"""``kdhpc train``: train one graph to the end, on the original training and test images."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli.one_training import train_one
from kdhpc.cli.training_progress import TrainingProgress
from kdhpc.config.number_lists import parse_numbers
from kdhpc.errors import DivergedError, UsageError
from kdhpc.graph.zoo import zoo_names
from kdhpc.methods.registry import METHODS, named_methods

if TYPE_CHECKING:
    from kdhpc.config.schema import TrainConfig
    from kdhpc.final.run import Run

_DESCRIPTION = """\
Trains a graph from scratch on all training images and scores it on the test images: per-node and ensemble accuracy of
the last epoch. A run that was interrupted goes on where it stopped, one that is done is not repeated. A run
that diverges ends there and has no accuracy; the exit code is then 1. Results lie in
runs/train/<data set>-<network>-<graph>/seed<k>; `kdhpc results` puts them in a table.
"""
_EPILOG = """\
examples:
  kdhpc train --graph dml --nodes 2 dataset=fashion_mnist network=resnet8 training=short
  kdhpc train --graph one --nodes 3 --seeds 0..4 dataset=cifar100 network=resnet20 training=paper_cifar
  kdhpc train --graph zoo/cifar100-3-5000 dataset=cifar100 network=resnet8 training=short
  kdhpc train --graph runs/dogs4/export/dogs4-best.json dataset=cub200 network=resnet18
  kdhpc train --graph dml --nodes 2 dataset=cub200 network=[resnet50,resnet18]
  kdhpc train --graph frskd dataset=cifar100 network=resnet18 run.alpha=1 run.beta=200
  kdhpc train --graph student --teacher runs/train/NAME/seed0 dataset=stanford_dogs network=resnet18
  kdhpc train --graph student --teacher runs/train/NAME/seed0 --teacher-node 1 dataset=cifar100 network=resnet20
  kdhpc train --graph dml --nodes 2 dataset=cifar100 network=resnet20 tracking=wandb
what would be trained, without training it:
  kdhpc train --graph dml --nodes 2 --seeds 0..4 --dry-run dataset=cub200 network=resnet18
a sweep (commas choose values; --launcher makes a job of each training, hydra.launcher.* says what it asks for):
  kdhpc train --graph dml,independent --nodes 2 --seeds 0..4 --launcher submitit_local dataset=cub200 network=resnet18
"""


_OPTION_KEYS = {
    "graph": "run.graph",
    "nodes": "run.num_nodes",
    "teacher": "run.teacher",
    "teacher_node": "run.teacher_node",
    "seeds": "run.seed",
}
"""The config key that each option stands for."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "train",
        help="train a graph to the end and score it on the test images",
        description=_DESCRIPTION,
        epilog=f"{_methods()}{_EPILOG}",
    )
    parser.add_argument(
        "--graph",
        required=True,
        metavar="FILE|NAME",
        help=f"a graph's JSON, a graph that ships ({', '.join(zoo_names())}), or independent, dml, "
        f"{', '.join(named_methods())}, or uniform:DESIGN (att-, prob-att-, ... on all edges)",
    )
    parser.add_argument("--nodes", metavar="M", help="number of networks of a preset, or of branches of `one`")
    parser.add_argument(
        "--teacher",
        metavar="DIR",
        help="for --graph student: a run that is done, runs/train/NAME/seed<k>; its ensemble teaches",
    )
    parser.add_argument(
        "--teacher-node", metavar="N", help="for --graph student: the teacher's node, from 1, that teaches alone"
    )
    parser.add_argument("--seeds", metavar="SEEDS", help="such as 3, 0..4 or 0,2,5 (default: run.seed, which is 0)")
    parser.add_argument(
        "--launcher",
        choices=("none", "submitit_local", "submitit_slurm"),
        default="none",
        help="none (default): all trainings here, one after the other; else each training is a job of its own",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, say what would be trained, and stop; nothing is made"
    )
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="your own configs, searched before the shipped ones"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="config overrides; dataset is needed, and network unless the graph names it",
    )
    parser.set_defaults(func=run, option_keys=_OPTION_KEYS)


def _methods() -> str:
    """What can be given as ``--graph NAME`` beside graphs, and its options."""
    lines = ["methods that are no graphs, with the keys that graphs do not have:"]
    for name in named_methods():
        entry = METHODS[name]
        options = ", ".join(f"run.{option}" for option in entry.options)
        lines.append(f"  {name:<8} {entry.summary}{f': {options}' if options else ''}")
    return "\n".join([*lines, "", ""])


def run(args: argparse.Namespace) -> int:
    """Train every combination of graphs, seeds, data sets, ...

    Returns:
        0 done, 130 stopped before it was done.

    Raises:
        KdhpcError: something is wrong with one of them; nothing was trained. Or the one that was trained cannot go on.
        ClusterError: jobs failed; the message names the first.
        DivergedError: trainings diverged; the others were trained, and the message names the first.
    """
    overrides = _overrides(args)
    of_jobs = [word for word in overrides if word.startswith("hydra")]
    if of_jobs and args.launcher == "none":
        raise UsageError(f"{of_jobs[0]} has no meaning without jobs: give --launcher submitit_local or submitit_slurm")
    here = [word for word in overrides if word not in of_jobs]
    with TrainingProgress() as progress:
        progress.stage("reading the config")
        from kdhpc.config.compose import compose_train
        from kdhpc.config.sweep import combinations

        if args.launcher != "none":
            from kdhpc.config.launchers import check_launcher

            check_launcher(of_jobs, args.launcher, args.config_dir)
        choices = combinations(here)
        configs = [compose_train(choice, config_dir=args.config_dir) for choice in choices]
        if args.dry_run:
            progress.hide()
            from kdhpc.cli.train_preview import show_previews

            show_previews(configs, choices, launcher=args.launcher, config_dir=args.config_dir)
            return 0
        progress.stage("loading torch, opening the data")
        from kdhpc.final.run import open_all

        # Also for jobs: what is wrong with any of them is said before the first one starts.
        runs = open_all(configs, elsewhere=args.launcher == "submitit_slurm")
        if args.launcher == "none":
            progress.hide()
            _tell_how_to_look(runs)
            return _train_here(configs, runs, progress)

    _tell_how_to_look(runs)
    from kdhpc.cli.train_jobs import train_as_jobs

    train_as_jobs(runs, overrides, launcher=args.launcher, config_dir=args.config_dir)
    return 0


def _tell_how_to_look(runs: "Sequence[Run]") -> None:
    """How to see what is tracked, if anything is."""
    from kdhpc.tracking.names import how_to_look_at_run

    for line in dict.fromkeys(how_to_look_at_run(run.config.tracking, run.paths) for run in runs):
        if line is not None:
            print(f"kdhpc: {line}", file=sys.stderr, flush=True)


def _train_here(configs: "Sequence[TrainConfig]", runs: "Sequence[Run]", progress: TrainingProgress) -> int:
    """One after the other; one that diverges keeps no other from being trained."""
    diverged: list[DivergedError] = []
    is_done = [run.paths.result.exists() for run in runs]
    for index, config in enumerate(configs):
        progress.next_training(
            config.run.seed, number=index + 1, total=len(configs), left=is_done[index + 1 :].count(False)
        )
        progress.show()
        try:
            if not train_one(config, progress):
                return 130
        except DivergedError as exc:
            diverged.append(exc)
    if not diverged:
        return 0
    many = f"{len(diverged)} of {len(configs)} trainings diverged, the first: " if len(configs) > 1 else ""
    raise DivergedError(f"{many}{diverged[0]}")


def _overrides(args: argparse.Namespace) -> list[str]:
    given = [word.lstrip("+") if word.startswith(("+hydra", "++hydra")) else word for word in args.overrides]
    overrides = [f"run.graph={_choices(args.graph)}", *given]
    if args.teacher is not None:
        overrides.append(f"run.teacher={_choices(args.teacher)}")
    if args.teacher_node is not None:
        overrides.append(f"run.teacher_node={args.teacher_node}")
    if args.nodes is not None:
        overrides.append(f"run.num_nodes={args.nodes}")
    if args.seeds is not None:
        overrides.append(f"run.seed={','.join(map(str, parse_seeds(args.seeds)))}")
    return overrides


def _choices(text: str) -> str:
    """One value of an override, or several with commas between them, unless a file or a folder has that name."""
    names = [text] if Path(text).exists() else text.split(",")
    return ",".join(map(_quoted, names))


def _quoted(text: str) -> str:
    """As Hydra's grammar quotes."""
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"


def parse_seeds(text: str) -> tuple[int, ...]:
    """``3``, ``0..4`` (both ends included) or ``0,2,5``.

    Raises:
        UsageError: it is none of these, has a seed twice, or more than anybody trains.
    """
    try:
        return parse_numbers(text, noun="seed")
    except ValueError as exc:
        raise UsageError(f"--seeds {text} is not allowed: {exc}") from exc
