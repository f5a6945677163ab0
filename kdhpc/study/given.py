"""Given graphs: trained to the end on the search split, outside the budget, and never pruned.

Baselines, graphs that people enqueue, and the best graphs of the search, which are confirmed. They are trained by the
same workers as the trials of the budget, and under the same leases: their slots belong to a companion study, which
Optuna knows as ``<study>:given``. So no count of the study includes them, no other trial is pruned by their accuracies,
and Optuna's view of the study, from which TPE learns, is without them.

A given graph is trained once for each repetition, from 1, with a seed of its own. What has a name is compared with: the
lead of a search is that over the named ones.

Functions here run inside a transaction of the caller's, and may run again if the end of that transaction was not seen.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, text

from kdhpc.errors import GraphError
from kdhpc.graph.plugins import names_in
from kdhpc.graph.presets import PRESETS, load_graph
from kdhpc.graph.serial import from_json, to_json
from kdhpc.graph.space import SearchSpace, canonical, graph_key
from kdhpc.graph.spec import GraphSpec
from kdhpc.graph.zoo import graph_path
from kdhpc.study import trial_rows
from kdhpc.study.slots import GivenTrial

_SUFFIX = ":given"
_PLUGIN_REMEDY = "the study's workers do not load it, give another graph, or make a study with plugins=[{names}]"
_COMPANION = text("SELECT study_id FROM kdhpc_studies WHERE given_of = :study_id")
_LEFT_BEHIND = text("""
    SELECT study_id FROM studies WHERE study_name =
        (SELECT concat(study_name, CAST(:suffix AS text)) FROM studies WHERE study_id = :study_id)
""")
_MAKE = text("""
    WITH made AS (
        INSERT INTO studies (study_name)
        SELECT concat(study_name, CAST(:suffix AS text)) FROM studies WHERE study_id = :study_id RETURNING study_id
    ), directed AS (
        INSERT INTO study_directions (study_id, direction, objective)
        SELECT made.study_id, direction, objective FROM made, study_directions AS own WHERE own.study_id = :study_id
    )
    SELECT study_id FROM made
""")
_DESCRIBE = text("""
    INSERT INTO kdhpc_studies (study_id, uid, definition, train, validation, draining, given_of)
    SELECT :companion, concat(uid, CAST(:suffix AS text)), definition, '', '', draining, study_id
    FROM kdhpc_studies WHERE study_id = :study_id
""")
_GRAPH = text("SELECT graph FROM kdhpc_graphs WHERE study_id = :companion AND graph_key = :key")
_GRAPHS = text("""
    SELECT graphs.graph_key, name, graph, is_candidate, count(*) FILTER (WHERE slots.state IN ('free', 'held')) AS open,
        count(*) FILTER (WHERE slots.state = 'failed') AS failed,
        count(*) FILTER (WHERE slots.state = 'done' AND diverged_at IS NOT NULL) AS diverged,
        array_agg(value ORDER BY repetition) FILTER (
            WHERE slots.state = 'done' AND diverged_at IS NULL AND value_type = 'FINITE') AS values
    FROM kdhpc_graphs AS graphs
        JOIN kdhpc_slots AS slots ON slots.study_id = graphs.study_id AND slots.graph_key = graphs.graph_key
        LEFT JOIN trial_values ON trial_values.trial_id = slots.trial_id AND objective = 0
    WHERE graphs.study_id = (SELECT study_id FROM kdhpc_studies WHERE given_of = :study_id)
    GROUP BY graphs.graph_key, name, graph, is_candidate ORDER BY min(slots.slot)
""")
_WRITE_GRAPH = text("""
    INSERT INTO kdhpc_graphs AS old (study_id, graph_key, graph, name, is_candidate)
    VALUES (:companion, :key, :graph, :name, :is_candidate)
    ON CONFLICT (study_id, graph_key) DO UPDATE SET name = coalesce(old.name, excluded.name),
        is_candidate = old.is_candidate OR excluded.is_candidate
""")
_NAMES = text("""
    SELECT name, graph_key FROM kdhpc_graphs WHERE study_id = :companion AND name IS NOT NULL
""")
_WRITE_SLOTS = text("""
    INSERT INTO kdhpc_slots (study_id, slot, graph_key, repetition)
    SELECT :companion, (SELECT coalesce(max(slot), -1) FROM kdhpc_slots WHERE study_id = :companion)
        + row_number() OVER (ORDER BY repetition), :key, repetition
    FROM generate_series(1, :num_seeds) AS repetition
    WHERE NOT EXISTS (SELECT 1 FROM kdhpc_slots AS known
        WHERE known.study_id = :companion AND known.graph_key = :key AND known.repetition = repetition.repetition)
""")


@dataclass(frozen=True, kw_only=True)
class GivenGraph:
    """A graph to be trained beside the budget."""

    graph: GraphSpec
    """It; its canonical form is trained."""
    name: str | None = None
    """What people are told of it, and what makes it one to compare with; None: it is only trained again."""
    is_candidate: bool = False
    """It is one of the search's best, and ranks by what it comes to."""


@dataclass(frozen=True, kw_only=True)
class GivenResult:
    """What a given graph has come to."""

    name: str | None
    """See :class:`GivenGraph`."""
    graph_key: str
    """12 hexadecimal digits, equal for graphs that train in the same way."""
    graph: GraphSpec
    """In canonical form."""
    is_candidate: bool
    """See :class:`GivenGraph`."""
    values: tuple[float, ...]
    """Accuracies of the trainings that are complete, in percent."""
    open: int
    """Trainings that are still to come, or run."""
    failed: int
    """Trainings that crashed too often."""
    diverged: int
    """Trainings whose numbers were none any more."""


def load_given(
    names_or_paths: Iterable[str], space: SearchSpace, networks: Sequence[str] = ()
) -> tuple[GivenGraph, ...]:
    """Presets by their names, and graphs from files, which are called by the file's name; each graph once.

    Raises:
        GraphError: there is no such preset or file, it holds no graph, or :func:`fitted` refuses it.
    """
    found: dict[str, GivenGraph] = {}
    for name in names_or_paths:
        is_preset = name in PRESETS
        graph = load_graph(name, space.num_nodes if is_preset else None, plugin_remedy=_PLUGIN_REMEDY)
        given = fitted(GivenGraph(graph=graph, name=name if is_preset else graph_path(name).stem), space, networks)
        found.setdefault(graph_key(given.graph), given)
    return tuple(found.values())


def fitted(given: GivenGraph, space: SearchSpace, networks: Sequence[str] = ()) -> GivenGraph:
    """A graph as a study of that space trains it. Designs and gates of kdhpc's that the space has not are allowed.

    Args:
        given: The graph.
        space: Of the study.
        networks: Of the study's nodes, where a graph names none. A graph that names just those is as one without names.

    Raises:
        GraphError: the study cannot train it, as it has another number of nodes, other networks, or designs or gates of
            plug-ins that the study was made without; or the study leaves such graphs out.
    """
    graph, name = given.graph, given.name or f"graph {graph_key(given.graph)}"
    if graph.num_nodes != space.num_nodes:
        raise GraphError(f"{name} has {graph.num_nodes} nodes, the study's graphs have {space.num_nodes}: give another")
    unlearned = ", ".join(str(node + 1) for node in graph.unlearned_nodes)
    if space.reject_unlearned and unlearned:
        raise GraphError(
            f"in {name}, no edge teaches node {unlearned}, and the study rejects such graphs "
            "(objective.unlearned=reject): give another"
        )
    if not space.admits(graph):
        raise GraphError(
            f"in {name}, no edge teaches node 1, and node 1 of all graphs of the study learns "
            "(study.node1_learns=true): give another"
        )
    own = {*space.designs, *space.gates, *space.label_gates}
    foreign = sorted({kind.value for kind in names_in(graph) if not kind.is_built_in and kind not in own})
    if foreign:
        raise GraphError(
            f"{name} has {', '.join(foreign)} of a plug-in, which graphs of the study have not (study.designs, "
            "study.gates): its workers could not train it, give another"
        )
    if not space.networks and graph.networks == tuple(networks):
        return replace(given, graph=replace(graph, networks=()))
    trained = {*networks, *space.networks, *filter(None, [space.node1_network])} if space.networks else ()
    if not set(graph.networks) <= set(trained):
        theirs = f"chosen from {', '.join(sorted(trained))}" if trained else ", ".join(dict.fromkeys(networks))
        raise GraphError(
            f"the nodes of {name} are {', '.join(graph.networks)}, and those of the study are {theirs}: give a graph "
            "that names no networks, or these"
        )
    return given


def companion(connection: Connection, study_id: int) -> int | None:
    """Optuna's id of the companion that has a study's given trials; None: it was given none."""
    found: int | None = connection.execute(_COMPANION, {"study_id": study_id}).scalar_one_or_none()
    return found


def give(connection: Connection, study_id: int, graphs: Sequence[GivenGraph], *, num_seeds: int) -> None:
    """Let graphs be trained beside the budget; of one that was given before, only the missing trainings are added.

    Args:
        connection: in a transaction.
        study_id: Optuna's id of the study.
        graphs: the graphs. Of several that train in the same way, the first one's name is kept.
        num_seeds: trainings of each, with those that it has.
    """
    if not graphs:
        return
    # One caller at a time.
    connection.execute(
        text("SELECT 1 FROM kdhpc_studies WHERE study_id = :study_id FOR UPDATE"), {"study_id": study_id}
    )
    own = companion(connection, study_id)
    if own is None:
        own = _make_companion(connection, study_id)
    names: dict[str, str] = {row.name: row.graph_key for row in connection.execute(_NAMES, {"companion": own})}
    for given in graphs:
        graph, key, name = canonical(given.graph), graph_key(given.graph), given.name
        if name is not None and names.setdefault(name, key) != key:
            name = f"{name} ({key})"
        values = {"companion": own, "key": key, "graph": to_json(graph), "name": name}
        connection.execute(_WRITE_GRAPH, {**values, "is_candidate": given.is_candidate})
        connection.execute(_WRITE_SLOTS, {"companion": own, "key": key, "num_seeds": num_seeds})


def results(connection: Connection, study_id: int) -> tuple[GivenResult, ...]:
    """What the given graphs of a study have come to, in the order in which they were given."""
    return tuple(
        GivenResult(
            name=row.name,
            graph_key=row.graph_key,
            graph=from_json(row.graph, origin="the database"),
            is_candidate=row.is_candidate,
            values=tuple(row.values or ()),
            open=row.open,
            failed=row.failed,
            diverged=row.diverged,
        )
        for row in connection.execute(_GRAPHS, {"study_id": study_id})
    )


def given_trial(connection: Connection, companion: int, key: str, repetition: int) -> GivenTrial:
    """What a slot of a companion trains."""
    stored = connection.execute(_GRAPH, {"companion": companion, "key": key}).scalar_one()
    return GivenTrial(graph=from_json(stored, origin="the database"), repetition=repetition)


def _make_companion(connection: Connection, study_id: int) -> int:
    """A companion; what one of a study of that name has left, which was deleted by Optuna's tools, makes way."""
    values = {"study_id": study_id, "suffix": _SUFFIX}
    for left in connection.execute(_LEFT_BEHIND, values).scalars().all():
        trial_rows.delete_study(connection, left)
    made = int(connection.execute(_MAKE, values).scalar_one())
    connection.execute(_DESCRIBE, {**values, "companion": made})
    return made
