"""A trial as a tracker shows it."""

from typing import TYPE_CHECKING

from kdhpc.config.document import flatten, to_document
from kdhpc.graph.serial import to_json
from kdhpc.graph.text_drawing import draw_in_text
from kdhpc.study.numbers import trial_words
from kdhpc.tracking.names import folder_of
from kdhpc.tracking.run import TrackedRun

if TYPE_CHECKING:
    from kdhpc.searching.trial import StudyTrial, TrialSetting

_WIDTH = 100
_GROUPS = ("dataset", "network", "objective", "training", "device", "study")


def tracked_trial(trial: "StudyTrial", setting: "TrialSetting", made_with: dict[str, str]) -> TrackedRun:
    """What a tracker is told of a trial.

    Args:
        trial: The trial.
        setting: Of its worker.
        made_with: Device, commits and versions.
    """
    paths, config = setting.paths, setting.config
    values: dict[str, str | int | float] = {"seed": trial.seed, "trial": trial.number}
    for group in _GROUPS:
        values |= flatten(group, to_document(getattr(config, group)))
    name = trial_words(trial.number)
    return TrackedRun(
        key=f"{setting.study_uid} {trial.number}",
        group=paths.root.name,
        name=name,
        record=paths.tracked(trial.number),
        events=paths.tracking / folder_of(config.tracking.tracker) / name.replace(" ", "-"),
        folder=paths.tracking,
        store=paths.tracking / "mlflow",
        config=values,
        graph=to_json(trial.graph),
        drawing="\n".join(draw_in_text(trial.graph, width=_WIDTH)),
        made_with=made_with,
    )
