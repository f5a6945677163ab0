"""The training loop: steps and epochs that yield reports, stop anywhere, and go on bit for bit where they stopped."""

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdhpc.errors import CheckpointError
from kdhpc.training.device import Mode
from kdhpc.training.divergence import broken_numbers, broken_predictions
from kdhpc.training.evaluation import Accuracies, Prediction
from kdhpc.training.learner import Learner
from kdhpc.training.model import Trainable
from kdhpc.training.node_trainer import NodeState
from kdhpc.training.randomness import may_draw, seed_draws
from kdhpc.training.schedule import ScheduleStep, is_rung, is_scored
from kdhpc.training.setting import TrainingSetting
from kdhpc.training.step import TrainingStep


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What an epoch came to."""

    epoch: int
    """1-based."""
    step: int
    """Optimiser steps since the start of training."""
    rung: bool
    """Whether it is one of the epochs 1, 2, 4, ... or the last, at which the ensemble is scored."""
    train_losses: tuple[float, ...]
    """Of each node, mean over the epoch's steps; not finite where a step's was not."""
    node_accuracies: tuple[float, ...] | None
    """Top-1 of each node in percent; None where it was not measured, or the training has diverged."""
    ensemble_accuracy: float | None
    """Top-1 of the ensemble in percent; None where it was not measured, or the training has diverged."""
    seconds: float
    """Time of the epoch, evaluation included."""
    diverged: str | None = None
    """Why there are no numbers to go on with, see `kdhpc.training.divergence`; None: the training goes on."""
    ensemble_nll: float | None = None
    """Mean negative log-likelihood of the ensemble; None where it was not measured, or the training has diverged."""


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """All that a training needs to go on after a step as if it had never stopped.

    There is no random state in it: data order and augmentation follow from seed and epoch, and what networks draw from
    seed and step.
    """

    step: int
    """Optimiser steps done."""
    epoch: int
    """Whole epochs done."""
    step_in_epoch: int
    """Steps done in the epoch after those."""
    seconds: float
    """Time spent in that epoch."""
    mode: Mode
    """How its steps ran."""
    loss_sums: Tensor
    """(num_losses,), float64: sums over that epoch's steps."""
    nodes: tuple[NodeState, ...]
    """The learner's nodes."""


class TrainingLoop:
    """Trains what a method says for the full schedule.

    Args:
        method: What is trained.
        setting: Network, schedule, data, and where it runs.
        seed: Initial weights, data order and augmentation follow from it.

    Raises:
        NetworkError: the method's networks cannot be built, or weights that it needs are missing or another network's.
    """

    def __init__(self, method: Trainable, setting: TrainingSetting, seed: int) -> None:
        train = setting.train
        learner = Learner(method.model(setting, seed), setting.training)
        self._learner = learner
        self._training = setting.training
        self._train = train
        self._evaluation = setting.evaluation
        self._auto = setting.runtime.auto
        self._loss_sums: Tensor | None = None
        self._ended: tuple[float, Tensor] | None = None
        self._diverged: str | None = None
        self._learn = TrainingStep[tuple[Tensor, ...]](
            learner,
            lambda spec: learner.learn(learner.programs.batch(train, spec)),
            seed=self._seed_draws if may_draw(learner.networks) else None,
        )
        self._begin(seed)

    def restart(self, method: Trainable, seed: int) -> None:
        """Become what a new training of that method and seed would be, in the same memory, with the same programs.

        Args:
            method: Of the same kind, with networks of the same shapes.
            seed: Initial weights, data order and augmentation follow from it.
        """
        self._learner.restart(method, seed)
        self._begin(seed)

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self._epoch

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self._epoch * self._train.steps_per_epoch + self._step_in_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of each epoch."""
        return self._train.steps_per_epoch

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done."""
        return self._epoch >= self._training.epochs

    @property
    def diverged(self) -> str | None:
        """Why the epoch that was reported last has no numbers to go on with; None: it has."""
        return self._diverged

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """What learns, as it is now: a network for each node, or a single one that all nodes share."""
        return self._learner.networks

    @property
    def kept_networks(self) -> tuple[nn.Module, ...]:
        """What is kept of them when training ends: parts that only the training needs are left out."""
        return self._learner.kept_networks

    @property
    def mode(self) -> Mode:
        """How steps run; known for sure after the first."""
        return self._learner.programs.mode

    def steps(self) -> Iterator[EpochReport | None]:
        """Train on from where it stands, to the end, or to the epoch in which it diverges.

        Yields:
            After each step nothing, when `state` is whole: whoever asks for no more has stopped there. After each epoch
            its report; by then the epoch counts as done.
        """
        while not self.finished and self._diverged is None:
            yield from self._train_epoch()
            yield self._end_epoch()

    def epochs(self, after_step: Callable[[], bool]) -> Iterator[EpochReport]:
        """Train on from where it stands, to the end or until told to stop.

        Args:
            after_step: Called after each step, when `state` is whole; True stops at once, in mid-epoch.

        Yields:
            A report after each epoch. By then the epoch counts as done.
        """
        for report in self.steps():
            if report is not None:
                yield report
            elif after_step():
                return

    def predictions(self) -> Iterator[tuple[Prediction, Tensor]]:
        """What the networks predict as they are now: for each batch of the images that are scored logits and labels."""
        if may_draw(self.networks):
            self._seed_draws(0)
        yield from self._learner.predictions(self._evaluation)

    def state(self) -> TrainingState:
        """A copy of where it stands, on the CPU."""
        sums = torch.zeros(self._learner.num_losses) if self._loss_sums is None else self._loss_sums
        return TrainingState(
            step=self.step,
            epoch=self._epoch,
            step_in_epoch=self._step_in_epoch,
            seconds=self._seconds,
            mode=self.mode,
            loss_sums=sums.to("cpu", torch.float64, copy=True),
            nodes=self._learner.state(),
        )

    def restore(self, state: TrainingState) -> None:
        """Go on from there.

        Raises:
            CheckpointError: the state is of another training; nothing has changed.
        """
        if state.step_in_epoch > self._train.steps_per_epoch or state.epoch > self._training.epochs:
            raise CheckpointError(
                f"the checkpoint stands at epoch {state.epoch}, step {state.step_in_epoch}, this training has "
                f"{self._training.epochs} epochs of {self._train.steps_per_epoch} steps: it is of another training"
            )
        sums = state.loss_sums
        steps = state.epoch * self._train.steps_per_epoch + state.step_in_epoch
        # Of other networks the learner says more.
        same_losses = sums.shape == (self._learner.num_losses,) or len(state.nodes) != len(self._learner.networks)
        if state.step != steps or not same_losses or sums.dtype is not torch.float64:
            raise CheckpointError(
                f"the checkpoint stands at step {state.step} with {tuple(sums.shape)} losses, this training would at "
                f"step {steps} with {self._learner.num_losses}: it is of another training"
            )
        self._learner.restore(state.nodes)
        if self._auto is not None:
            self._learner.use(self._auto.of(state.mode))
        self._epoch, self._step_in_epoch, self._seconds = state.epoch, state.step_in_epoch, state.seconds
        self._loss_sums = state.loss_sums.clone() if state.step_in_epoch else None
        self._ended = self._diverged = None

    def reopen_epoch(self) -> None:
        """Stand before the end of the epoch that was reported last: whoever goes on gets its report again."""
        assert self._ended is not None, "no epoch has ended since training began, was restored, or went on"
        self._seconds, self._loss_sums = self._ended
        self._epoch, self._step_in_epoch = self._epoch - 1, self._train.steps_per_epoch
        self._ended = self._diverged = None

    def _begin(self, seed: int) -> None:
        """Stand before the first step."""
        self._seed = seed
        self._epoch = 0
        self._step_in_epoch = 0
        self._seconds = 0.0
        self._loss_sums = None
        self._ended = None
        self._diverged = None

    def _seed_draws(self, variant: int) -> None:
        seed_draws(self._seed, step=self.step, variant=variant)

    def _train_epoch(self) -> Iterator[None]:
        """The rest of the running epoch, a step at a time."""
        num_steps = self._training.epochs * self._train.steps_per_epoch
        if self._step_in_epoch == self._train.steps_per_epoch:  # Stopped before its evaluation.
            return
        self._ended = None
        before = time.monotonic()
        for spec in self._train.specs(self._seed, self._epoch + 1, self._step_in_epoch):
            self._learner.set_schedule(ScheduleStep(epoch=self._epoch + 1, step=self.step + 1, num_steps=num_steps))
            if self._auto is not None and self.step == 0:
                self._learner.use(self._auto.of("eager"))
                self._learner.use(self._auto.choose(num_steps, functools.partial(self._learn.seconds, spec)))
            losses = self._learn(spec)
            if self._loss_sums is None:
                self._loss_sums = torch.zeros_like(losses, dtype=torch.float64)
            self._loss_sums = self._loss_sums.to(losses.device).add_(losses)
            self._step_in_epoch += 1
            now = time.monotonic()
            if self._auto is not None:
                self._auto.observe(self.mode, now - before)
            self._seconds, before = self._seconds + now - before, now
            yield
        assert self._step_in_epoch == self._train.steps_per_epoch, "the data did not have as many steps as promised"

    def _end_epoch(self) -> EpochReport:
        before = time.monotonic()
        epoch, step = self._epoch + 1, self.step
        rung = is_rung(epoch, self._training.epochs)
        assert self._loss_sums is not None
        mean_losses = tuple((self._loss_sums / self._train.steps_per_epoch).tolist())
        accuracies = None
        self._diverged = broken_numbers(self._learner, mean_losses)
        if is_scored(self._training, epoch) and self._diverged is None:
            accuracies = self._score()
        report = EpochReport(
            epoch=epoch,
            step=step,
            rung=rung,
            train_losses=mean_losses,
            node_accuracies=None if accuracies is None else accuracies.nodes,
            ensemble_accuracy=None if accuracies is None else accuracies.ensemble,
            seconds=self._seconds + time.monotonic() - before,
            diverged=self._diverged,
            ensemble_nll=None if accuracies is None else accuracies.ensemble_nll,
        )
        self._ended = (self._seconds, self._loss_sums)
        self._epoch, self._step_in_epoch, self._seconds, self._loss_sums = epoch, 0, 0.0, None
        return report

    def _score(self) -> Accuracies | None:
        if may_draw(self.networks):
            self._seed_draws(0)
        found = self._learner.evaluate(self._evaluation)
        if isinstance(found, Accuracies):
            return found
        self._diverged = broken_predictions(found)
        return None
