"""A search's study: what its config makes of it, checked before anything is made, made or opened, and read back."""

import json
import logging
from dataclasses import dataclass

from kdhpc.config.compatibility import readable, written
from kdhpc.config.document import to_document
from kdhpc.config.meaning import warn_of_doubtful
from kdhpc.config.paths import packed_dir
from kdhpc.config.schema import SearchConfig, check_study_name
from kdhpc.data.fitting import check_batch_size, check_image_size, check_resolution, doubt_normalisation
from kdhpc.data.packed import PackedDataset
from kdhpc.data.split import SearchSplit, search_split
from kdhpc.errors import ConfigError, GraphError, StudyMismatchError
from kdhpc.files.removing import remove
from kdhpc.graph.plugins import plugins_of
from kdhpc.graph.space import SearchSpace
from kdhpc.graph.spec import Design, Gate
from kdhpc.networks.elsewhere import check_elsewhere
from kdhpc.networks.names import check_network, check_normalisation
from kdhpc.networks.weights import check_start, check_weights_file, weights_digest
from kdhpc.searching.manifest import Manifest, freeze_launch
from kdhpc.study.definition import StudyDefinition, differences
from kdhpc.study.given import GivenGraph, load_given
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from kdhpc.tracking.names import refuse_absent

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """That the best graphs are to be trained again, with new seeds."""

    top: int
    """How many graphs."""
    num_seeds: int
    """Trainings of each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyPlan:
    """A study that its workers can train, as far as that can be told without them."""

    config: SearchConfig
    """Its config."""
    definition: StudyDefinition
    """What it is made with."""
    split: SearchSplit
    """The images that graphs are trained and scored on."""
    baselines: tuple[GivenGraph, ...] = ()
    """What a study that is made now is given to compare with."""
    confirmation: Confirmation | None = None
    """Best graphs to train again; the study must exist then."""

    def open(self, storage: Storage, *, trials: int | None = None) -> SharedStudy:
        """Make the study, or open it if it was made with the same graph space, data split and seed; end its draining.

        Args:
            storage: The database.
            trials: The budget; None: the config's for a new study, an existing one keeps its own.

        Raises:
            StudyMismatchError: the study exists and was made with something else; the message says with what.
            StudyError: more trials than the budget have started; or there is nothing to confirm.
            UnknownStudyError: there is something to confirm, and no such study.
        """
        if self.confirmation is not None:
            SharedStudy.open(storage, self.definition.name)
        study = SharedStudy.create_or_open(
            storage,
            self.definition,
            self.split,
            target=self.config.study.trials,
            baselines=self.baselines,
        )
        target = study.progress().target
        if trials is not None:
            study.resize(trials)
        elif target != self.config.study.trials:
            told = "study %s keeps its budget of %d trials, not study.trials=%d of its config: --trials changes it"
            _LOG.warning(told, self.definition.name, target, self.config.study.trials)
        self._allow_hours(study)
        if self.confirmation is not None:
            study.confirm(top=self.confirmation.top, num_seeds=self.confirmation.num_seeds)
        study.resume()
        return study

    def _allow_hours(self, study: SharedStudy) -> None:
        """Give the study the hours of its config, unless it has more."""
        wanted = self.config.study.max_gpu_hours
        if wanted is not None:
            study.allow_hours(wanted)
        budget = study.hours().budget
        if budget != wanted:
            told = "study %s keeps its budget of %g hours, not study.max_gpu_hours=%s of its config: a larger number is"
            shown = "null" if wanted is None else f"{wanted:g}"
            _LOG.warning(f"{told} taken", self.definition.name, budget, shown)

    def launch(self, storage: Storage, *, trials: int | None = None) -> tuple[SharedStudy, Manifest]:
        """Open the study, with a config file for the workers of one launch, and the launch's manifest.

        Raises:
            StorageError: the files cannot be written: no study is made, that no worker could join.
            StudyError: as :meth:`open`; no file is left.
        """
        manifest = freeze_launch(self.definition.name, self.config)
        try:
            study = self.open(storage, trials=trials)
        except BaseException:
            remove(manifest.config)
            raise
        manifest.write()
        return study, manifest


def plan_study(name: str, config: SearchConfig) -> StudyPlan:
    """Check a config against the packed data and the network, before there is a study that no worker could train.

    Raises:
        ConfigError: the name cannot be used, there is no graph to search, a baseline is no graph of the study's,
            something does not fit the images, or the tracker is not installed.
        DataError: the data set is not prepared.
        NetworkError: the network does not exist or does not fit, or pretrained weights are none.
    """
    check_study_name(name)
    refuse_absent(config.tracking)
    baselines = _baselines(config)
    compares_maps = space_compares_maps(config) or any(given.graph.compares_maps for given in baselines)
    check_networks(config, compares_maps=compares_maps)
    for network in names_of_networks(config):
        check_normalisation(network, config.dataset.image_size, config.training.batch_size)
    check_weights_file(config.objective, names_of_networks(config))
    check_start(config.network)
    packed = PackedDataset.open(packed_dir(config.dataset.name))
    height, width, channels = packed.manifest.image_shape
    check_image_size(config.dataset, (height, width))
    check_resolution(config.dataset, packed.train)
    split = search_split(
        packed.train.labels,
        validation_fraction=config.dataset.validation_fraction,
        subset=config.dataset.subset,
        seed=config.dataset.split_seed,
    )
    check_batch_size(config.training.batch_size, len(split.train))
    check_elsewhere(
        config.possible_networks,
        config.objective,
        config.dataset.image_size,
        num_classes=len(packed.classes),
        compares_maps=compares_maps,
    )
    # Last: who is refused needs no doubts.
    warn_of_doubtful(config)
    if doubt := doubt_normalisation(config.dataset, channels):
        _LOG.warning(doubt)
    definition = study_definition(name, config, packed.checksum)
    return StudyPlan(config=config, definition=definition, split=split, baselines=baselines)


def check_plan(name: str, config: SearchConfig) -> None:
    """What `plan_study` checks; without images, if the data set is not prepared here.

    Raises:
        KdhpcError: as there.
    """
    if packed_dir(config.dataset.name).exists():
        plan_study(name, config)
        return
    check_study_name(name)
    refuse_absent(config.tracking)
    _baselines(config)
    check_networks(config, compares_maps=space_compares_maps(config))
    warn_of_doubtful(config)
    _LOG.warning("data set %r is not prepared here: the search would not begin", config.dataset.name)


def _baselines(config: SearchConfig) -> tuple[GivenGraph, ...]:
    try:
        networks = config.network.nodes or (config.network.name,) * config.study.num_nodes
        return load_given(config.study.baselines, search_space(config), networks)
    except GraphError as exc:
        raise ConfigError(f"{exc} (study.baselines)") from exc


def study_definition(name: str, config: SearchConfig, dataset_checksum: str) -> StudyDefinition:
    """What a study with that config is made with."""
    settings = {
        part: written(part, to_document(getattr(config, part)))
        for part in ("dataset", "network", "objective", "training")
    }
    return StudyDefinition(
        name=name,
        space=search_space(config),
        seed=config.study.seed,
        pruner=config.study.pruner,
        prune_from=config.study.prune_from,
        sampler=config.study.sampler,
        goal=config.study.goal,
        population=config.study.population,
        sample=config.study.sample,
        refine_best=config.study.refine_best,
        max_attempts=config.study.max_attempts,
        last_epoch=config.training.epochs,
        network=config.network.name,
        dataset=config.dataset.name,
        dataset_checksum=dataset_checksum,
        settings=json.dumps(settings, sort_keys=True),
        plugins=plugins_of(names_of(config)),
        pretrained_weights=weights_digest(config.objective, names_of_networks(config), start=config.network),
        precision=None if config.device.precision == "auto" else config.device.precision,
    )


def check_same_study(study: SharedStudy, config: SearchConfig) -> None:
    """Refuse to work on a study with another config than it was made with.

    Raises:
        StudyMismatchError: the message names each field that differs.
    """
    made_with = study.definition
    different = differences(made_with, study_definition(made_with.name, config, made_with.dataset_checksum))
    if different:
        raise StudyMismatchError(
            f"study {made_with.name!r} was made with something else: {'; '.join(different)}: give what it was made "
            "with (only device.*, worker.* and tracking.* may differ), or make another study with "
            "`kdhpc search --study NAME`"
        )


def names_of(config: SearchConfig) -> tuple[Design | Gate, ...]:
    """All designs and gates that graphs of a study may have."""
    return (*config.study.designs, *config.study.gates, *config.study.label_gates)


def names_of_networks(config: SearchConfig) -> list[str]:
    """All networks that some node of some trial may be."""
    return [network.name for network in config.possible_networks]


def check_networks(config: SearchConfig, *, compares_maps: bool) -> None:
    """`check_network` of the config's networks together, and of each that some node of some trial may be.

    Raises:
        NetworkError: as there.
    """
    for network in (config.network, *config.possible_networks):
        check_network(network, config.dataset.image_size, compares_maps=compares_maps)


def space_compares_maps(config: SearchConfig) -> bool:
    """Whether some graph that a study may draw compares attention maps."""
    study = config.study
    draws_edges = study.num_nodes > 1 and any(gate is not Gate.CUTOFF for gate in study.gates)
    return draws_edges and any(design.compares_maps for design in study.designs)


def search_space(config: SearchConfig) -> SearchSpace:
    """The graphs that a study draws from.

    Raises:
        ConfigError: there are none.
    """
    try:
        return SearchSpace(
            num_nodes=config.study.num_nodes,
            label_gates=config.study.label_gates,
            gates=config.study.gates,
            designs=config.study.designs,
            reject_unlearned=config.objective.unlearned == "reject",
            node1_learns=config.study.node1_learns,
            networks=config.study.networks,
            node1_network=config.study.node1_network,
        )
    except GraphError as exc:
        raise ConfigError(f"{exc} (study.label_gates, study.gates, objective.unlearned)") from exc


def stored_groups(study: SharedStudy) -> dict[str, object]:
    """The groups of the config that a study was made with, and its plug-ins: not how it is run (device, worker, ...).

    Baselines are given to a study when it is made: none are to be given again.

    Raises:
        StudyMismatchError: a newer version of kdhpc made it.
    """
    made_with = study.definition
    space = made_with.space
    try:
        settings = readable(json.loads(made_with.settings))
    except ValueError as exc:
        raise StudyMismatchError(f"study {made_with.name!r} {exc}") from exc
    return {
        **settings,
        "plugins": list(made_with.plugins),
        "study": {
            "num_nodes": space.num_nodes,
            "trials": study.progress().target,
            "seed": made_with.seed,
            "label_gates": [gate.value for gate in space.label_gates],
            "gates": [gate.value for gate in space.gates],
            "designs": [design.value for design in space.designs],
            "node1_learns": space.node1_learns,
            "networks": list(space.networks),
            "node1_network": space.node1_network,
            "pruner": made_with.pruner,
            "prune_from": made_with.prune_from,
            "sampler": made_with.sampler,
            "goal": made_with.goal,
            "population": made_with.population,
            "sample": made_with.sample,
            "refine_best": made_with.refine_best,
            "max_attempts": made_with.max_attempts,
            "baselines": [],
        },
    }
