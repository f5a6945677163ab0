"""Samplers that learn from the study: ``evolve`` and ``refine``. A slot's graph is chosen in the lease that begins it.

``evolve`` is regularised (aging) evolution, Real et al., "Regularized Evolution for Image Classifier Architecture
Search", AAAI 2019, Algorithm 1. The first P slots try the presets and random graphs. Each later slot takes a random
sample of S out of the P trials that were completed last, and changes one edge's gate or design of the best of them, or
where networks are searched, one node's network. It differs from the paper in one point: a graph that the study has
tried is drawn again. Where all changes of that graph were tried, a random graph is.

``refine`` begins with random graphs. Then each slot tries a graph that differs from one of the best K in one edge, or
one node's network, the best graph's neighbours first; once all of those were tried, random graphs again.

Neither tries a graph twice before all were tried, but for presets.

Only complete trials are parents: a pruned one has no value at the end. Where none is complete, a random graph is tried.
Choices hash the study's seed and the slot. So they are the same again with one worker that trains one trial at a time,
and values that are the same; with several, they depend on which trials had ended when a slot was begun.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import count

from sqlalchemy import Connection, text

from kdhpc.config.goals import GOALS
from kdhpc.graph.hash_random import weighted_order
from kdhpc.graph.neighbours import mutations, neighbours, presets_in
from kdhpc.graph.space import SearchSpace, canonical, graph_key
from kdhpc.graph.spec import GraphSpec
from kdhpc.study import trial_rows
from kdhpc.study.definition import StudyDefinition

ADAPTIVE = ("evolve", "refine")
"""The samplers of this module."""
_LEAST_POPULATION, _MOST_POPULATION = 16, 100

# One slot is begun after the other, so that each sees the graphs of all before it. Adding slots may go on meanwhile.
_LOCK = text("SELECT 1 FROM kdhpc_studies WHERE study_id = :study_id FOR NO KEY UPDATE")
_NUM_SLOTS = text("SELECT count(*) FROM kdhpc_slots WHERE study_id = :study_id")
_BEGUN = text("""
    SELECT slots.slot, slots.trial_id, CAST(notes.value_json AS jsonb) ->> 'graph' AS key,
        CASE WHEN slots.state = 'done' AND trials.state = 'COMPLETE' THEN trial_values.value END AS value
    FROM kdhpc_slots AS slots JOIN trials ON trials.trial_id = slots.trial_id
        LEFT JOIN trial_values ON trial_values.trial_id = slots.trial_id AND objective = 0 AND value_type = 'FINITE'
        LEFT JOIN trial_user_attributes AS notes ON notes.trial_id = slots.trial_id AND notes.key = :key
    WHERE slots.study_id = :study_id
    ORDER BY datetime_complete, slots.slot
""")


@dataclass(frozen=True, kw_only=True)
class _Done:
    """A complete trial."""

    slot: int
    trial_id: int
    key: str
    score: float
    """The higher, the better."""


def choose_graph(connection: Connection, study_id: int, definition: StudyDefinition, slot: int) -> GraphSpec:
    """The canonical graph of a slot that is begun now. Others that are begun wait until the transaction's end.

    Args:
        connection: in the transaction that leases the slot and stores its graph.
        study_id: Optuna's id of the study.
        definition: what it was made with.
        slot: the one to begin.
    """
    connection.execute(_LOCK, {"study_id": study_id})
    num_slots = int(connection.execute(_NUM_SLOTS, {"study_id": study_id}).scalar_one())
    rows = connection.execute(_BEGUN, {"study_id": study_id, "key": trial_rows.ATTRIBUTE}).all()
    tried = {str(row.key) for row in rows if row.key is not None}
    sign = GOALS[definition.goal].sign
    done = [
        _Done(slot=row.slot, trial_id=row.trial_id, key=row.key, score=sign * row.value)
        for row in rows
        if row.value is not None and row.key is not None
    ]
    chosen = None
    if definition.sampler == "evolve":
        size = definition.population or min(_MOST_POPULATION, max(_LEAST_POPULATION, num_slots // 10))
        first = presets_in(definition.space)
        if slot < min(size, len(first)):
            return replace(first[slot], networks=_networks_of_presets(definition, slot))
        if slot >= size and done:
            chosen = _evolve(connection, definition, slot, done[-size:], definition.sample or max(2, size // 4), tried)
    elif slot >= (definition.population or num_slots // 2):
        chosen = _refine(connection, definition, done, tried)
    return _fresh(definition, slot, tried) if chosen is None else chosen


def _evolve(
    connection: Connection,
    definition: StudyDefinition,
    slot: int,
    population: Sequence[_Done],
    size: int,
    tried: Collection[str],
) -> GraphSpec | None:
    """A mutation of the best of a sample that was not tried; None: all were, but some graph of the space was not."""
    said = f"evolve seed {definition.seed} slot {slot}"
    sampled = [population[place] for place in weighted_order([1] * len(population), said)[:size]]
    parent = _graph(connection, definition.space, max(sampled, key=lambda one: (one.score, -one.slot)))
    by_edge = mutations(definition.space, parent)
    if not by_edge:  # A space of one graph.
        return parent
    # Edges with the same chances, whatever number of choices each has.
    drawn = [
        by_edge[place][change]
        for place in weighted_order([1] * len(by_edge), f"{said} edge")
        for change in weighted_order([1] * len(by_edge[place]), f"{said} change of edge {place}")
    ]
    untried = next((graph for graph in drawn if graph_key(graph) not in tried), None)
    return drawn[0] if untried is None and _is_exhausted(definition.space, tried) else untried


def _refine(
    connection: Connection, definition: StudyDefinition, done: Sequence[_Done], tried: Collection[str]
) -> GraphSpec | None:
    """An untried neighbour of the best graphs; None: there is none."""
    best: dict[str, _Done] = {}
    for one in sorted(done, key=lambda one: (-one.score, one.slot)):
        best.setdefault(one.key, one)
    for one in list(best.values())[: definition.refine_best]:
        near = neighbours(definition.space, _graph(connection, definition.space, one))
        order = weighted_order([1] * len(near), f"refine seed {definition.seed} graph {one.key}") if near else ()
        for place in order:
            if graph_key(near[place]) not in tried:
                return near[place]
    return None


def _fresh(definition: StudyDefinition, slot: int, tried: Collection[str]) -> GraphSpec:
    """A random graph that was not tried, while there is one: the slot's own by ``random``, or that of a later slot.

    In a small space, those are drawn without replacement, so that all are seen within two rounds.
    """
    space = definition.space
    if _is_exhausted(space, tried):
        return space.graph(definition.seed, slot)
    graphs = (space.graph(definition.seed, later) for later in count(slot))
    return next(graph for graph in graphs if graph_key(graph) not in tried)


def _is_exhausted(space: SearchSpace, tried: Collection[str]) -> bool:
    """Whether each graph was tried with each choice of networks, as far as they can be counted."""
    return len(tried) >= space.num_canonical * space.num_mixtures


def _networks_of_presets(definition: StudyDefinition, slot: int) -> tuple[str, ...]:
    """What the nodes of presets are where networks are searched: as in baselines, if those can be drawn; else drawn."""
    space, usual = definition.space, definition.node_networks
    if all(name in space.networks_of(node) for node, name in enumerate(usual)):
        return usual
    return space.graph(definition.seed, slot).networks


def _graph(connection: Connection, space: SearchSpace, one: _Done) -> GraphSpec:
    return canonical(space.from_parameters(trial_rows.read_parameters(connection, one.trial_id)))
