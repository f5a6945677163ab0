"""The files in which the method's authors keep a graph, read as graphs.

``log/config.json`` of a trial has a list ``models`` and a matrix ``losses``: a row for each target, a column for each
source, the label edges on the diagonal. In the files of the paper's search, index 0 is the ensemble, which has no edges
here; in those of its forerunner, the knowledge transfer graph, there is no ensemble, and index 0 is node 1.

Source: https://github.com/naok0615/ensemble_graph and https://github.com/somaminami/DCL.
"""

from dataclasses import dataclass
from pathlib import Path

from kdhpc.errors import GraphError, nearest
from kdhpc.files.reading import read_whole
from kdhpc.graph.document import Value, parse
from kdhpc.graph.serial import StoredGraph
from kdhpc.graph.spec import MOST_NODES, Design, DistillationEdge, Gate, GraphSpec

_ENSEMBLE = "Ensemble"
_LABEL_LOSS = "IndependentLoss"
_GATES = {
    "ThroughGate": Gate.THROUGH,
    "CutoffGate": Gate.CUTOFF,
    "LinearGate": Gate.LINEAR,
    "CorrectGate": Gate.CORRECT,
}
_SOFT, _ATTENTION = "soft_loss_positive", "att_loss_positive"
_DESIGNS = {
    ("KLLoss", 1, None): Design.PROB_CLOSER,
    ("KLLoss", 0, None): Design.PROB_APART,
    ("AttLoss", None, 1): Design.ATTENTION_CLOSER,
    ("AttLoss", None, 0): Design.ATTENTION_APART,
    ("KL_AttLoss", 1, 1): Design.BOTH_CLOSER,
    ("KL_AttLoss", 0, 0): Design.BOTH_APART,
}
"""By the name, ``soft_loss_positive`` and ``att_loss_positive``."""
_NETWORKS = {"resnet18_abn": "abn_resnet18", "resnet20_abn": "abn_resnet20"}
_DATASETS = {
    "StanfordDogs": "stanford_dogs",
    "StanfordCars": "stanford_cars",
    "CUB2011": "cub200",
    "CIFAR10": "cifar10",
    "CIFAR100": "cifar100",
}


@dataclass(frozen=True, kw_only=True)
class ImportedGraph:
    """What is in a file of the authors'."""

    stored: StoredGraph
    """The graph, and in its provenance what the file says of data set, networks and epochs."""
    networks: tuple[str, ...]
    """(M,) the network of each node: kdhpc's name for it, or theirs where there is none."""
    pretrained: tuple[int, ...]
    """Nodes, from 0, that begin with weights of a file of theirs, and learn nothing."""


def read_authors_graph(path: Path) -> ImportedGraph:
    """Read a ``config.json``.

    Raises:
        GraphError: it cannot be read, or has something that no graph of kdhpc has: an unknown loss or gate, a
            temperature or a weight other than 1, or edges of the ensemble.
        StorageError: the file system refuses to read it.
    """
    try:
        text = read_whole(path).decode("utf-8-sig")
    except OSError as exc:
        raise GraphError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise GraphError(f"{path} is not a JSON document: byte {exc.start} is not UTF-8") from exc
    fields = parse(text, origin=str(path)).any_fields()
    for name in ("models", "losses"):
        if name not in fields:
            raise GraphError(
                f"{path}: field '{name}' is missing: give a log/config.json that the authors' search wrote"
            )
    models = fields["models"].items()
    names = [_text(model, "name") for model in models]
    first = int(bool(names) and names[0] == _ENSEMBLE)
    num_nodes = len(models) - first
    if not 1 <= num_nodes <= MOST_NODES or _ENSEMBLE in names[first:]:
        fields["models"].fail(f"{', '.join(names) or '(none)'} is not allowed: the ensemble first, or none, then nodes")
    graph = _graph(fields["losses"], first, num_nodes)
    networks = tuple(map(_network, models[first:]))
    pretrained = tuple(node for node, model in enumerate(models[first:]) if _is_pretrained(model))
    return ImportedGraph(
        stored=StoredGraph(graph=graph, provenance=_provenance(path, fields, networks)),
        networks=networks,
        pretrained=pretrained,
    )


def _graph(losses: Value, first: int, num_nodes: int) -> GraphSpec:
    rows = [row.items() for row in losses.items()]
    if any(len(row) != len(rows) for row in rows) or len(rows) != first + num_nodes:
        losses.fail(f"it must have {first + num_nodes} rows and columns, one for each of models")
    for entry in (entry for row, entries in enumerate(rows) for entry in (entries if row < first else entries[:first])):
        if _gate(entry) is not Gate.CUTOFF:
            entry.fail("an edge of the ensemble is not allowed: only CutoffGate can be read there")
    nodes = range(num_nodes)
    edges = []
    for source, target in ((s, t) for s in nodes for t in nodes if s != t):
        entry = rows[first + target][first + source]
        edges.append(DistillationEdge(source=source, target=target, design=_design(entry), gate=_gate(entry)))
    return GraphSpec(label_gates=tuple(_label_gate(rows[first + n][first + n]) for n in nodes), edges=tuple(edges))


def _label_gate(entry: Value) -> Gate:
    name = _text(entry, "name")
    if name != _LABEL_LOSS:
        entry.fail(f"loss {name} is not allowed on the diagonal: a label edge has {_LABEL_LOSS}")
    _arguments(entry, ())
    return _gate(entry)


def _design(entry: Value) -> Design:
    name = _text(entry, "name")
    known = sorted({known for known, _, _ in _DESIGNS})
    if name not in known:
        entry.fail(f"loss {name} is not known: {nearest(name, known)}")
    signs = tuple(key for key in (_SOFT, _ATTENTION) if (key == _SOFT) == (name == "KLLoss") or name == "KL_AttLoss")
    arguments = _arguments(entry, signs)
    # The forerunner's divergence has no sign: it brings closer.
    soft = arguments[_SOFT].integer(0, 1) if _SOFT in arguments else 1 if name == "KLLoss" else None
    attention = arguments[_ATTENTION].integer(0, 1) if _ATTENTION in arguments else None
    design = _DESIGNS.get((name, soft, attention))
    if design is None:
        entry.fail(f"{name} with {_SOFT}={soft}, {_ATTENTION}={attention} is not allowed: no design does that")
    return design


def _arguments(entry: Value, signs: tuple[str, ...]) -> dict[str, Value]:
    """The arguments of a loss, none of which kdhpc would leave out silently."""
    arguments = _field(entry, "args").any_fields()
    for name, value in arguments.items():
        if name in ("T", "loss_weight"):
            if value.value != 1 or isinstance(value.value, bool):
                value.fail(f"{value.shown} is not allowed: kdhpc's designs have 1; a plug-in can have another")
        elif name not in ("gate", *signs):
            value.fail(f"an argument of that name is not known: {nearest(name, ('T', 'loss_weight', 'gate', *signs))}")
    return arguments


def _gate(entry: Value) -> Gate:
    gate = _field(_field(entry, "args"), "gate")
    name = _text(gate, "name")
    if name not in _GATES:
        gate.fail(f"gate {name} is not known: {nearest(name, _GATES)}")
    options = gate.any_fields().get("args")
    if options is not None and options.any_fields():
        options.fail(
            f"{options.shown} is not allowed: gates have no arguments in kdhpc; a plug-in can do what it means"
        )
    return _GATES[name]


def _network(model: Value) -> str:
    name = _text(model, "name")
    arguments = model.any_fields().get("args")
    shape = {} if arguments is None else arguments.any_fields()
    if name == "WideResNet" and {"depth", "widen_factor"} <= shape.keys():
        return f"wrn{shape['depth'].scalar()}_{shape['widen_factor'].scalar()}"
    return _NETWORKS.get(name, name)


def _is_pretrained(model: Value) -> bool:
    weights = model.any_fields().get("load_weight")
    path = None if weights is None else weights.any_fields().get("path")
    return path is not None and path.value is not None


def _provenance(path: Path, fields: dict[str, Value], networks: tuple[str, ...]) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {
        "imported_from": str(path),
        "network": networks[0] if len(set(networks)) == 1 else ",".join(networks),
    }
    for group, name, key in (
        ("dataloader", "name", "dataset"),
        ("dataloader", "batch_size", "config.training.batch_size"),
        ("trainer", "epochs", "config.training.epochs"),
    ):
        value = fields[group].any_fields().get(name) if group in fields else None
        if value is not None:
            said = value.scalar()
            found[key] = _DATASETS.get(said, said) if isinstance(said, str) else said
    return found


def _field(value: Value, name: str) -> Value:
    fields = value.any_fields()
    if name not in fields:
        value.fail(f"field '{name}' is missing")
    return fields[name]


def _text(value: Value, name: str) -> str:
    found = _field(value, name)
    if not isinstance(found.value, str):
        found.fail(f"{found.shown} is not allowed: must be a string")
    return found.value
