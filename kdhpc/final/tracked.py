"""A final training as a tracker shows it."""

from collections.abc import Mapping

from kdhpc.config.document import flatten, to_document
from kdhpc.config.paths import mlflow_dir
from kdhpc.files.reading import read_whole
from kdhpc.final.run import Run
from kdhpc.final.settings import digest
from kdhpc.graph.serial import from_json
from kdhpc.graph.text_drawing import draw_in_text
from kdhpc.tracking.names import folder_of
from kdhpc.tracking.run import TrackedRun

_WIDTH = 100
_GROUPS = ("dataset", "network", "objective", "training", "device", "run")


def tracked_run(run: Run, made_with: Mapping[str, str]) -> TrackedRun:
    """What a tracker is told of a final training whose folder is begun.

    Args:
        run: The training.
        made_with: Device, commits and versions.

    Raises:
        GraphError, StorageError: the graph's file cannot be read.
    """
    paths, config = run.paths, run.config
    values: dict[str, str | int | float] = {}
    for group in _GROUPS:
        values |= flatten(group, to_document(getattr(config, group)))
    try:
        graph = read_whole(paths.graph).decode()
    except FileNotFoundError:  # The method trains no graph.
        graph = ""
    drawing = draw_in_text(from_json(graph, origin=str(paths.graph)), width=_WIDTH) if graph else ()
    return TrackedRun(
        key=f"{run.name} {config.run.seed} {digest(run.settings)}",
        group=run.name,
        name=f"seed {config.run.seed}",
        record=paths.tracked,
        events=paths.tracking / folder_of(config.tracking.tracker),
        folder=paths.tracking,
        store=mlflow_dir(),
        config=values,
        own=values,
        graph=graph,
        drawing="\n".join(drawing),
        made_with=made_with,
    )
