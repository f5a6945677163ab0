"""One leased slot and its trial, as the code that trains the trial sees it."""

import logging
import math
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType

from sqlalchemy import Connection

from kdhpc.errors import DatabaseError, LeaseLostError, StudyError
from kdhpc.graph.spec import GraphSpec
from kdhpc.study import slots, trial_rows
from kdhpc.study.allocation import fail
from kdhpc.study.median_rule import decides, report
from kdhpc.study.numbers import trial_words
from kdhpc.study.outcome import Outcome
from kdhpc.study.owner import Owner
from kdhpc.study.pace import PaceMeter
from kdhpc.study.slots import Lease
from kdhpc.study.storage import Storage
from kdhpc.study.trial_rows import TrialState

__all__ = ["LeasedTrial", "Owner", "PruningPolicy"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Why a trial has no accuracy."""

    epoch: int
    """The epoch in which it was found, 1-based."""
    reason: str
    """One line, for people."""


@dataclass(frozen=True, kw_only=True)
class PruningPolicy:
    """When a study gives up on trials."""

    pruner: str
    """``median``, ``asha`` or ``none``."""
    prune_from: int = 1
    """No trial is pruned before this epoch."""
    last_epoch: int
    """No trial is pruned at this epoch: it is complete."""
    sign: int = 1
    """Times a value: what is the higher, the better."""
    max_attempts: int
    """A trial that crashes so often without progress in between is failed."""

    def at(self, epoch: int) -> str | None:
        """The rule that decides at an epoch; None: no trial is pruned at it."""
        decided = decides(self.pruner, epoch, prune_from=self.prune_from, last_epoch=self.last_epoch)
        return self.pruner if decided else None


class LeasedTrial:
    """The trial of a leased slot.

    A background thread renews the lease until the trial ends by ``complete``, ``prune``, ``diverge``, ``release`` or
    ``crash``. Each write checks the lease in the same transaction. So a worker that was away for too long, and lost its
    lease, cannot overwrite anything. While the database is away, all calls wait for it.

    Args:
        storage: The server.
        lease: What was allocated.
        study: Name of the study.
        graph: What to train.
        seed: Seeds weights and data order: a pure function of the study's seed and the slot, or of the given graph and
            its repetition.
        policy: When the study gives up on trials.
        renew_s: How often the lease is renewed.
    """

    def __init__(
        self,
        storage: Storage,
        lease: Lease,
        *,
        study: str,
        graph: GraphSpec,
        seed: int,
        policy: PruningPolicy,
        renew_s: float,
    ) -> None:
        self.graph = graph
        """What to train."""
        self.seed = seed
        """Seeds weights and data order: a pure function of the study's seed and of what is trained."""
        self._storage = storage
        self._lease = lease
        self._study = study
        self._policy = policy
        self._renew_s = renew_s
        self._lost = threading.Event()
        self._draining = threading.Event()
        self._ended = threading.Event()
        self._wake = threading.Event()
        self._step = 0
        self._pace = PaceMeter()
        threading.Thread(target=self._renew, name=f"lease of slot {lease.slot}", daemon=True).start()

    @property
    def slot(self) -> int:
        """The slot, from 0."""
        return self._lease.slot

    @property
    def number(self) -> int:
        """The trial's number in the study."""
        return self._lease.number

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1, as of the time of the lease.

        Only attempts since the trial last made progress count, and no orderly interruptions.
        """
        return self._lease.attempt

    @property
    def reported(self) -> tuple[int, ...]:
        """Epochs that had been reported when the slot was leased, in rising order."""
        return self._lease.reported

    @property
    def lost(self) -> bool:
        """Whether another worker holds the slot now. If so: stop, and write nothing."""
        return self._lost.is_set()

    @property
    def draining(self) -> bool:
        """Whether the study's workers are asked to checkpoint and release their trials. Updated at each renewal."""
        return self._draining.is_set()

    def stepped(self, epoch: int, images: int) -> None:
        """Say that a step was done; returns at once. The database has it with the next renewal, for people.

        Args:
            epoch: that the training is in, 1-based.
            images: shown since the training began, each time counted.
        """
        self._pace.step(epoch, images)

    def advance(self, step: int) -> None:
        """Say how far the trial has come, so that another worker could go on from there; returns at once.

        The database has it soon after. A crash counts only if it came after the trial's last progress.

        Args:
            step: optimiser step of a checkpoint that is on the disk.
        """
        if step > self._step:
            self._step = int(step)
            self._wake.set()

    def report(self, epoch: int, value: float) -> bool:
        """Report what the trial is worth by now, and ask whether to go on.

        A report that is repeated, as after a resumption, changes nothing and is answered as it was the first time.

        Args:
            epoch: 1-based.
            value: of the study's goal: such as the ensemble's top-1 accuracy, in percent.

        Returns:
            True: prune the trial. Never at the last epoch.

        Raises:
            LeaseLostError: another worker holds the slot now; nothing was written.
            DatabaseError: the database stayed away.
        """
        value, rule = _finite(epoch, value), self._policy.at(epoch)
        prunes = self._storage.write(
            lambda connection: report(
                connection, self._lease, epoch, value, score=self._policy.sign * value, rule=rule, step=self._step
            )
        )
        if prunes is None:
            raise self._lease_lost()
        return prunes

    def report_rung(self, epoch: int, value: float) -> Outcome | None:
        """As :meth:`report`, and end the trial if this was its last epoch, or if the study prunes it.

        Args:
            epoch: 1-based.
            value: of the study's goal.

        Returns:
            How the trial has ended; None: it goes on.

        Raises:
            LeaseLostError: another worker holds the slot now; nothing was written.
            DatabaseError: the database stayed away.
        """
        prunes = self.report(epoch, value)
        if epoch >= self._policy.last_epoch:
            self.complete(value)
            return Outcome.COMPLETE
        if prunes:
            self.prune()
            return Outcome.PRUNED
        return None

    def describe(self, *, mode: str, data: str, versions: Mapping[str, str] = MappingProxyType({})) -> None:
        """Write down how the trial runs, for `kdhpc status` and for the trial's record.

        Args:
            mode: ``eager``, ``compile`` or ``cudagraph``.
            data: where its images are.
            versions: of what it is computed with, by name.

        Raises:
            LeaseLostError: another worker holds the slot now; nothing was written.
            DatabaseError: the database stayed away.
        """

        def write(connection: Connection) -> bool:
            if slots.renew(connection, self._lease, step=self._step, pace=self._pace.read()) is None:
                return False
            trial_rows.note(connection, self._lease.trial_id, {"run": {"mode": mode, "data": data, **versions}})
            return True

        if not self._storage.write(write):
            raise self._lease_lost()

    def complete(self, value: float) -> None:
        """End the trial with its value.

        Args:
            value: of the study's goal, after the last epoch.

        Raises:
            LeaseLostError: another worker holds the slot now; nothing was written.
            DatabaseError: the database stayed away.
        """
        self._end(TrialState.COMPLETE, _finite(self._policy.last_epoch, value))

    def prune(self) -> None:
        """End the trial early.

        Raises:
            LeaseLostError: another worker holds the slot now; nothing was written.
            DatabaseError: the database stayed away.
        """
        self._end(TrialState.PRUNED)

    def diverge(self, epoch: int, reason: str) -> None:
        """End the trial because its numbers are not finite: Optuna sees it as pruned, and it is marked as diverged.

        Args:
            epoch: in which that was found, 1-based.
            reason: one line, for people.

        Raises:
            LeaseLostError: another worker holds the slot now; nothing was written.
            DatabaseError: the database stayed away.
        """
        self._end(TrialState.PRUNED, diverged=Divergence(epoch=epoch, reason=reason))

    def release(self) -> None:
        """Give the slot back after an orderly interruption, without counting an attempt: another lease goes on with it.

        Raises:
            DatabaseError: the database stayed away; the lease will expire.
        """
        self._stop_renewing()

        def leave(connection: Connection) -> bool:
            return slots.leave(connection, self._lease, "free", step=self._step, forgive=True)

        if not self._storage.write(leave):
            _logger.info("slot %d was not held any more when it was released", self.slot)

    def crash(self, reason: str) -> None:
        """Give the slot back after an error. The attempt counts; after the last one the trial is failed.

        Attempts from before the trial's last progress do not count.

        Args:
            reason: one line, for people.

        Raises:
            DatabaseError: the database stayed away; the lease will expire.
        """
        self._stop_renewing()

        def leave(connection: Connection) -> None:
            # By what stands in the row: it has come further since it was leased, or not.
            renewed = slots.renew(connection, self._lease, step=self._step)
            if renewed is None:
                return
            attempts, _ = renewed
            if attempts >= self._policy.max_attempts:
                fail(connection, self._lease, reason)
            else:
                slots.leave(connection, self._lease, "free", reason=reason)

        self._storage.write(leave)

    def _end(self, state: TrialState, value: float | None = None, *, diverged: Divergence | None = None) -> None:
        self._stop_renewing()
        epoch, reason = (None, None) if diverged is None else (diverged.epoch, diverged.reason)

        def end(connection: Connection) -> bool:
            if not slots.leave(connection, self._lease, "done", step=self._step, reason=reason, diverged_at=epoch):
                return False
            trial_rows.finish(connection, self._lease.trial_id, state, value)
            if diverged is not None:
                trial_rows.note(connection, self._lease.trial_id, {"diverged": asdict(diverged)})
            return True

        if not self._storage.write(end):
            raise self._lease_lost()

    def _renew(self) -> None:
        """Body of the renewing thread: survives a database that is away, ends with the trial."""
        while True:
            self._wake.wait(self._renew_s)
            self._wake.clear()
            if self._ended.is_set():
                return
            try:
                if self._storage.write_now(self._renew_once) is False:
                    if not self._ended.is_set():
                        self._lost.set()
                    return
            except DatabaseError as exc:
                _logger.warning("%s: the lease could not be renewed: %s", trial_words(self.number), exc)

    def _renew_once(self, connection: Connection) -> bool:
        renewed = slots.renew(connection, self._lease, step=self._step, pace=self._pace.read())
        if renewed is None:
            return False
        _, draining = renewed
        if draining:
            self._draining.set()
        return True

    def _stop_renewing(self) -> None:
        self._ended.set()
        self._wake.set()

    def _lease_lost(self) -> LeaseLostError:
        self._lost.set()
        self._stop_renewing()
        now = self._storage.write(lambda connection: slots.holder(connection, self._lease))
        other = f"process {now.pid} on {now.host} holds it now" if now else "it was given to another worker"
        return LeaseLostError(
            f"the lease of slot {self.slot} ({trial_words(self.number)} of study '{self._study}') is lost, {other}: "
            "stop this trial"
        )


def _finite(epoch: int, value: float) -> float:
    if not math.isfinite(value):
        raise StudyError(f"a value of {value} at epoch {epoch} cannot be reported: it must be a finite number")
    # NumPy's numbers would reach the database by their repr.
    return float(value)
