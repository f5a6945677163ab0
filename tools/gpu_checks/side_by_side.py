"""Trials side by side in the real trial runner, against the same trials alone: the same numbers to the bit."""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from kdhpc.config.paths import StudyPaths
from kdhpc.config.schema import SearchConfig
from kdhpc.graph.spec import GraphSpec
from kdhpc.training.runtime import resolve_runtime
from tools.benchmarks.noise import noise_batches
from tools.gpu_checks.check import Check, DiffersError, Numbers, Scale
from tools.gpu_checks.setting import (
    NUM_CLASSES,
    config_of,
    deterministic_cudnn,
    device_of,
    random_graph,
    short_training,
    with_device,
)

if TYPE_CHECKING:
    from kdhpc.study.leased_trial import LeasedTrial
    from kdhpc.study.outcome import Outcome

_STEPS_PER_EPOCH = 4


class OfflineTrial:
    """Stands for the trial of a leased slot, without a database.

    Args:
        number: Of the trial and of its slot.
        graph: What to train.
        last_epoch: It is complete then.
    """

    lost = draining = False
    attempt = 1
    reported: tuple[int, ...] = ()

    def __init__(self, number: int, graph: GraphSpec, last_epoch: int) -> None:
        self.number = self.slot = number
        self.graph = graph
        self._last_epoch = last_epoch
        self.seed = 100 + number
        self.mode = ""
        self.accuracy: float | None = None
        """Once it is complete."""
        self.problem: str | None = None
        """Why it is not."""

    def advance(self, step: int) -> None:
        """A checkpoint is written."""

    def stepped(self, epoch: int, images: int) -> None:
        """Nobody asks."""

    def describe(self, *, mode: str, data: str, versions: Mapping[str, str]) -> None:
        """Its first step is done."""
        self.mode = mode

    def report_rung(self, epoch: int, accuracy: float) -> "Outcome | None":
        """No trial is pruned; at the last epoch it is complete."""
        from kdhpc.study.outcome import Outcome

        if epoch < self._last_epoch:
            return None
        self.accuracy = accuracy
        return Outcome.COMPLETE

    def diverge(self, epoch: int, reason: str) -> None:
        """Its numbers became none."""
        self.problem = f"diverged in epoch {epoch}: {reason}"

    def release(self) -> None:
        """It was given back."""
        self.problem = self.problem or "was given back"

    def crash(self, reason: str) -> None:
        """An error ended it."""
        self.problem = reason


def checks(scale: Scale, scratch: Path) -> Iterator[Check]:
    """Two and four at once."""
    network = scale.step_networks[0]
    for number in (2, 4):
        yield Check(
            name=f"{number} trials side by side, {network}",
            run=functools.partial(side_by_side_check, scale, network, number, scratch),
        )


def side_by_side_check(scale: Scale, network: str, number: int, scratch: Path) -> Numbers:
    """So many trials in turns, each on its stream, against one after the other."""
    # Recorded on a GPU; on a CPU there is nothing that runs at the same time, compiled or not.
    config = config_of(scale, network, training=short_training(scale))
    if not scale.compiles or scale.cpu:
        config = with_device(config, mode="eager")
    with deterministic_cudnn():
        alone = _run(config, scale, 1, number, scratch / f"alone-{number}")
        together = _run(config, scale, number, number, scratch / f"together-{number}")
    modes = {trial.mode for trial, _ in (*alone, *together)}
    if not scale.cpu and scale.compiles and modes != {"cudagraph"}:
        raise DiffersError(f"steps were not recorded (modes {', '.join(sorted(modes))}): the lines before say why")
    for (trial, expected), (_, found) in zip(alone, together, strict=True):
        if found != expected:
            raise DiffersError(f"trial {trial.number} has {found} beside others, alone {expected}")
    return {"mode": ", ".join(sorted(modes)), "trials": number, "numbers of a trial": len(alone[0][1])}


def _run(
    config: SearchConfig, scale: Scale, num_runners: int, num_trials: int, folder: Path
) -> list[tuple[OfflineTrial, list[float]]]:
    """All trials, and the losses and accuracies of all epochs of each."""
    # They need packages that the other checks can do without.
    from kdhpc.searching.trial import TrialSetting
    from kdhpc.searching.trial_runner import Ended, TrialRunner

    train, evaluation = noise_batches(config, _STEPS_PER_EPOCH)
    setting = TrialSetting(
        config=config,
        study_uid="gpu_check",
        paths=StudyPaths(folder),
        data="noise",
        pretrained_weights=None,
        train=train,
        evaluation=evaluation,
        num_classes=NUM_CLASSES,
        runtime=resolve_runtime(config.device),
    )
    runners = [TrialRunner(setting, device_of(scale), lambda: False) for _ in range(num_runners)]
    trials = [
        OfflineTrial(number, random_graph(config.study.num_nodes, number), config.training.epochs)
        for number in range(num_trials)
    ]
    waiting = list(trials)
    while waiting or any(runner.busy for runner in runners):
        for runner in runners:
            if not runner.busy and waiting:
                runner.take(cast("LeasedTrial", waiting.pop(0)))
            if runner.busy and isinstance(runner.step(), Ended):
                continue
    for trial in trials:
        if trial.problem is not None or trial.accuracy is None:
            raise DiffersError(f"trial {trial.number} is not complete: {trial.problem}")
    return [(trial, _numbers(setting.paths.metrics(trial.number))) for trial in trials]


def _numbers(path: Path) -> list[float]:
    """All losses and accuracies, as they were written."""
    found: list[float] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        report = json.loads(line)
        found += _flat([report[name] for name in ("train_losses", "node_accuracies", "ensemble_accuracy")])
    return found


def _flat(values: Sequence[object]) -> list[float]:
    found: list[float] = []
    for value in values:
        if isinstance(value, list):
            found += _flat(value)
        elif isinstance(value, (int, float)):
            found.append(float(value))
    return found
