"""A trial as a tracker shows it."""

from collections.abc import Mapping

from kdhpc.config.document import flatten, to_document
from kdhpc.config.paths import StudyPaths
from kdhpc.config.schema import SearchConfig
from kdhpc.graph.serial import to_json
from kdhpc.graph.spec import GraphSpec
from kdhpc.graph.text_drawing import draw_in_text
from kdhpc.study.numbers import trial_words
from kdhpc.tracking.names import folder_of
from kdhpc.tracking.run import TrackedRun

_WIDTH = 100
_GROUPS = ("dataset", "network", "objective", "training", "device", "study")


def tracked_trial(
    graph: GraphSpec,
    *,
    number: int,
    seed: int,
    study_uid: str,
    paths: StudyPaths,
    config: SearchConfig,
    made_with: Mapping[str, str],
) -> TrackedRun:
    """What a tracker is told of a trial.

    Args:
        graph: What it trains.
        number: In the study.
        seed: Seeds weights and data order.
        study_uid: Unique to the study, also among those of one name.
        paths: Of the study.
        config: Of the study.
        made_with: Device, commits and versions.
    """
    own = {"seed": seed, "trial": number}
    values: dict[str, str | int | float] = {**own}
    for group in _GROUPS:
        values |= flatten(group, to_document(getattr(config, group)))
    name = trial_words(number)
    return TrackedRun(
        key=f"{study_uid} {number}",
        group=paths.root.name,
        name=name,
        record=paths.tracked(number),
        events=paths.tracking / folder_of(config.tracking.tracker) / name.replace(" ", "-"),
        folder=paths.tracking,
        store=paths.tracking / "mlflow",
        config=values,
        own=own,
        graph=to_json(graph),
        drawing="\n".join(draw_in_text(graph, width=_WIDTH)),
        made_with=made_with,
    )
