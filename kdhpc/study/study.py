"""A search's shared study: the only way in which workers know of each other."""

import logging
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from kdhpc.config.goals import GOALS
from kdhpc.errors import StudyError
from kdhpc.graph.space import canonical, graph_key
from kdhpc.study import definition as definitions
from kdhpc.study import given as given_graphs
from kdhpc.study import slots, study_rows, trial_rows
from kdhpc.study.allocation import allocate, write_graph
from kdhpc.study.definition import Split, StudyDefinition
from kdhpc.study.given import GivenGraph, GivenResult
from kdhpc.study.hours import Hours, allow_hours, read_hours
from kdhpc.study.leased_trial import LeasedTrial, PruningPolicy
from kdhpc.study.numbers import given_number
from kdhpc.study.owner import Owner
from kdhpc.study.retrying import retry
from kdhpc.study.slots import ActiveLease, Lease
from kdhpc.study.status import TrialCounts, best_graphs, read_counts, read_given_counts
from kdhpc.study.storage import Storage
from kdhpc.study.study_rows import StudyRow
from kdhpc.study.upgrading import has_tables

if TYPE_CHECKING:
    from kdhpc.study.optuna_view import OptunaView

_LOG = logging.getLogger(__name__)


class SharedStudy:
    """A study in the database.

    Optuna's tools see an ordinary study of the same name, whose finished trials have parameters and values.
    """

    def __init__(self, storage: Storage, row: StudyRow) -> None:
        self.definition = row.definition
        self.split = row.split
        self.uid = row.uid
        """Its own, 32 hexadecimal digits: a study that is deleted and made again, by the same name, has another."""
        self._storage = storage
        self._study_id = row.study_id
        self._policy = PruningPolicy(
            pruner=row.definition.pruner,
            prune_from=row.definition.prune_from,
            last_epoch=row.definition.last_epoch,
            sign=GOALS[row.definition.goal].sign,
            max_attempts=row.definition.max_attempts,
        )

    @classmethod
    def create_or_open(
        cls,
        storage: Storage,
        definition: StudyDefinition,
        split: Split,
        *,
        target: int,
        baselines: Sequence[GivenGraph] = (),
    ) -> "SharedStudy":
        """Make the study, or open it if it was made with the same; several launchers may do so at once.

        Args:
            storage: the server.
            definition: what the study is made with.
            split: the images that graphs are trained and scored on.
            target: the number of trials of a study that is made now; one that exists keeps its own, see `resize`.
            baselines: graphs that a study that is made now is given; one that exists keeps those that it has.

        Raises:
            StudyMismatchError: it was made with something else; the message names each difference.
            StudyError: the name belongs to a study of another program.
            DatabaseError: the database holds tables of another program, or of another version; or it cannot be written.
        """
        from kdhpc.study.optuna_tables import check_tables
        from kdhpc.study.optuna_view import ensure_study

        def create() -> "SharedStudy":
            # Of another goal, Optuna's study has another direction: kdhpc says more of what differs.
            storage.read(lambda connection: study_rows.refuse_other(connection, definition, split))
            study_id = ensure_study(storage, definition.name, maximise=GOALS[definition.goal].maximise)
            storage.write(
                lambda connection: study_rows.create(
                    connection, study_id, definition, split, target, baselines=baselines
                )
            )
            return cls.open(storage, definition.name)

        # Before anything is written to a database that may be another program's.
        storage.read(check_tables)
        storage.read(has_tables)
        return storage.exclusively(create)

    @classmethod
    def open(cls, storage: Storage, name: str) -> "SharedStudy":
        """A study that exists.

        Raises:
            UnknownStudyError: it does not; the message lists those that do.
        """
        return cls(storage, storage.read(lambda connection: study_rows.find(connection, name)))

    def resize(self, target: int) -> None:
        """Give the study another number of trials: more slots, or fewer of those that were never started.

        Raises:
            StudyError: more trials than that have started.
        """
        self._storage.write(lambda connection: study_rows.resize(connection, self.definition.name, target))

    def num_begun(self) -> int:
        """Trials that were ever started."""
        return self._storage.read(lambda connection: study_rows.num_begun(connection, self._study_id))

    def delete(self) -> None:
        """Delete the study and its trials from the database.

        Raises:
            StudyError: workers hold slots of it.
        """
        self.active_leases()  # No lease of the future is to be waited for.
        self._storage.write(lambda connection: study_rows.delete(connection, self._study_id, self.definition.name))

    def settle_precision(self, precision: str) -> str:
        """What the study's trials are computed in: this, if nobody has settled it before.

        Args:
            precision: ``float32``, ``tf32``, ``bf16`` or ``fp16``.

        Raises:
            UnknownStudyError: the study was deleted.
        """
        settled = self._storage.write(
            lambda connection: study_rows.settle_precision(connection, self._study_id, precision)
        )
        self.definition = replace(self.definition, precision=settled)
        return settled

    def lease(self, owner: Owner, *, lease_s: float, renew_s: float) -> LeasedTrial | None:
        """Lease a slot: one whose trial was begun and left, else a new one; None if others hold all that is left.

        A trial that crashed on the owner's machine comes last, and is left to others for a while if there are any.
        After an outage that this process has seen, workers that are still there have time to renew their leases before
        it takes anything over.

        Args:
            owner: who asks.
            lease_s: how long the slot is held without a sign of life.
            renew_s: how often a thread of the leased trial gives one.
        """
        token = uuid.uuid4().hex
        takes_over = self._storage.answering_for_s > 2 * renew_s
        lease = self._storage.write(
            lambda connection: allocate(
                connection,
                self._study_id,
                self.definition,
                owner,
                token=token,
                lease_s=lease_s,
                takes_over=takes_over,
            )
        )
        if lease is None:
            return None
        seed, policy = definitions.trial_seed(self.definition.seed, lease.slot), self._policy
        if lease.given is not None:
            graph = lease.given.graph
            seed = definitions.given_seed(self.definition.seed, graph_key(graph), lease.given.repetition)
            policy = replace(policy, pruner="none")
        elif (parameters := lease.parameters or self._choose(lease)) is not None:
            graph = canonical(self.definition.space.from_parameters(parameters))
        else:
            return self.lease(owner, lease_s=lease_s, renew_s=renew_s)
        return LeasedTrial(
            self._storage,
            lease,
            study=self.definition.name,
            graph=graph,
            seed=seed,
            policy=policy,
            renew_s=renew_s,
        )

    def give(self, graphs: Sequence[GivenGraph], *, num_seeds: int = 1) -> tuple[GivenResult, ...]:
        """Let graphs be trained beside the budget, to the end; also while workers run, and after the budget is spent.

        Args:
            graphs: of as many nodes as the study's.
            num_seeds: trainings of each, each with another seed; those that a graph has already count.

        Returns:
            What all given graphs have come to so far.

        Raises:
            GraphError: the study cannot train one of them; nothing was written.
        """
        definition = self.definition
        graphs = [given_graphs.fitted(given, definition.space, definition.node_networks) for given in graphs]
        self._storage.write(
            lambda connection: given_graphs.give(connection, self._study_id, graphs, num_seeds=num_seeds)
        )
        return self.given()

    def given(self) -> tuple[GivenResult, ...]:
        """What the given graphs have come to so far, in the order in which they were given."""
        return self._storage.read(lambda connection: given_graphs.results(connection, self._study_id))

    def confirm(self, *, top: int, num_seeds: int) -> None:
        """Let the best graphs, by their value in the search, be trained again, and the named given ones as often.

        From then on, they rank by the mean of these trainings. Trainings that they have already count.

        Args:
            top: how many graphs.
            num_seeds: trainings of each, each with a seed that no trial of the budget has.

        Raises:
            StudyError: no trial is complete.
        """

        def write(connection: Connection) -> int:
            best = best_graphs(connection, self._study_id, self.definition.space, GOALS[self.definition.goal], top)
            if not best:
                raise StudyError(f"study '{self.definition.name}' has no complete trial yet: there is none to confirm")
            candidates = [GivenGraph(graph=graph, is_candidate=True) for graph in best]
            named = [
                GivenGraph(graph=result.graph, name=result.name)
                for result in given_graphs.results(connection, self._study_id)
                if result.name is not None
            ]
            given_graphs.give(connection, self._study_id, [*named, *candidates], num_seeds=num_seeds)
            return len(best)

        num_best = self._storage.write(write)
        if num_best < top:
            _LOG.warning(
                "only %d graphs of study '%s' were trained to the end: all are confirmed",
                num_best,
                self.definition.name,
            )

    def progress(self) -> TrialCounts:
        """Trials of the budget by state."""
        return self._storage.read(lambda connection: read_counts(connection, self._study_id))

    def hours(self) -> Hours:
        """Hours that workers have spent on trials, and the budget of them."""
        return self._storage.read(lambda connection: read_hours(connection, self._study_id))

    def allow_hours(self, hours: float) -> None:
        """Give the study a budget of so many hours, if it has none or a smaller one."""
        self._storage.write(lambda connection: allow_hours(connection, self._study_id, hours))

    def num_waiting(self) -> int:
        """Trials that a worker may lease, given ones included."""

        def read(connection: Connection) -> int:
            given = read_given_counts(connection, self._study_id)
            return read_counts(connection, self._study_id).waiting + given.waiting

        return self._storage.read(read)

    def active_leases(self) -> tuple[ActiveLease, ...]:
        """Who holds which slot; leases that a clock has left in the future end one length from now."""
        found = self._storage.read(lambda connection: slots.active_leases(connection, self._study_id))
        if any(lease.lease_age_s < -slots.CLOCK_TOLERANCE_S for lease in found):
            self._storage.write(lambda connection: slots.bring_back(connection, self._study_id))
        return found

    def expire(self, owners: Iterable[Owner]) -> int:
        """Free the slots of workers that are known to be dead, without waiting for their leases to expire.

        Returns:
            How many were freed. The attempts count.
        """
        dead = tuple(owners)
        if not dead:
            return 0
        return self._storage.write(lambda connection: slots.free_slots_of(connection, self._study_id, dead))

    def expire_dead(self) -> int:
        """Free the slots of workers of this machine whose process is gone; returns how many."""
        return self.expire(lease.owner for lease in self.active_leases() if lease.owner.is_gone)

    def retry(self, numbers: Collection[int] | None = None) -> tuple[int, ...]:
        """Give failed trials another chance: they go on where they stood, and no earlier attempt counts.

        Args:
            numbers: of the trials; None: all that failed.

        Returns:
            Numbers of the trials, rising; with those of given trials, which are negative (see ``numbers``), where all
            that failed are meant.

        Raises:
            StudyError: one of them is not failed.
        """
        token = uuid.uuid4().hex

        def write(connection: Connection) -> tuple[int, ...]:
            freed = retry(connection, self._study_id, self.definition, numbers, token=token)
            own = given_graphs.companion(connection, self._study_id)
            if numbers is not None or own is None:
                return freed
            unpruned = replace(self.definition, pruner="none")
            return (*sorted(map(given_number, retry(connection, own, unpruned, None, token=token))), *freed)

        return self._storage.write(write)

    def drain(self) -> None:
        """Ask every worker to checkpoint its trial and to give its slot back; nobody gets another until `resume`."""
        self.active_leases()  # No lease of the future is to be waited for.
        self._storage.write(lambda connection: study_rows.set_draining(connection, self._study_id, True))

    def resume(self) -> None:
        """Let slots be leased again after `drain`."""
        self._storage.write(lambda connection: study_rows.set_draining(connection, self._study_id, False))

    def is_draining(self) -> bool:
        """Whether `drain` was called, and not `resume` since."""
        return self._storage.read(lambda connection: study_rows.is_draining(connection, self._study_id))

    def _choose(self, lease: Lease) -> dict[str, str] | None:
        """Let TPE choose the graph of a new trial, and write it down; None if the lease was lost meanwhile."""
        space = self.definition.space
        seed = definitions.trial_seed(self.definition.seed, lease.slot) % 2**32
        own = self._storage.read(lambda connection: study_rows.trial_ids(connection, self._study_id))
        graph = self._optuna.tpe_graph(space, seed, own, maximise=GOALS[self.definition.goal].maximise)

        def write(connection: Connection) -> dict[str, str] | None:
            if slots.renew(connection, lease) is None:
                return None
            write_graph(connection, lease.trial_id, space, graph, {})
            return trial_rows.read_parameters(connection, lease.trial_id)

        return self._storage.write(write)

    @cached_property
    def _optuna(self) -> "OptunaView":
        from kdhpc.study.optuna_view import OptunaView

        return OptunaView(self._storage, self.definition.name)
