"""A seat of a worker: one trial after the other, a step at a time, in the same memory."""

import contextlib
import logging
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from kdhpc.errors import DatabaseError, LeaseLostError
from kdhpc.study.claim import Claim
from kdhpc.training.loop import EnsembleTraining
from kdhpc.trial import Outcome, TrialSetting, prepare_training, run_trial

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A trial's time in a seat is over."""

    number: int
    """Of the trial."""
    finished: bool
    """It is complete or pruned; else somebody will go on with it, or it crashed."""
    crashed: bool
    """An error ended the attempt."""


class Seat:
    """Trains the trials that it is given, one at a time.

    Several seats take turns, step by step. On CUDA each has a stream of its own: what one launches runs beside what
    the others have launched, and none waits for another.

    Args:
        setting: What all trials have in common.
        device: Where they are trained.
        stopping: Whether this worker was asked to stop.
    """

    def __init__(self, setting: TrialSetting, device: torch.device, stopping: Callable[[], bool]) -> None:
        self._setting = setting
        self._stopping = stopping
        self._training: EnsembleTraining | None = None
        self._claim: Claim | None = None
        self._journey: Generator[None, None, Outcome] | None = None
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(device))

    @property
    def busy(self) -> bool:
        """Whether a trial is in it."""
        return self._claim is not None

    def take(self, claim: Claim) -> None:
        """Begin a trial; its first step is the next turn's."""
        assert not self.busy
        _LOG.info("trial %d, slot %d, attempt %d: starts", claim.number, claim.slot, claim.attempt)
        self._claim = claim
        self._journey = self._train(claim)

    def turn(self) -> Ended | None:
        """One step of its trial; how the trial ended if it did.

        Raises:
            DatabaseError: the database stayed away, and the worker was not asked to stop.
        """
        assert self._claim is not None
        assert self._journey is not None
        claim = self._claim
        try:
            with self._on_stream():
                next(self._journey)
            return None
        except StopIteration as stop:
            outcome: Outcome = stop.value
            _LOG.info("trial %d: %s", claim.number, outcome.value)
            return self._leave(claim, finished=outcome is not Outcome.INTERRUPTED)
        except LeaseLostError as exc:
            _LOG.warning("trial %d: %s", claim.number, exc)
            return self._leave(claim)
        except DatabaseError as exc:
            ended = self._leave(claim)
            if not self._stopping():
                raise
            _LOG.warning("trial %d is checkpointed; its lease will expire: %s", claim.number, exc)
            return ended
        except Exception as exc:  # A worker outlives a trial that crashes: the study counts the attempt.
            _LOG.exception("trial %d crashed", claim.number)
            self._training = None  # Whatever state it is in.
            claim.crash(f"{type(exc).__name__}: {' '.join(str(exc).split())}"[:500])
            return self._leave(claim, crashed=True)

    def _train(self, claim: Claim) -> Generator[None, None, Outcome]:
        self._training = prepare_training(claim, self._setting, self._training)
        return (yield from run_trial(claim, self._setting, self._training, lambda: self._stopping() or claim.draining))

    def _leave(self, claim: Claim, *, finished: bool = False, crashed: bool = False) -> Ended:
        self._claim = self._journey = None
        return Ended(number=claim.number, finished=finished, crashed=crashed)

    def _on_stream(self) -> AbstractContextManager[object]:
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
