"""Composing configs: every shipped study is whole, and every mistake is one line that names the nearest right thing."""

import dataclasses
import math
import os
from pathlib import Path

import pytest

from kdhpc.config.compose import compose_search, compose_train
from kdhpc.config.document import defaults, parse_config, read_config, to_document, write_config
from kdhpc.config.folders import config_dirs, config_names
from kdhpc.config.networks import NETWORKS
from kdhpc.config.paths import OWN_FOLDERS
from kdhpc.config.schema import NetworkConfig, SearchConfig, TrainConfig, TrainingConfig, WorkerConfig, check_study_name
from kdhpc.config.sweep import combinations
from kdhpc.errors import ConfigError
from kdhpc.files.writing import write_whole
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
        (["study=dogs4", "network=resnt18"], "unknown network 'resnt18': did you mean 'resnet18'"),
        (["study=dogs4", "dataset=stanford_dog"], "unknown dataset 'stanford_dog': did you mean 'stanford_dogs'?"),
        (["study=dogs4", "training.epoch=3"], "unknown config key 'training.epoch': did you mean 'training.epochs'?"),
        (["study=dogs4", "epochs=3"], "unknown config key 'epochs': did you mean 'training.epochs'?"),
        (["study=dogs4", "+training.foo=1"], "unknown config key 'training.foo'"),
        (["study=dogs4", "training.epochs=many"], "training.epochs='many' is not allowed: a whole number"),
        (["study=dogs4", "training.epochs=true"], "training.epochs=true is not allowed: a whole number"),
        (["study=dogs4", "training.evaluate=last"], "training.evaluate=last is not allowed: rungs or every_epoch"),
        (["study=dogs4", "training.epochs=0"], "training.epochs=0 is not allowed: a number above 0"),
        (["study=dogs4", "study.gates=[open]"], "through, cutoff, linear, correct"),
        (["study=dogs4", "study.pruner=hyperband"], "study.pruner='hyperband' is not allowed: median, asha, none"),
        (["study=dogs4", "dataset.scale=[1]"], "dataset.scale=[1] is not allowed: a list of 2, each a finite number"),
        (
            ["study=dogs4", "cluster=slurm", "cluster.gpus_per_worker=4"],
            "cluster.gpus_per_worker=4 is not allowed: 0 or 1, a worker uses one GPU; start more workers",
        ),
        (["study=dogs4", "worker.renew_s=400"], "worker.renew_s=400.0 is not allowed: at most half of worker.lease_s"),
        (["network=resnet20"], "no study chosen: add study=NAME, allowed: cifar100_2"),
        (
            ["study=dogs4", "training.epochs"],
            "'training.epochs' cannot be read: training.epochs takes a whole number, as",
        ),
        (
            ["study=dogs4", "training.epochs=["],
            "'training.epochs=[' cannot be read: training.epochs takes a whole number",
        ),
        (["study=dogs4", "training.epoch=["], "cannot be read: unknown config key 'training.epoch': did you mean"),
        (
            ["study=dogs4", "training.epochs=1,2"],
            "epochs=1,2 is not allowed: give one value, training.epochs takes a whole",
        ),
        (["study=dogs4", "training.milestones=1,2"], "takes a list, each a finite number; a list is written [1,2]"),
        (
            ["study=dogs4", "training.milestones=[0.75,0.5]"],
            "rising fractions of training.epochs=300; these are the epochs [225, 150]",
        ),
        (["study=dogs4", "training.milestones=[1.5]"], "whole epochs above 0, or fractions of training.epochs"),
        (["study=dogs4", "training.milestones=[0]"], "whole epochs above 0, or fractions of training.epochs"),
        (["study=dogs4", "training=paper,short"], "give one value, training takes one of adamw_cosine, ktg, paper,"),
        (
            ["study=dogs4", "network=[resnet8,resnet14]"],
            "network=[resnet8,resnet14] is a list of 2, study.num_nodes is 4",
        ),
        (
            ["study=dogs2", "network=[resnet8,timm/resnet18]", "network.weights=w.pt"],
            "network.weights=w.pt is not allowed with different networks (resnet8, timm/resnet18)",
        ),
        (
            ["study=dogs2", "network=resnet8", "study.networks=[resnet8,resnet14]", "network.weights=w.pt"],
            "network.weights=w.pt is not allowed with different networks (resnet8, resnet14): a file has the weights",
        ),
        (["study=dogs2", "network.weights=[v.pt,w.pt]"], "network.weights=[v.pt, w.pt] is not allowed: text"),
        (["study=dogs2", "network.layer=[a,b]"], "network.layer=[a, b] is not allowed: text"),
        (["study=dogs4", "network=null"], "network=null is not allowed: give one, network takes one of"),
        (["study=dogs4", "training=1"], "training=1 is not allowed: give one, training takes one of"),
        (["study=dogs4", "training=[short]"], "give one, training takes one of adamw_cosine, ktg, paper,"),
        (["study=[quickstart,dogs4]"], "study=[quickstart,dogs4] is not allowed: give one, study takes one of"),
        (["study=dogs4", "+device=[cpu,cuda]"], "+device=[cpu,cuda] is not allowed: give one, device takes one of"),
        (["study=dogs4", "dataset=[]"], "dataset=[] is not allowed: give one, dataset takes one of cifar10"),
        (["study=dogs4", "network.name=[resnet8,resnet14]"], "network.name=[resnet8, resnet14] is not allowed: text"),
        (["study=dogs4", "cluster.sbatch=mem"], "cluster.sbatch='mem' is not allowed: a list, each text"),
        (["study=dogs4", "study.num_nodes=3000"], "study.num_nodes=3000 is not allowed: at most 256"),
        (["study=dogs4", "~training"], "override '~training' is not allowed, nothing can be left out"),
        (["study=dogs4", "hydra.job.name=x"], "hydra.job.name=x has no meaning here"),
        (["study=dogs4", "dataset.name=../evil"], "data set name '../evil' is not allowed: 1 to 63 letters"),
        (
            ["study=dogs4", "dataset.image_size=300"],
            "dataset.image_size=300 is not allowed: at most dataset.resize=256",
        ),
        (
            ["study=cifar10_2", "dataset.mean=[0.5,0.5]", "dataset.std=[1,1]"],
            "dataset.mean=[0.5, 0.5] is not allowed: 1 number, or 3 for red, green and blue",
        ),
        (["study=dogs4", "device=cpu", "device.precision=fp16"], "device.precision=fp16 needs CUDA, the device is cpu"),
        (["study=dogs4", "device=cpu", "device.node_streams=true"], "device.node_streams=true needs CUDA"),
        (["study=dogs4", "device=cpu", "device.mode=cudagraph"], "device.mode=cudagraph needs CUDA"),
        (
            ["study=dogs4", "training.optimizer=adam"],
            "training.optimizer='adam' is not allowed: did you mean 'adamw'? allowed",
        ),
        (["study=dogs4", "study.refine_best=5"], "study.refine_best has no meaning with study.sampler=random"),
        (["study=dogs4", "study.prune_from=0"], "study.prune_from=0"),
        (["study=dogs4", "study.prune_from=4", "study.pruner=none"], "has no meaning for study.pruner=none"),
        (["study=dogs4", "dataset.pad=8"], "dataset.pad has no meaning with dataset.augmentation=resized_crop"),
        (["study=cifar10_2", "dataset.scale=[0.5,1]"], "leave it out, or choose resized_crop"),
        (
            ["study=dogs4", "training.schedule=cosine", "training.milestones=[3]"],
            "training.milestones has no meaning with training.schedule=cosine: leave it out, or choose steps",
        ),
        (
            ["study=dogs4", "training=adamw_cosine", "training.momentum=0.8"],
            "training.momentum has no meaning with training.optimizer=adamw: leave it out, or choose sgd",
        ),
        (["study=dogs4", "training.eps=1e-6"], "training.eps has no meaning with training.optimizer=sgd"),
        (
            ["study=cifar10_2", "dataset.augmentations=[RandomErasing]", "dataset.rand_augment_magnitude=3"],
            "dataset.rand_augment_magnitude has no meaning with dataset.augmentations=[RandomErasing]",
        ),
        (["study=dogs4", "dataset.padding_mode=reflect"], "has no meaning with dataset.augmentation=resized_crop"),
        (
            ["study=cifar10_2", "dataset.padding_mode=mirror"],
            "dataset.padding_mode='mirror' is not allowed: constant, edge, reflect, symmetric",
        ),
        (
            ["study=dogs4", "training.epochs=5", "training.warmup_epochs=5"],
            "training.warmup_epochs=5 is not allowed: 0 or more, below training.epochs=5",
        ),
        (["study=dogs4", "training.label_smoothing=1"], "training.label_smoothing=1.0 is not allowed: in [0, 1)"),
        (
            ["study=dogs4", "training.nesterov=true", "training.momentum=0"],
            "training.nesterov=true is not allowed: it needs training.momentum above 0",
        ),
        (
            ["study=dogs4", "training.optimizer=adamw", "training.nesterov=true"],
            "training.nesterov=true is not allowed: it is an option of sgd",
        ),
        (["study=dogs4", "training.optimizer=adamw", "training.betas=[0.9,1]"], "training.betas=[0.9, 1.0] is not"),
        (["study=dogs4", "training.min_learning_rate=0.01"], "is not allowed: 0, unless training.schedule=cosine"),
        (
            ["study=dogs4", "training.schedule=cosine", "training.min_learning_rate=0.5"],
            "training.min_learning_rate=0.5 is not allowed: 0 to training.learning_rate=0.1",
        ),
        (
            ["study=cifar10_2", "dataset.augmentations=[RandAugmet]"],
            "dataset.augmentations=['RandAugmet'] is not allowed: 'RandAugmet' is none. did you mean 'RandAugment'?",
        ),
    ],
)
def test_compose_mistake_is_one_line_with_the_way_out(overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose_search(overrides)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_compose_another_schedule_leaves_the_milestones_of_the_file_aside() -> None:
    training = compose_search(["study=dogs4", "training.schedule=cosine"]).training
    assert (training.schedule, training.milestones) == ("cosine", (150, 225))


def test_compose_milestones_as_fractions_are_whole_epochs_of_any_length() -> None:
    """So a config with fractions is the same as the one with the epochs that they mean, also where it is stored."""
    fractions = ("study=dogs4", "training.milestones=[0.5,0.75]")
    assert compose_search(fractions) == compose_search(["study=dogs4"])
    short = compose_search([*fractions, "training.epochs=100"])
    assert to_document(short.training)["milestones"] == [50, 75]
    assert all(isinstance(milestone, int) for milestone in short.training.milestones)
    assert compose_search([*fractions, "training.epochs=2"]).training.milestones == (1, 2)


@pytest.mark.parametrize("number", ["inf", "-inf", "nan", "1e999", ".inf", "1" + 400 * "0"])
@pytest.mark.parametrize("key", ["training.learning_rate", "training.weight_decay", "cluster.mem_gb"])
def test_compose_number_that_is_none_is_refused(key: str, number: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}=\S+ is not allowed: a finite number( or null)?$"):
        compose_search(["study=quickstart", f"{key}={number}"])


def test_compose_number_that_is_none_is_refused_in_lists_and_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.ratio=.* is not allowed: a list of 2, each a finite number"):
        compose_search(["study=quickstart", "dataset.ratio=[1,inf]"])
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "mine.yaml").write_text("learning_rate: .nan\n")
    with pytest.raises(ConfigError, match=r"training\.learning_rate=\.nan is not allowed: a finite number"):
        compose_search(["study=quickstart", "training=mine"], config_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"run\.temperature=\.inf is not allowed: a finite number"):
        compose_train(["dataset=cub200", "network=resnet18", "run.temperature=inf"])


@pytest.mark.parametrize(
    ("group", "changes"),
    [
        (TrainingConfig, {"learning_rate": math.inf}),
        (TrainingConfig, {"weight_decay": math.inf}),
        (TrainingConfig, {"gamma": math.nan}),
        (TrainingConfig, {"gamma": 1e200, "milestones": (2, 3)}),
        (WorkerConfig, {"lease_s": math.inf}),
    ],
)
def test_config_made_directly_with_a_number_that_is_none_is_refused(group: type, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="finite number"):
        group(**changes)


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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"study:\n  gates: [1\nx: 3\n", "study/mine.yaml, line 3 cannot be read: expected ',' or ']'"),
        (b"study:\n  seed: 1\n  seed: 2\n", "study/mine.yaml, line 3 cannot be read: found duplicate key seed"),
        (b"# @package _global_\n# f\xfcr\nstudy: {}\n", "study/mine.yaml, line 2 cannot be read: it is not UTF-8 text"),
        (b"- 1\n", "study/mine"),
        (b"defaults: cifar10\n", "study/mine"),
        (b"num_nodes: ${nodes\n", "${nodes' (num_nodes)"),
        (b"trials: 3\n", "config key 'study.num_nodes' is missing"),
    ],
)
def test_compose_file_that_cannot_be_meant_is_one_line_that_names_it(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        compose_search(["study=mine", "dataset=cifar10", "network=resnet20"], config_dir=tmp_path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_compose_file_that_chooses_a_list_of_configs_is_refused_and_one_with_a_base_is_not(tmp_path: Path) -> None:
    choosing = "# @package _global_\ndefaults:\n  - override /dataset: {}\n  - override /network: mine\n"
    for name, dataset in {"several": "[cifar10, cifar100]", "based": "cifar10"}.items():
        write_whole(tmp_path / "study" / f"{name}.yaml", choosing.format(dataset), "study: {num_nodes: 2, trials: 4}\n")
    write_whole(tmp_path / "network" / "mine.yaml", "defaults:\n  - resnet14\ncrops: [1, 3]\n")
    with pytest.raises(ConfigError, match=r"dataset: \[cifar10, cifar100\] in a list of defaults is not allowed"):
        compose_search(["study=several"], config_dir=tmp_path)
    network = compose_search(["study=based"], config_dir=tmp_path).network
    assert (network.name, network.crops) == ("resnet14", (1, 3))


def test_compose_train_list_of_configs_is_refused_in_every_choice_of_a_sweep() -> None:
    for choice in combinations(["network=resnet8", "dataset=cifar10,[cifar10,cifar100]"])[1:]:
        with pytest.raises(ConfigError, match=r"dataset=\[cifar10,cifar100\] is not allowed: give one"):
            compose_train(choice)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"defaults: [", "search.yaml, line 1 cannot be read"),
        (b"hello", "search.yaml has no list of defaults"),
        (b"- 1\n", "search.yaml has no list of defaults"),
    ],
)
def test_compose_root_file_of_ones_own_that_is_broken_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "search.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        compose_search(["study=quickstart"], config_dir=tmp_path)


def test_compose_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(ConfigError, match=r"loop"):
        compose_search(["study=loop"], config_dir=tmp_path)


def _given(*overrides: str) -> dict[str, dict[str, object]]:
    document = to_document(compose_search(overrides))
    return {group: document[group] for group in ("dataset", "network", "objective", "training", "study")}


def test_compose_of_a_study_that_exists_keeps_it_and_takes_from_files_how_it_is_run(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "local.yaml").write_text("executor: local\nworkers: 3\n")
    made = ("study=quickstart", "training.epochs=9", "study.seed=5", "network=resnet20")
    config = compose_search(["device=cpu", "training.epochs=8"], config_dir=tmp_path, given=_given(*made))
    expected = compose_search(made)
    assert config.training == dataclasses.replace(expected.training, epochs=8)
    assert (config.dataset, config.network, config.study) == (expected.dataset, expected.network, expected.study)
    assert (config.device.device, config.cluster.workers, config.worker) == ("cpu", 3, expected.worker)


@pytest.mark.parametrize("override", ["training.epoch=9", "network=resnet20", "nonsense", "device.threads=[1"])
def test_compose_of_a_study_that_exists_mistake_names_it(override: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose_search([override], given=_given("study=quickstart"))
    assert override.split("=")[0] in str(error.value)
    assert "\n" not in str(error.value)


def test_write_config_reads_back_equal(tmp_path: Path) -> None:
    config = compose_search(["study=quickstart"])
    write_config(config, tmp_path / "deep" / "config.yaml")
    assert read_config(SearchConfig, tmp_path / "deep" / "config.yaml") == config


def test_read_config_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("dataset: [")
    with pytest.raises(ConfigError, match=r"config\.yaml, line 1 cannot be read"):
        read_config(SearchConfig, path)
    path.write_bytes(b"dataset:\n  name: \xff\n")
    with pytest.raises(ConfigError, match=r"config\.yaml, line 2 cannot be read: it is not UTF-8"):
        read_config(SearchConfig, path)
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read: No such file"):
        read_config(SearchConfig, tmp_path / "none.yaml")


@pytest.mark.parametrize("missing", ["dataset", "training"])
def test_parse_config_missing_group_is_named(missing: str) -> None:
    document = to_document(compose_search(["study=quickstart"]))
    del document[missing]
    with pytest.raises(ConfigError, match=missing):
        parse_config(SearchConfig, document)


def test_defaults_names_every_group_of_configs() -> None:
    folders = {path.name for path in config_dirs()[-1].iterdir() if path.is_dir()}
    # The launchers of sweeps are Hydra's own group; what reproduces the paper is no part of a config.
    # Those of networks are no files, see kdhpc/config/networks.py.
    assert folders - {"hydra", "reproduce"} | {"network"} == set(defaults(SearchConfig)) | set(defaults(TrainConfig))


def test_every_network_is_a_choice_and_a_file_of_the_users_goes_before(tmp_path: Path) -> None:
    assert set(config_names("network")) == set(NETWORKS)
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "resnet20.yaml").write_text("name: resnet20\ncrops: [3]\n")
    (tmp_path / "network" / "mine.yaml").write_text("name: resnet8\ncrops: [5]\n")
    expected = {"resnet20": ("resnet20", (3,)), "mine": ("resnet8", (5,)), "resnet8": ("resnet8", (3, 5, 7))}
    for choice, name_and_crops in expected.items():
        network = compose_search(["study=cifar10_2", f"network={choice}"], config_dir=tmp_path).network
        assert (network.name, network.crops) == name_and_crops


def test_compose_train_is_whole_and_scores_every_epoch() -> None:
    config = compose_train(["dataset=cub200", "network=resnet18", "run.graph=dml", "run.num_nodes=3"])
    assert (config.run.graph, config.run.num_nodes, config.training.evaluate) == ("dml", 3, "every_epoch")
    assert config.training.epochs == 300
    with pytest.raises(ConfigError, match=r"study\.trials"):
        compose_train(["dataset=cub200", "network=resnet18", "study.trials=3"])


@pytest.mark.parametrize("name", OWN_FOLDERS)
def test_study_name_of_a_folder_beside_the_studies_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"runs/{name} is kdhpc's own"):
        check_study_name(name)


def test_run_name_is_beside_no_folder_of_kdhpc() -> None:
    some = ("dataset=cub200", "network=resnet18")
    assert compose_train([*some, "run.name=train"]).run.name == "train"
    with pytest.raises(ConfigError, match=r"run\.name 'a/b' is not allowed"):
        compose_train([*some, "run.name=a/b"])


def test_config_that_is_no_file_is_not_called_unknown(tmp_path):
    (tmp_path / "study").mkdir()
    os.mkfifo(tmp_path / "study" / "pipe.yaml")
    with pytest.raises(
        ConfigError, match=r"study/pipe\.yaml cannot be read: it is a link to nothing, or no regular file"
    ):
        compose_search(["study=pipe"], config_dir=tmp_path)


@pytest.mark.parametrize(
    "name",
    ["torchvision/mobilenet_v3_small", "timm/resnet18.a1_in1k", "my_package.networks:Net", "my_module:Outer.Inner"],
)
def test_compose_network_that_is_not_kdhpcs_own_has_the_usual_options(tmp_path: Path, name: str) -> None:
    """By the group, by its key, and in a file of the user's; its crops follow from its map."""
    expected = NetworkConfig(name=name)
    words = ["dataset=cifar10", "run.graph=dml"]
    assert compose_train([*words, f"network={name}"]).network == expected
    assert compose_train([*words, f"network={name}", "network.layer=features"]).network.layer == "features"
    given = compose_train([*words, "network=resnet8", f"network.name={name}"]).network
    assert given == NetworkConfig(name=name, crops=(3, 5, 7))
    (tmp_path / "study").mkdir()
    study = tmp_path / "study" / "mine.yaml"
    study.write_text((config_dirs()[-1] / "study" / "quickstart.yaml").read_text().replace(": resnet8", f": {name}"))
    assert compose_search(["study=mine"], config_dir=tmp_path).network == expected


@pytest.mark.parametrize("name", ["keras/resnet18", "timm/a/b", "module:", ":Name", "a module:Name"])
def test_compose_network_of_no_form_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown network|cannot be read"):
        compose_train(["dataset=cifar10", "run.graph=dml", f"network={name}"])
