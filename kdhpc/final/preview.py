"""What `kdhpc train` would do, without doing it. No folder is made, and nothing is written."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdhpc.config.document import to_document
from kdhpc.config.meaning import warn_of_doubtful
from kdhpc.config.paths import RunPaths, packed_dir
from kdhpc.config.schema import RunConfig, TrainConfig
from kdhpc.data.packed import PackedDataset
from kdhpc.final.assembly import num_scored_images, num_training_images
from kdhpc.final.done import read_done
from kdhpc.final.finished import open_finished
from kdhpc.final.run import Run, open_all, training_name
from kdhpc.methods.load import load_method
from kdhpc.methods.method import Method, settled_network
from kdhpc.networks.names import check_network
from kdhpc.training.metrics import read_metrics

_ASKED = ("graph", "num_nodes", "teacher", "teacher_node", "seed", "name")
"""Keys of ``run`` that are said elsewhere, or that say what is trained and have no default worth comparing with."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images of a training."""

    num_training: int
    """Images that train."""
    num_scored: int
    """Images that accuracy is measured on."""
    scored_on: str
    """``test`` or ``validation``."""
    shape: tuple[int, int, int]
    """Stored height, width, channels."""
    num_classes: int
    """Number of classes."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """One training with one seed."""

    config: TrainConfig
    """Its config; its networks are settled."""
    method: Method
    """What is trained."""
    name: str
    """Of the training."""
    images: Images | None
    """Its images; None: they are not prepared here."""

    @property
    def paths(self) -> RunPaths:
        """Of the run."""
        return RunPaths.of(self.name, self.config.run.seed)

    @property
    def steps_per_epoch(self) -> int | None:
        """What is left at the end of an epoch is dropped if it does not fill a batch; None: images are not here."""
        return None if self.images is None else self.images.num_training // self.config.training.batch_size

    def done_so_far(self) -> str:
        """Whether it is done, was begun, or is new, in words.

        Raises:
            ConfigError, DataError, StorageError: as :func:`kdhpc.final.done.read_done`, and the training itself.
        """
        result = read_done(self.paths, name=self.name, seed=self.config.run.seed)
        if result is not None:
            if result.ensemble_accuracy is None:
                return f"is done already: {result.divergence}"
            return f"is done already: ensemble {result.ensemble_accuracy:.2f} %"
        if not self.paths.config.exists():
            return "is new"
        reports = read_metrics(self.paths.metrics)
        return f"goes on, after about {len(reports)} of {self.config.training.epochs} epochs"


def preview_trainings(configs: Sequence[TrainConfig], *, elsewhere: bool) -> tuple[Preview, ...]:
    """Check all trainings of a command as it would check them before the first one starts.

    Trainings whose data set is not prepared here are checked as far as they can be without.

    Args:
        configs: One for each training.
        elsewhere: Whether another machine trains them.

    Raises:
        KdhpcError: as :func:`kdhpc.final.run.open_all`.
    """
    here = [config for config in configs if packed_dir(config.dataset.name).exists()]
    opened = dict(zip(map(id, here), open_all(here, elsewhere=elsewhere), strict=True))
    for run in {run.name: run for run in opened.values()}.values():
        run.warn()
    previews = tuple(
        _of_run(opened[id(config)]) if id(config) in opened else _without_images(config) for config in configs
    )
    for preview in {each.name: each for each in previews if each.images is None}.values():
        warn_of_doubtful(preview.config)
    return previews


def refuse_missing_images(previews: Sequence[Preview]) -> None:
    """Refuse what cannot begin, since its images are not here.

    Raises:
        DataError: for the first of such trainings, in the words in which training says it.
    """
    for preview in previews:
        if preview.images is None:
            PackedDataset.open(packed_dir(preview.config.dataset.name))


def changed_settings(config: TrainConfig, plain: TrainConfig) -> Mapping[str, tuple[object, object]]:
    """The keys in which a training differs from a plain one, each with its value and the plain one's."""
    ours, plains = (_flat(dataclasses.replace(one, run=_unasked(one))) for one in (config, plain))
    return {key: (value, plains.get(key)) for key, value in ours.items() if value != plains.get(key)}


def _unasked(config: TrainConfig) -> RunConfig:
    """The run without what is said elsewhere."""
    defaults = {field.name: field.default for field in dataclasses.fields(config.run)}
    kept = {key: defaults[key] for key in _ASKED if key != "graph"}
    return dataclasses.replace(config.run, **kept)  # type: ignore[arg-type]  # each is the default of its own field


def _flat(config: TrainConfig) -> dict[str, object]:
    found: dict[str, object] = {}
    for group, values in to_document(config).items():
        if isinstance(values, Mapping):
            found |= {f"{group}.{key}": value for key, value in values.items()}
        else:
            found[group] = values
    return found


def _of_run(run: Run) -> Preview:
    manifest = run.packed.manifest
    on_test = run.config.run.split == "official"
    images = Images(
        num_training=num_training_images(run.config, run.packed),
        num_scored=num_scored_images(run.config, run.packed),
        scored_on="test" if on_test else "validation",
        shape=manifest.image_shape,
        num_classes=len(manifest.classes),
    )
    return Preview(config=run.config, method=run.method, name=run.name, images=images)


def _without_images(config: TrainConfig) -> Preview:
    method = load_method(config, open_finished)
    config = dataclasses.replace(config, network=settled_network(method, config))
    check_network(config.network, config.dataset.image_size, compares_maps=method.compares_maps)
    return Preview(config=config, method=method, name=training_name(config, method), images=None)
