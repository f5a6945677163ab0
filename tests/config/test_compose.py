"""Composing configs: every shipped study is whole, and every mistake is one line that names the nearest right thing."""

import dataclasses
from pathlib import Path

import pytest

from kdhpc.config.compose import compose_search, compose_train, config_dirs, config_names, override_config
from kdhpc.config.document import defaults, parse_config, read_config, to_document, write_config
from kdhpc.config.schema import SearchConfig, TrainConfig, check_study_name
from kdhpc.errors import ConfigError
from kdhpc.graph.spec import Design, Gate
from kdhpc.networks.names import check_network


@pytest.mark.parametrize("study", config_names("study"))
def test_compose_shipped_study_is_whole(study: str) -> None:
    config = compose_search([f"study={study}"])
    check_network(config.network, config.dataset.image_size)
    assert parse_config(SearchConfig, to_document(config)) == config


@pytest.mark.parametrize("nodes", [2, 3, 4, 5])
def test_compose_dogs_follows_the_paper(nodes: int) -> None:
    config = compose_search([f"study=dogs{nodes}"])
    assert (config.study.num_nodes, config.study.trials) == (nodes, 6000)
    assert config.study.gates == config.study.label_gates == tuple(Gate)
    assert config.study.designs == tuple(Design)
    assert (config.dataset.name, config.network.name) == ("stanford_dogs", "abn_resnet18")
    assert config.network.crops == (3, 7, 11)
    training = config.training
    assert (training.epochs, training.batch_size, training.milestones) == (300, 16, (150, 225))
    assert (training.learning_rate, training.momentum, training.weight_decay) == (0.1, 0.9, 1e-4)
    assert config.dataset.mean is None
    assert config.dataset.validation_fraction == 0.5


def test_compose_cifar_uses_the_batch_of_the_released_code() -> None:
    config = compose_search(["study=cifar100_2"])
    assert config.training.batch_size == 128
    assert config.training.epochs == 300
    assert config.dataset.validation_fraction == 0.2


def test_compose_override_beats_what_the_study_chooses() -> None:
    config = compose_search(["study=dogs4", "network=resnet18", "training.epochs=3", "study.gates=[through]"])
    assert (config.network.name, config.training.epochs, config.study.gates) == ("resnet18", 3, (Gate.THROUGH,))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["study=dog4"], "unknown study 'dog4': did you mean 'dogs4'?"),
        (["study=dogs4", "network=resnt18"], "unknown network 'resnt18': did you mean 'resnet18'?"),
        (["study=dogs4", "dataset=stanford_dog"], "unknown dataset 'stanford_dog': did you mean 'stanford_dogs'?"),
        (["study=dogs4", "training.epoch=3"], "unknown config key 'training.epoch': did you mean 'training.epochs'?"),
        (["study=dogs4", "epochs=3"], "unknown config key 'epochs': allowed: training.epochs"),
        (["study=dogs4", "+training.foo=1"], "unknown config key 'training.foo'"),
        (["study=dogs4", "training.epochs=many"], "training.epochs='many' is not allowed: a whole number"),
        (["study=dogs4", "training.epochs=true"], "training.epochs=true is not allowed: a whole number"),
        (["study=dogs4", "training.epochs=0"], "training.epochs=0 is not allowed: a number above 0"),
        (["study=dogs4", "study.gates=[open]"], "through, cutoff, linear, correct"),
        (["study=dogs4", "study.pruner=hyperband"], "study.pruner='hyperband' is not allowed: median, asha, none"),
        (["study=dogs4", "dataset.scale=[1]"], "dataset.scale=[1] is not allowed: a list of 2, each a number"),
        (["study=dogs4", "worker.renew_s=400"], "worker.renew_s=400.0 is not allowed: at most half of worker.lease_s"),
        (["network=resnet20"], "no study chosen: add study=NAME, allowed: cifar100_2"),
        (["study=dogs4", "training.epochs"], "missing EQUAL"),
    ],
)
def test_compose_mistake_is_one_line_with_the_way_out(overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose_search(overrides)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_config_dirs_own_folder_wins_and_shipped_is_last(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "quickstart.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /dataset: cifar10\n  - override /network: resnet20\n"
        "study:\n  num_nodes: 3\n  trials: 7\n"
    )
    assert config_dirs(tmp_path)[0] == tmp_path
    config = compose_search(["study=quickstart"], config_dir=tmp_path)
    assert (config.study.num_nodes, config.dataset.name, config.training.epochs) == (3, "cifar10", 300)
    assert "dogs4" in config_names("study", tmp_path)


def test_config_dirs_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        config_dirs(tmp_path / "nowhere")


def test_override_config_changes_only_what_is_named() -> None:
    config = compose_search(["study=quickstart"])
    changed = override_config(config, ["training.epochs=9", "dataset.subset=null"])
    assert changed.training == dataclasses.replace(config.training, epochs=9)
    assert changed.dataset == dataclasses.replace(config.dataset, subset=None)
    assert changed.study == config.study


@pytest.mark.parametrize("override", ["training.epoch=9", "network=resnet20", "nonsense"])
def test_override_config_mistake_names_it(override: str) -> None:
    with pytest.raises(ConfigError, match=override.split("=")[0]):
        override_config(compose_search(["study=quickstart"]), [override])


def test_write_config_reads_back_equal(tmp_path: Path) -> None:
    config = compose_search(["study=quickstart"])
    write_config(config, tmp_path / "deep" / "config.yaml")
    assert read_config(SearchConfig, tmp_path / "deep" / "config.yaml") == config


def test_read_config_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("dataset: [")
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_config(SearchConfig, path)


@pytest.mark.parametrize("missing", ["dataset", "training"])
def test_parse_config_missing_group_is_named(missing: str) -> None:
    document = to_document(compose_search(["study=quickstart"]))
    del document[missing]
    with pytest.raises(ConfigError, match=missing):
        parse_config(SearchConfig, document)


def test_defaults_names_every_group_of_configs() -> None:
    folders = {path.name for path in config_dirs()[-1].iterdir() if path.is_dir()}
    # The launchers of sweeps are Hydra's own group.
    assert folders - {"hydra"} == set(defaults(SearchConfig)) | set(defaults(TrainConfig))


def test_compose_train_is_whole_and_scores_every_epoch() -> None:
    config = compose_train(["dataset=cub200", "network=resnet18", "run.graph=dml", "run.num_nodes=3"])
    assert (config.run.graph, config.run.num_nodes, config.training.evaluate) == ("dml", 3, "every_epoch")
    assert config.training.epochs == 300
    with pytest.raises(ConfigError, match=r"study\.trials"):
        compose_train(["dataset=cub200", "network=resnet18", "study.trials=3"])


@pytest.mark.parametrize("name", ["db", "train", "compile-cache"])
def test_study_name_of_a_folder_beside_the_studies_is_refused(name):
    with pytest.raises(ConfigError, match=f"runs/{name} is kdhpc's own"):
        check_study_name(name)
