"""Runs one trial after the other, a step at a time, in the same memory."""

import contextlib
import gc
import logging
import socket
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from kdhpc.errors import CaptureError, DatabaseError, LeaseLostError, StorageError, StudyMismatchError
from kdhpc.files.storage_errors import is_of_storage
from kdhpc.searching.trial import StepKind, TrialSetting, prepare_training, run_trial
from kdhpc.study.leased_trial import LeasedTrial
from kdhpc.study.numbers import trial_words
from kdhpc.study.outcome import Outcome
from kdhpc.training.device_errors import is_device_lost, is_out_of_memory, lost_to
from kdhpc.training.loop import TrainingLoop
from kdhpc.training.streams import OwnStream

_LOG = logging.getLogger(__name__)
_REASON_LENGTH = 500


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A trial's time in a runner is over."""

    number: int
    """Of the trial."""
    finished: bool
    """It is complete, pruned, or has diverged; else somebody will go on with it, or it crashed."""
    crashed: bool
    """An error ended the attempt."""
    crowded: bool
    """There was no memory for it beside the other runners' trials: it was given back, without counting an attempt."""


class TrialRunner:
    """Trains the trials that it is given, one at a time.

    The runners of a worker take turns, step by step. On CUDA each has a stream of its own: what one launches runs
    beside what the others have launched, and none waits for another.

    Args:
        setting: What all trials have in common.
        device: Where they are trained.
        stopping: Whether this worker was asked to stop.
        may_be_crowded: Whether there may be too many trials for the device's memory, which is then no trial's fault.
    """

    def __init__(
        self,
        setting: TrialSetting,
        device: torch.device,
        stopping: Callable[[], bool],
        *,
        may_be_crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        self._setting = setting
        self._stopping = stopping
        self._may_be_crowded = may_be_crowded
        self._has_stepped = False
        self._is_empty = True
        self._training: TrainingLoop | None = None
        self._trial: LeasedTrial | None = None
        self._journey: Generator[StepKind, None, Outcome] | None = None
        self._own: OwnStream | None = None
        if device.type == "cuda":
            self._own = OwnStream(device)
            self._own.stream.wait_stream(torch.cuda.current_stream(device))

    @property
    def busy(self) -> bool:
        """Whether it has a trial."""
        return self._trial is not None

    @property
    def has_stepped(self) -> bool:
        """Whether its trial has done a step here."""
        return self.busy and self._has_stepped

    def take(self, trial: LeasedTrial) -> None:
        """Begin a trial; its first step is the next :meth:`step`'s."""
        assert not self.busy
        if self._training is None:
            self.free_memory()  # What a trial that failed has left.
        _LOG.info("%s, slot %d, attempt %d: starts", trial_words(trial.number), trial.slot, trial.attempt)
        self._trial = trial
        self._journey = self._train(trial)
        self._has_stepped = self._is_empty = False

    def give_back(self) -> None:
        """Give the trial back as its last checkpoint has it, or unbegun, without counting an attempt."""
        assert self._trial is not None
        assert self._journey is not None
        trial = self._trial
        began = "after its last checkpoint" if self._has_stepped else "before it began"
        _LOG.info("%s, slot %d: is given back %s", trial_words(trial.number), trial.slot, began)
        self._journey.close()
        if self._has_stepped:
            self._training = None
        self._leave(trial)
        _release(trial)

    def free_memory(self) -> None:
        """Give the memory back that the last trial has left for the next one."""
        assert not self.busy
        if self._is_empty:
            return
        self._is_empty = True
        self._training = None
        gc.collect()  # Closures hold networks in circles.
        if self._own is not None:
            torch.cuda.empty_cache()

    def step(self) -> StepKind | Ended:
        """One step of its trial and what comes with it; how the trial ended if it did.

        Raises:
            DatabaseError: the database stayed away, and the worker was not asked to stop; or it stayed away when the
                trial was given back after a crash.
            StudyMismatchError: what the study was made with has changed here; the trial was given back.
            CaptureError: a recording failed, and this process cannot use its GPU any more. That is no fault of the
                trial: it was given back, without counting an attempt.
            StorageError: a disk refuses what the trial needs, and the worker was not asked to stop. That is no fault of
                the trial: it was given back, without counting an attempt.
            DeviceLostError: no trial can go on in this process; this one counts the attempt, as the error came in its
                step. On a GPU that may be late, when another one has caused it: this cannot be told apart.
        """
        assert self._trial is not None
        assert self._journey is not None
        trial = self._trial
        try:
            with self._on_stream():
                kind = next(self._journey)
            self._has_stepped = True
            return kind
        except StopIteration as stop:
            outcome: Outcome = stop.value
            _LOG.info("%s: %s", trial_words(trial.number), outcome.value)
            return self._leave(trial, finished=outcome is not Outcome.INTERRUPTED)
        except LeaseLostError as exc:
            _LOG.warning("%s: %s", trial_words(trial.number), exc)
            return self._leave(trial)
        except DatabaseError as exc:
            ended = self._leave(trial)
            if not self._stopping():
                raise
            _LOG.warning("%s was not given back, its lease will expire: %s", trial_words(trial.number), exc)
            return ended
        # No trial of the study, or none at all, can be trained here; that is no fault of this one.
        except (StudyMismatchError, CaptureError):
            self._training = None
            self._leave(trial)
            _release(trial)
            raise
        except Exception as exc:
            if is_of_storage(exc):
                return self._give_back_for(trial, exc)
            if is_device_lost():
                self._crash(trial, exc)
                raise lost_to(exc) from exc
            if is_out_of_memory(exc) and self._may_be_crowded():
                return self._make_room(trial)
            # A worker outlives a trial that crashes: the study counts the attempt.
            return self._crash(trial, exc)

    def _train(self, trial: LeasedTrial) -> Generator[StepKind, None, Outcome]:
        self._training = prepare_training(trial, self._setting, self._training)
        outcome = yield from run_trial(trial, self._setting, self._training, lambda: self._stopping() or trial.draining)
        if outcome is Outcome.INTERRUPTED:
            trial.release()
        return outcome

    def _crash(self, trial: LeasedTrial, exc: Exception) -> Ended:
        """Give a crashed trial back. While this process is being ended, what it needs may be, too: no attempt then."""
        _LOG.error("%s crashed", trial_words(trial.number), exc_info=exc)
        self._training = None  # Whatever state it is in.
        ended = self._leave(trial, crashed=not self._stopping())
        if ended.crashed:
            words = f"{type(exc).__name__}: {' '.join(str(exc).split())}"
            trial.crash(f"{words[:_REASON_LENGTH]} (on {socket.gethostname()})")
        else:
            _release(trial)
        return ended

    def _give_back_for(self, trial: LeasedTrial, exc: Exception) -> Ended:
        """Give back a trial that a disk is in the way of; another one would fare no better here."""
        self._training = None
        ended = self._leave(trial)
        _release(trial)
        words = f"{trial_words(trial.number)} is given back, {exc}; once that is mended, another worker goes on with it"
        if not self._stopping():
            raise StorageError(words) from exc
        _LOG.warning("%s", words)
        return ended

    def _make_room(self, trial: LeasedTrial) -> Ended:
        """Give back a trial for which there is no memory."""
        words = trial_words(trial.number)
        _LOG.info("%s, slot %d: no memory for it beside the others, it is given back", words, trial.slot)
        self._training = None
        ended = self._leave(trial, crowded=True)
        _release(trial)
        return ended

    def _leave(
        self, trial: LeasedTrial, *, finished: bool = False, crashed: bool = False, crowded: bool = False
    ) -> Ended:
        self._trial = self._journey = None
        return Ended(number=trial.number, finished=finished, crashed=crashed, crowded=crowded)

    def _on_stream(self) -> AbstractContextManager[object]:
        return contextlib.nullcontext() if self._own is None else torch.cuda.stream(self._own.stream)


def _release(trial: LeasedTrial) -> None:
    with contextlib.suppress(DatabaseError):  # Its lease will expire.
        trial.release()
