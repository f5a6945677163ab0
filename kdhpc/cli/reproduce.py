"""``kdhpc reproduce``: a table or a figure of the paper, from searches and trainings to the page."""

import argparse
import contextlib
import io
import logging
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.errors import ClusterError, ConfigError, DatabaseError, DataError, KdhpcError, UsageError
from kdhpc.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from kdhpc.cluster.signals import StopSignals
    from kdhpc.reproduce.plan import Plan
    from kdhpc.reproduce.reading import Wanted
    from kdhpc.reproduce.running import Outcome, Surroundings
    from kdhpc.reproduce.settings import Schedule
    from kdhpc.searching.server_host import ServerHost

# Spelt out, because importing what reads the files would slow down every command; a test compares.
WHAT = ("table1", "figure3", "table2", "figure6", "figure7", "figure8", "table3", "table4", "all")
_MOST_WAITING = 4
"""Commands that wait for jobs at the same time; each holds some memory of this machine."""
_MOST_TRAINING = 8
"""Trainings on this machine's cores at the same time; each holds a gigabyte."""
_QUEUE_POLL_S = 10.0
_STOPPED = 130
_LOG = logging.getLogger(__name__)
_DESCRIPTION = """\
Searches, trains and draws what a table or a figure of the paper shows (figure 2 comes with table1), by the other
commands of kdhpc, which it prints. What they are stands in configs/reproduce/NAME.yaml. What is finished is not done
again: the same command goes on after Ctrl-C or a crash. Runs of several tables that are the same are trained once.

runs/reproduce/NAME-SCALE then has NAME.md and NAME.csv, with the paper's published numbers beside ours, and the figures
as SVG and PNG.

--scale paper takes the paper's data sets and settings, and very many GPU hours: look at --dry-run first. --scale
miniature takes two small networks and few images of the data sets that are prepared here; with a single one, two
disjoint halves of its classes stand for two data sets where a table needs two. It shows that all of this works, not
what the method is worth. --dry-run needs neither data nor a GPU.

On Slurm, `sbatch slurm/reproduce.sh NAME` is a small job that submits each search and training when what it needs is
done, and hosts PostgreSQL unless there is a database. It requeues itself at its time limit.
"""
_EPILOG = """\
examples:
  kdhpc reproduce all --scale miniature                        half an hour to two hours on two cores
  kdhpc reproduce table2 --dry-run                             commands, trainings, GPU hours, disk
  kdhpc reproduce table3 --scale miniature --data cifar100,fashion_mnist
  sbatch slurm/reproduce.sh table2 cluster.partition=gpu hydra.launcher.partition=gpu
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "reproduce", help="a table or a figure of the paper, with one command", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("name", metavar="NAME", choices=WHAT, help=", ".join(WHAT))
    parser.add_argument("--scale", choices=("paper", "miniature"), default="paper", help="default: %(default)s")
    parser.add_argument(
        "--data", metavar="NAME[,NAME]", help="for a miniature: prepared data sets (default: those that there are)"
    )
    parser.add_argument(
        "--launcher",
        choices=("none", "submitit_local", "submitit_slurm"),
        default="none",
        help="none (default): here, one training after the other; of a miniature, one on each of up to 8 cores. "
        "submitit_slurm: searches and trainings as job arrays, several at once, each after what it needs. "
        "submitit_local: trainings as processes",
    )
    parser.add_argument(
        "--requeue",
        action="store_true",
        help="at its time limit (SIGUSR2), requeue the Slurm job; for batch scripts that run this command alone",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the commands and what they cost, and stop; nothing is made"
    )
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="your own configs, searched before the shipped ones"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="config overrides, of all searches and trainings that have them; study.trials: of each search",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Reproduce.

    Returns:
        0 done; 1 something failed, and the rest was done; 130 stopped.

    Raises:
        DataError: data sets are not prepared.
        ClusterError: jobs were asked for, and Slurm is not here.
        KdhpcError: the file of a table is wrong, or what was asked for cannot be.
    """
    from kdhpc.reproduce.reading import NAMES, read_plan

    wanted = _wanted(args)
    plans = [read_plan(name, wanted) for name in (NAMES if args.name == "all" else (args.name,))]
    found = _checked(plans, args)
    if args.dry_run:
        _show(plans, args, found)
        return 0
    if missing := _missing(plans):
        raise DataError(missing)
    for line in _cost_lines(plans, args, found):
        _say(line.removeprefix("# "))
    from kdhpc.cluster import commands
    from kdhpc.cluster.requeue import requeue_if_out_of_time
    from kdhpc.cluster.signals import StopSignals
    from kdhpc.log import log_to_stderr

    if args.launcher == "submitit_slurm":
        # Before a database is started for jobs that cannot be.
        commands.require()
        commands.require_configured()
        log_to_stderr()
    with StopSignals() as stop:
        try:
            with _database(plans, args, stop) as database:
                code = _do_all(plans, args, stop, database)
        except DatabaseError:
            # Calls are given up when a signal comes.
            if not stop.requested:
                raise
            code = _STOPPED
        requeue_if_out_of_time(stop, is_ours=args.requeue)
    return code


def _do_all(
    plans: "Sequence[Plan]", args: argparse.Namespace, stop: "StopSignals", database: "ServerHost | None"
) -> int:
    around, failed = _surroundings(args, stop, database), False
    for plan in plans:
        outcome = _do(plan, around)
        failed = failed or bool(outcome.failed)
        if outcome.stopped or stop.requested:
            _say("stopped; the same command goes on")
            return _STOPPED
    return 1 if failed else 0


def _surroundings(args: argparse.Namespace, stop: "StopSignals", database: "ServerHost | None") -> "Surroundings":
    from kdhpc.reproduce.running import Surroundings
    from kdhpc.searching.server_host import HOSTED

    on_slurm = args.launcher == "submitit_slurm"
    earlier = _EarlierJobs() if on_slurm else None

    def tend() -> None:
        if earlier is not None:
            earlier.look()
        if database is not None:
            try:
                database.keep_up()
            except (DatabaseError, ClusterError) as exc:  # The searches wait for it.
                _LOG.warning("%s", exc)

    return Surroundings(
        at_once=_at_once(args),
        # A search has workers of its own, and a job has a machine of its own.
        alone=() if on_slurm else ("search",),
        environment=None if database is None else {**os.environ, HOSTED: "1"},
        tend=tend,
        is_held=lambda step: earlier is not None and step.kind == "train" and step.name in earlier.names,
        should_stop=lambda: stop.requested,
        say=_say,
    )


class _EarlierJobs:
    """Jobs of trainings that an earlier process has submitted, before its own job was requeued: their names."""

    def __init__(self) -> None:
        from kdhpc.cluster import slurm

        self.names = slurm.job_names()
        self._asked = time.monotonic()

    def look(self) -> None:
        """Forget those that have ended. Jobs that this process submits are none of them."""
        from kdhpc.cluster import slurm

        if self.names and time.monotonic() - self._asked > _QUEUE_POLL_S:
            try:
                self.names &= slurm.job_names()
            except ClusterError as exc:
                _LOG.warning("%s", exc)
            self._asked = time.monotonic()


def _database(
    plans: "Sequence[Plan]", args: argparse.Namespace, stop: "StopSignals"
) -> "AbstractContextManager[ServerHost | None]":
    """Hosts the database of all searches that are launched as jobs; nothing where there are none."""
    from kdhpc.cli.study_config import wanted_study
    from kdhpc.reproduce.plan import all_steps, open_steps
    from kdhpc.searching.server_host import ServerHost

    left = [step for step in open_steps(all_steps(plans)) if step.kind == "search"]
    if args.launcher != "submitit_slurm" or not left:
        return contextlib.nullcontext()
    first = left[0]
    study = argparse.Namespace(
        study=first.name, trials=None, workers=None, overrides=list(first.overrides), config_dir=args.config_dir
    )
    cluster = wanted_study(study, executor="slurm").config.cluster
    return ServerHost(replace(cluster, workers=_MOST_WAITING * cluster.workers), stop)


def _wanted(args: argparse.Namespace) -> "Wanted":
    from kdhpc.reproduce.datasets import miniature_datasets, paper_datasets
    from kdhpc.reproduce.overrides import Overrides
    from kdhpc.reproduce.reading import Wanted

    if args.data is not None and args.scale == "paper":
        raise UsageError("--data has no meaning with --scale paper, which takes the paper's: give --scale miniature")
    if args.launcher == "none" and (given := [word for word in args.overrides if word.lstrip("+").startswith("hydra")]):
        raise UsageError(f"{given[0]} has no meaning without jobs: give --launcher submitit_slurm")
    chosen = () if args.data is None else [name.strip() for name in args.data.split(",")]
    overrides = Overrides.of(args.overrides)
    if args.launcher == "none" and _at_once(args) > 1 and not any("device.threads" in word for word in args.overrides):
        # Each core has a training of its own.
        overrides = replace(overrides, of_trainings=("device.threads=1", *overrides.of_trainings))
    return Wanted(
        scale=args.scale,
        standing=miniature_datasets(chosen, must_exist=not args.dry_run)
        if args.scale == "miniature"
        else paper_datasets(),
        overrides=overrides,
        launcher=args.launcher,
        config_dir=args.config_dir,
    )


def _checked(plans: "Sequence[Plan]", args: argparse.Namespace) -> "dict[tuple[str, str], Schedule]":
    """The schedules of all steps, whose words are then known to be right, and done runs to be of these steps.

    Raises:
        ConfigError: a word is wrong, or a run was trained with other settings.
    """
    from kdhpc.reproduce.plan import all_steps
    from kdhpc.reproduce.settings import refuse_other_settings, schedules

    for plan in plans:
        _check_commands(plan, args.parsed)
    steps = all_steps(plans)
    found = schedules(steps, args.config_dir, launcher=args.launcher)
    refuse_other_settings(steps, args.config_dir)
    return found


def _check_commands(plan: "Plan", parsed: "Callable[[Sequence[str]], object]") -> None:
    """Whether kdhpc takes the words of each command, as far as can be known before it starts.

    Args:
        plan: What the commands are of.
        parsed: Parses the words after ``kdhpc``; exits as argparse does.

    Raises:
        ConfigError: it would refuse some.
    """
    commands = [words for step in plan.steps for words in step.commands]
    for words in (*commands, *(("report", *report.words) for report in plan.reports)):
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                parsed(words)
        except SystemExit as exc:
            why = said.getvalue().strip() if exc.code else f"{' '.join(words)} shows help"
            raise ConfigError(f"configs/reproduce/{plan.name}.yaml: {why}") from exc


def _missing(plans: "Sequence[Plan]") -> str:
    """Names all data sets that are not prepared; empty: there are none."""
    from kdhpc.config.own_datasets import packed_names
    from kdhpc.reproduce.plan import all_steps, open_steps

    left = open_steps(all_steps(plans))
    wanted = {step.data for step in left} - {step.name for step in left if step.kind == "prepare"}
    missing = sorted(wanted - set(packed_names()))
    if not missing:
        return ""
    return (
        f"not prepared: {', '.join(missing)}; prepare each with kdhpc data prepare (kdhpc data list says what is "
        "there, docs/data.md how)"
    )


def _show(plans: "Sequence[Plan]", args: argparse.Namespace, found: "dict[tuple[str, str], Schedule]") -> None:
    from kdhpc.reproduce.reading import shortest
    from kdhpc.reproduce.running import commands_of

    costs = [_cost_lines([plan], args, found) for plan in plans]  # Refuses a network that the file has no speed for.
    for plan, lines in zip(plans, costs, strict=True):
        print(f"# {plan.name}: {plan.title}", *commands_of(plan, shortest(_folder(plan))), *lines, sep="\n", end="\n\n")
    if len(plans) > 1:
        print("# all of it, what is shared counted once", *_cost_lines(plans, args, found), sep="\n", end="\n\n")
    if missing := _missing(plans):
        print(f"# {missing}")
    print("nothing was made (--dry-run)")


def _cost_lines(
    plans: "Sequence[Plan]", args: argparse.Namespace, found: "dict[tuple[str, str], Schedule]"
) -> list[str]:
    from kdhpc.reproduce.cost import cost, speeds
    from kdhpc.reproduce.plan import all_steps, open_steps
    from kdhpc.reproduce.reading import shared_names

    origin = "configs/reproduce/scales.yaml"
    names, steps = shared_names(args.scale, args.config_dir), all_steps(plans)
    trainings = [step for step in steps if step.kind == "train"]
    at_once = 1 if args.launcher != "none" else _at_once(args)
    known = speeds(names, trainings, at_once=at_once, origin=origin)
    whole = cost(steps, known, found, at_once=at_once, origin=origin)
    left = cost([step.left() for step in open_steps(steps)], known, found, at_once=at_once, origin=origin)
    ends = any(schedule.prune_from is not None for schedule in found.values())
    lines = [
        f"# {counted(whole.searches, 'search', 'searches')} of {counted(whole.trials, 'trial')} in all, "
        f"{counted(whole.trainings, 'training')}; left to do: "
        f"{counted(left.searches, 'search', 'searches')}, {counted(left.trainings, 'training')}",
        f"# about {_number(left.hours)} hours of {_said(names, 'machine', origin)} are left, of "
        f"{_number(whole.hours)}; {_number(whole.gigabytes)} GB of weights",
        f"# speed: {_said(names, 'speed_from', origin)}; starting and reports are not counted"
        f"{'; half of the trials of a search are taken to end at each rung' if ends else ''}",
    ]
    if whole.measured:
        networks = ", ".join(whole.measured)
        lines.append(f"# measured here instead, by runs that are done, with compiling and evaluation: {networks}")
    if args.launcher == "submitit_slurm" and args.scale == "miniature":
        lines.append("# the jobs' machines may be faster or slower than that")
    return lines


def _said(names: "Mapping[str, object]", key: str, origin: str) -> str:
    if key not in names:
        raise ConfigError(f"{origin}: has no {key!r} for this scale")
    return " ".join(str(names[key]).split())


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _do(plan: "Plan", around: "Surroundings") -> "Outcome":
    from kdhpc.reproduce.plan import open_steps
    from kdhpc.reproduce.running import do_steps

    left = open_steps(plan.steps)
    _say(f"{plan.name}: {len(left)} of {counted(len(plan.steps), 'step')} left")
    outcome = do_steps(left, around)
    for what in outcome.failed:
        _say(f"failed: {what}")
    if outcome.left_out:
        _say(f"left out, as they need what failed: {', '.join(outcome.left_out)}")
    if not outcome.stopped:
        _write(plan, outcome, around)
    return outcome


def _at_once(args: argparse.Namespace) -> int:
    """How many steps are under way at the same time."""
    from kdhpc.searching.gpus import visible_gpus

    if args.launcher == "submitit_slurm":
        return _MOST_WAITING
    if args.launcher == "none" and args.scale == "miniature" and not visible_gpus():
        # Small networks: two trainings of one thread are far faster than one after the other with two threads.
        return min(_MOST_TRAINING, len(os.sched_getaffinity(0)))
    return 1


def _write(plan: "Plan", outcome: "Outcome", around: "Surroundings") -> None:
    """The figures, then the table, which may need them."""
    from kdhpc.files.writing import write_whole
    from kdhpc.reproduce.plan import open_steps
    from kdhpc.reproduce.running import do_report, shown
    from kdhpc.reproduce.table import entries_of, markdown, table_csv

    folder = _folder(plan)
    missing = {step.key for step in open_steps(plan.steps)}
    for report in plan.reports:
        if any(need in missing for need in report.needs):
            _say(f"left out, its trainings are not there: {shown(('report', *report.words))}")
            continue
        failed = not around.should_stop() and do_report(report, folder, should_stop=around.should_stop, say=_say)
        if around.should_stop():
            outcome.stopped = True
            return
        if failed:
            outcome.failed.append(shown(("report", *report.words)))
            _say(f"failed: {outcome.failed[-1]}")
    if not plan.published:
        return
    try:
        entries = entries_of(plan, folder)
    except KdhpcError as exc:
        outcome.failed.append(f"the table: {exc}")
        _say(f"no table: {exc}")
        return
    for ending, content in (("md", markdown(plan, entries)), ("csv", table_csv(entries))):
        path = folder / f"{plan.name}.{ending}"
        write_whole(path, content)
        print(path)


def _folder(plan: "Plan") -> Path:
    from kdhpc.config.paths import reproduced_dir

    return reproduced_dir(f"{plan.name}-{plan.scale}")


def _say(line: str) -> None:
    print(f"kdhpc: {line}", file=sys.stderr, flush=True)
