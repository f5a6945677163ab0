"""A database as optuna-dashboard sees it: it may read everything, and write notes.

Nothing of a search can be changed or deleted through it, so that no worker is disturbed by a click. What is read, is
read in transactions that cannot write.

Every trial with a graph has an artifact: its drawing, which is made when a browser asks for it
(:meth:`DashboardView.known_trial` says of what). The best trials and the given ones also show it in a note. None of
this is written to the database, and nothing is drawn that nobody looks at, whatever the number of trials. More trials
have no note, as the dashboard goes through all notes of a study for each trial that has one.
"""

import copy
import json
import math
import re
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NoReturn

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Row, text

from kdhpc.config.goals import DEFAULT_GOAL, GOALS
from kdhpc.errors import StudyError
from kdhpc.study.frozen_trials import read_trials
from kdhpc.study.numbers import given_number
from kdhpc.study.storage import Storage
from kdhpc.study.trial_history import KnownTrial, read_history
from kdhpc.study.trial_rows import ATTRIBUTE

NOTE_KEY = re.compile(r"dashboard:(\d+:)?note_(ver|str:\d+)")
"""Attributes of a study that hold the notes of people, on it and on its trials."""
_ARTIFACT = "artifacts:"
"""Attributes of a trial that name an artifact begin so."""
_STUDIES = text("""
    SELECT own.study_id, study_name, given_of IS NOT NULL AS is_companion, kdhpc.study_id IS NOT NULL AS is_ours,
        coalesce((SELECT study_name FROM studies WHERE study_id = given_of), study_name) AS searched,
        CAST(definition AS jsonb) ->> 'goal' AS goal,
        (SELECT array_agg(CAST(direction AS text) ORDER BY objective) FROM study_directions AS known
            WHERE known.study_id = own.study_id) AS directions,
        (SELECT json_object_agg(key, value_json) FROM study_user_attributes AS known
            WHERE known.study_id = own.study_id) AS user_attributes,
        (SELECT json_object_agg(key, value_json) FROM study_system_attributes AS known
            WHERE known.study_id = own.study_id) AS system_attributes
    FROM studies AS own LEFT JOIN kdhpc_studies AS kdhpc ON kdhpc.study_id = own.study_id
    WHERE CAST(:study AS text) IS NULL OR study_name = :study
        OR given_of = (SELECT study_id FROM studies WHERE study_name = :study)
    ORDER BY searched, is_companion
""")
_SLOTS = text("""
    SELECT slots.trial_id, slots.slot, name, slots.graph_key, repetition
    FROM kdhpc_slots AS slots LEFT JOIN kdhpc_graphs AS graphs
        ON graphs.study_id = slots.study_id AND graphs.graph_key = slots.graph_key
    WHERE slots.study_id = :study_id AND slots.graph_key IS NOT NULL AND trial_id IS NOT NULL
""")
_BEST = text("""
    SELECT study_id, trial_id FROM (
        SELECT trials.study_id, trials.trial_id, row_number() OVER (PARTITION BY trials.study_id ORDER BY
            CASE CAST(direction AS text) WHEN 'MINIMIZE' THEN value ELSE -value END, number) AS place
        FROM kdhpc_slots AS slots JOIN trials USING (trial_id) JOIN trial_values USING (trial_id)
            JOIN study_directions ON study_directions.study_id = trials.study_id
        WHERE trial_values.objective = 0 AND study_directions.objective = 0 AND trials.state = 'COMPLETE'
    ) AS ranked WHERE place <= :most
""")
_MOST_NOTES = 200
"""Of a study."""
_BEST_FOR_S = 10.0
_OWNER = text("""
    SELECT study_name, slot, given_of IS NOT NULL AS is_given
    FROM kdhpc_slots AS slots JOIN kdhpc_studies AS own ON own.study_id = slots.study_id
        JOIN studies ON studies.study_id = coalesce(given_of, own.study_id)
    WHERE trial_id = :trial_id
""")
_WRITE = text("""
    INSERT INTO study_system_attributes (study_id, key, value_json) VALUES (:study_id, :key, :value)
    ON CONFLICT (study_id, key) DO UPDATE SET value_json = excluded.value_json
""")
# What the page of a study shows changes with a trial's state, a report, or a note.
_MOMENT = text("""
    SELECT md5(concat_ws(' ', trials, (SELECT string_agg(concat_ws(' ', key, value_json), ' ' ORDER BY key)
        FROM study_system_attributes WHERE study_id = :study_id))) AS moment
    FROM (
        SELECT string_agg(concat_ws(' ', state, total, first, last, reports), ' ' ORDER BY state) AS trials FROM (
            SELECT state, count(*) AS total, min(trial_id) AS first, max(datetime_complete) AS last,
                sum(CASE WHEN state = 'RUNNING' THEN (SELECT count(*) FROM trial_intermediate_values AS reports
                    WHERE reports.trial_id = trials.trial_id) END) AS reports
            FROM trials WHERE study_id = :study_id GROUP BY state
        ) AS states
    ) AS all_states
""")
_STUDY_OF = text("SELECT study_id FROM trials WHERE trial_id = :trial_id")
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class DashboardView(BaseStorage):
    """A storage of Optuna's for optuna-dashboard. Safe to use from several threads.

    Args:
        storage: The server.
        study: Show this study and its given trials alone; None: all studies.
    """

    def __init__(self, storage: Storage, study: str | None) -> None:
        self._storage = storage
        self._study = study
        self._finished: dict[int, dict[int, FrozenTrial]] = {}
        self._reading = threading.Lock()
        self._best: dict[int, list[int]] = {}
        self._best_until = -math.inf

    def known_trial(self, trial_id: int) -> KnownTrial:
        """What is known of a trial of kdhpc's.

        Raises:
            KeyError: kdhpc has no such trial.
        """
        row = self._storage.read(lambda connection: connection.execute(_OWNER, {"trial_id": trial_id}).one_or_none())
        if row is None:
            raise KeyError(trial_id)
        return read_history(self._storage, row.study_name, given_number(row.slot) if row.is_given else row.slot)

    def moment(self, study_id: int) -> str:
        """Changes whenever there is something new to show of a study. Cheap, whatever its size."""
        values = {"study_id": study_id}
        return str(self._storage.read(lambda connection: connection.execute(_MOMENT, values).scalar_one()))

    def get_all_studies(self) -> list[FrozenStudy]:
        """Each study that is shown, its given trials after it."""
        rows = self._storage.read(lambda connection: connection.execute(_STUDIES, {"study": self._study}).all())
        best = self._best_trials()
        return [
            FrozenStudy(
                study_name=row.study_name,
                direction=None,
                directions=[StudyDirection[direction] for direction in row.directions or ()],
                user_attrs=_attributes(row.user_attributes),
                system_attrs=_with_notes(row, _attributes(row.system_attributes), best.get(row.study_id, ())),
                study_id=row.study_id,
            )
            for row in rows
        ]

    def get_study_id_from_name(self, study_name: str) -> int:
        """Optuna's id of a study."""
        return int(self._find(lambda study: study.study_name == study_name, study_name)._study_id)

    def get_study_name_from_id(self, study_id: int) -> str:
        """Name of a study."""
        return str(self._by_id(study_id).study_name)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Whether values are maximised or minimised."""
        return self._by_id(study_id).directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Attributes of a study."""
        return self._by_id(study_id).user_attrs

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Optuna's own attributes of a study, with the notes on it and on its trials."""
        return self._by_id(study_id).system_attrs

    def set_study_system_attr(self, study_id: int, key: str, value: object) -> None:
        """Write a part of a note; no other attribute."""
        if not NOTE_KEY.fullmatch(key):
            _refuse()
        self.get_study_name_from_id(study_id)
        values = {"study_id": study_id, "key": key, "value": json.dumps(value)}
        self._storage.write(lambda connection: connection.execute(_WRITE, values))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial of any study that is shown."""
        study_id = self._storage.read(
            lambda connection: connection.execute(_STUDY_OF, {"trial_id": trial_id}).scalar_one_or_none()
        )
        if study_id is None:
            raise KeyError(trial_id)
        self.get_study_name_from_id(study_id)
        return next(trial for trial in self.get_all_trials(study_id, deepcopy=False) if trial._trial_id == trial_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials of a study, by number. What is finished is read once."""
        # One thread at a time: the others want the same.
        with self._reading:
            known = self._finished.get(study_id, {})
            found = self._storage.read(lambda connection: self._read(connection, study_id, known))
            self._finished[study_id] = {
                trial._trial_id: trial for trial in (*known.values(), *found) if trial.state in _FINISHED
            }
        trials = sorted((*known.values(), *found), key=lambda trial: trial.number)
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def _read(self, connection: Connection, study_id: int, known: Mapping[int, FrozenTrial]) -> list[FrozenTrial]:
        trials = read_trials(connection, study_id, known)
        given = {row.trial_id: row for row in connection.execute(_SLOTS, {"study_id": study_id})}
        for trial in trials:
            if (row := given.get(trial._trial_id)) is not None:
                trial.user_attrs |= {"graph": row.name or row.graph_key, "training": row.repetition}
            if trial._trial_id in given or (trial.params and ATTRIBUTE in trial.user_attrs):
                artifact_id = artifact_of(trial._trial_id)
                trial.system_attrs |= {_ARTIFACT + artifact_id: json.dumps(_drawing(artifact_id))}
        return trials

    def _best_trials(self) -> Mapping[int, Sequence[int]]:
        """Ids of the best complete trials of each study of kdhpc's, by the study's id; as of a few seconds ago."""
        if time.monotonic() > self._best_until:
            rows = self._storage.read(lambda connection: connection.execute(_BEST, {"most": _MOST_NOTES}).all())
            best: dict[int, list[int]] = {}
            for row in rows:
                best.setdefault(row.study_id, []).append(row.trial_id)
            self._best, self._best_until = best, time.monotonic() + _BEST_FOR_S
        return self._best

    def _by_id(self, study_id: int) -> FrozenStudy:
        return self._find(lambda study: study._study_id == study_id, study_id)

    def _find(self, is_meant: Callable[[FrozenStudy], bool], wanted: object) -> FrozenStudy:
        for study in self.get_all_studies():
            if is_meant(study):
                return study
        raise KeyError(wanted)

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Refused, as all that follow."""
        _refuse()

    def delete_study(self, study_id: int) -> None:
        """Refused."""
        _refuse()

    def set_study_user_attr(self, study_id: int, key: str, value: object) -> None:
        """Refused."""
        _refuse()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Refused."""
        _refuse()

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Refused."""
        _refuse()

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Refused."""
        _refuse()

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Refused."""
        _refuse()

    def set_trial_user_attr(self, trial_id: int, key: str, value: object) -> None:
        """Refused."""
        _refuse()

    def set_trial_system_attr(self, trial_id: int, key: str, value: object) -> None:
        """Refused."""
        _refuse()


def artifact_of(trial_id: int) -> str:
    """The artifact that is the drawing of a trial's graph."""
    return f"{trial_id:08d}"


def trial_of(artifact_id: str) -> int:
    """Optuna's id of the trial whose graph an artifact shows.

    Raises:
        KeyError: it is no such artifact, but one that another program has stored.
    """
    if not re.fullmatch(r"\d{8,10}", artifact_id):
        raise KeyError(artifact_id)
    return int(artifact_id)


def _drawing(artifact_id: str) -> dict[str, str]:
    return {"artifact_id": artifact_id, "filename": "graph.svg", "mimetype": "image/svg+xml"}


def _refuse() -> NoReturn:
    raise StudyError("the dashboard shows studies and takes notes: it changes nothing else")


def _attributes(stored: Mapping[str, str] | None) -> dict[str, Any]:
    return {key: json.loads(value) for key, value in (stored or {}).items()}


def _with_notes(row: Row[tuple[object, ...]], attributes: dict[str, Any], trial_ids: Sequence[int]) -> dict[str, Any]:
    """A study's attributes, with notes on it and on some of its trials, but for those on which people wrote theirs."""
    if not row.is_ours:
        return attributes
    if row.is_companion:
        told = (
            f"The given trials of the search **{row.searched}**: baselines, graphs that people gave it, and the best "
            "graphs, trained again. They are outside its budget and never pruned. `graph` names what a trial trains, "
            "`training` counts the trainings of that graph."
        )
    else:
        told = (
            "A search of kdhpc. The drawing of a trial's graph is among the artifacts of the trial. "
            f"`kdhpc trial N --study {row.searched}` tells more of trial N."
        )
    notes = {"": told} | {
        f"{trial_id}:": f"![graph](/artifacts/{row.study_id}/{trial_id}/{artifact_of(trial_id)})"
        for trial_id in trial_ids
    }
    goal = GOALS.get(row.goal or DEFAULT_GOAL)
    found = ({} if goal is None else {"dashboard:objective_names": [goal.title]}) | attributes
    for of, body in notes.items():
        if f"dashboard:{of}note_ver" not in attributes:
            found |= {f"dashboard:{of}note_ver": 0, f"dashboard:{of}note_str:0": body}
    return found
