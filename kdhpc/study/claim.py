"""A claim: one leased slot and its trial, as the code that trains the trial sees it."""

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection

from kdhpc.errors import DatabaseError, LeaseLostError, StudyError
from kdhpc.graph.spec import GraphSpec
from kdhpc.study import slots, trial_rows
from kdhpc.study.claiming import fail
from kdhpc.study.owner import Owner
from kdhpc.study.reporting import report
from kdhpc.study.slots import Lease
from kdhpc.study.storage import Storage
from kdhpc.study.trial_rows import TrialState

__all__ = ["Claim", "ClaimedTrial", "Owner", "Rule"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClaimedTrial:
    """What a claim is about."""

    study: str
    """Name of the study."""
    trial_id: int
    """Optuna's id of the trial."""
    number: int
    """Its number in the study."""
    attempt: int
    """How often the slot was claimed, this time included, orderly interruptions left out."""
    graph: GraphSpec
    """What to train."""
    seed: int
    """Seeds weights and data order."""
    reported: tuple[int, ...]
    """Epochs that are in the database already."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a study gives up on trials."""

    pruner: str
    """``median``, ``asha`` or ``none``."""
    halving_prunes: Callable[[int], bool]
    """``asha``: asks Optuna about a trial, by its id."""
    last_epoch: int
    """No trial is pruned at this epoch: it is complete."""
    max_attempts: int
    """A trial that crashes so often is failed."""


class Claim:
    """One leased slot.

    A thread of its own renews the lease until the claim ends by ``complete``, ``prune``, ``release`` or ``crash``.
    Whatever it writes is written only while the lease stands: a worker that was away for too long finds out and harms
    nothing. All calls wait for a database that is away; only then can they take long.
    """

    def __init__(self, storage: Storage, lease: Lease, trial: ClaimedTrial, rule: Rule, *, renew_s: float) -> None:
        self._storage = storage
        self._lease = lease
        self._trial = trial
        self._rule = rule
        self._renew_s = renew_s
        self._lost = threading.Event()
        self._draining = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._renew, name=f"lease of slot {lease.slot}", daemon=True).start()

    @property
    def slot(self) -> int:
        """The slot, from 0."""
        return self._lease.slot

    @property
    def number(self) -> int:
        """The trial's number in the study."""
        return self._trial.number

    @property
    def attempt(self) -> int:
        """How often this trial was begun or taken up again, this time included, orderly interruptions left out."""
        return self._trial.attempt

    @property
    def graph(self) -> GraphSpec:
        """What to train."""
        return self._trial.graph

    @property
    def seed(self) -> int:
        """Seeds weights and data order: a pure function of the study's seed and the slot."""
        return self._trial.seed

    @property
    def reported(self) -> tuple[int, ...]:
        """Epochs that were in the database when the slot was claimed, rising."""
        return self._trial.reported

    @property
    def lost(self) -> bool:
        """Another worker holds the slot now: stop, write nothing."""
        return self._lost.is_set()

    @property
    def draining(self) -> bool:
        """The study's workers are asked to checkpoint and to release; known after the next renewal."""
        return self._draining.is_set()

    def report(self, epoch: int, value: float) -> bool:
        """Report an accuracy, and ask whether to go on.

        A report that is repeated, as after a resumption, changes nothing and is answered anew.

        Args:
            epoch: 1-based.
            value: ensemble top-1 accuracy, in percent.

        Returns:
            True: prune the trial. Never at the last epoch.

        Raises:
            LeaseLostError: another worker holds the slot now; nothing was written.
            DatabaseError: the database stayed away.
        """
        value = _finite(epoch, value)
        decides = epoch < self._rule.last_epoch
        judges = decides and self._rule.pruner == "median"
        below = self._storage.write(lambda connection: report(connection, self._lease, epoch, value, judges=judges))
        if below is None:
            raise self._lease_lost()
        if decides and self._rule.pruner == "asha":
            return self._rule.halving_prunes(self._trial.trial_id)
        return below

    def describe(self, *, mode: str, data: str) -> None:
        """Write down how the trial runs, for `kdhpc status` and for the trial's record.

        Args:
            mode: ``eager``, ``compile`` or ``cudagraph``.
            data: where its images are.

        Raises:
            LeaseLostError: another worker holds the slot now; nothing was written.
            DatabaseError: the database stayed away.
        """

        def write(connection: Connection) -> bool:
            if slots.renew(connection, self._lease) is None:
                return False
            trial_rows.note(connection, self._trial.trial_id, {"run": {"mode": mode, "data": data}})
            return True

        if not self._storage.write(write):
            raise self._lease_lost()

    def complete(self, value: float) -> None:
        """End the trial with its value.

        Args:
            value: ensemble top-1 accuracy after the last epoch, in percent.

        Raises:
            LeaseLostError: another worker holds the slot now; nothing was written.
            DatabaseError: the database stayed away.
        """
        self._end(TrialState.COMPLETE, _finite(self._rule.last_epoch, value))

    def prune(self) -> None:
        """End the trial early.

        Raises:
            LeaseLostError: another worker holds the slot now; nothing was written.
            DatabaseError: the database stayed away.
        """
        self._end(TrialState.PRUNED)

    def release(self) -> None:
        """Give the slot back after an orderly interruption, without counting an attempt: another claim goes on with it.

        Raises:
            DatabaseError: the database stayed away; the lease will expire.
        """
        self._ended.set()
        if not self._storage.write(lambda connection: slots.leave(connection, self._lease, "free", forgive=True)):
            _logger.info("slot %d was not held any more when it was released", self.slot)

    def crash(self, reason: str) -> None:
        """Give the slot back after an error. The attempt counts; after the last one the trial is failed.

        Args:
            reason: one line, for people.

        Raises:
            DatabaseError: the database stayed away; the lease will expire.
        """
        self._ended.set()
        gives_up = self._trial.attempt >= self._rule.max_attempts

        def leave(connection: Connection) -> None:
            if gives_up:
                fail(connection, self._lease, self._trial.trial_id, reason)
            else:
                slots.leave(connection, self._lease, "free", reason=reason)

        self._storage.write(leave)

    def _end(self, state: TrialState, value: float | None = None) -> None:
        self._ended.set()

        def end(connection: Connection) -> bool:
            if not slots.leave(connection, self._lease, "done"):
                return False
            trial_rows.finish(connection, self._trial.trial_id, state, value)
            return True

        if not self._storage.write(end):
            raise self._lease_lost()

    def _renew(self) -> None:
        """Body of the renewing thread: survives a database that is away, ends with the claim."""
        while not self._ended.wait(self._renew_s):
            try:
                if self._storage.write_now(self._renew_once) is False:
                    if not self._ended.is_set():
                        self._lost.set()
                    return
            except DatabaseError as exc:
                _logger.warning("trial %d: the lease could not be renewed: %s", self.number, exc)

    def _renew_once(self, connection: Connection) -> bool:
        draining = slots.renew(connection, self._lease)
        if draining:
            self._draining.set()
        return draining is not None

    def _lease_lost(self) -> LeaseLostError:
        self._lost.set()
        self._ended.set()
        now = self._storage.write(lambda connection: slots.holder(connection, self._lease))
        other = f"process {now.pid} on {now.host} holds it now" if now else "it was given to another worker"
        return LeaseLostError(
            f"the lease of slot {self.slot} (trial {self.number} of study '{self._trial.study}') is lost, {other}: "
            "stop this trial"
        )


def _finite(epoch: int, value: float) -> float:
    if not math.isfinite(value):
        raise StudyError(f"an accuracy of {value} at epoch {epoch} cannot be reported: it must be a finite number")
    # NumPy's numbers would reach the database by their repr.
    return float(value)
