"""A file of pretrained weights for each network: which one a node of a mixed ensemble gets, and which are refused."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdhpc.config.schema import ObjectiveConfig
from kdhpc.errors import NetworkError
from kdhpc.graph.spec import Design, Gate
from kdhpc.networks.build import build_network
from kdhpc.networks.elsewhere import check_elsewhere
from kdhpc.networks.pretrained import check_pretrained
from kdhpc.networks.weights import weights_digest
from kdhpc.searching.plan import names_of_networks
from kdhpc.searching.trial import prepare_training
from tests.searching.test_trial import ReportingTrial, ride, setting_of
from tests.training.memory_source import IMAGE_SIZE, NETWORK, NUM_CLASSES, graph_of

NAMES = ("resnet8", "resnet14")
FROZEN = ("objective.unlearned=pretrained", "objective.unlearned_norm=batch", "training.epochs=1")
THROUGH, CUTOFF = Gate.THROUGH, Gate.CUTOFF


@pytest.fixture
def files(tmp_path):
    """A file for each network, by its name."""
    paths = {}
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        network = build_network(NETWORK.only(name), num_classes=NUM_CLASSES, image_size=IMAGE_SIZE)
        paths[name] = tmp_path / f"{name}.safetensors"
        save_file(network.state_dict(), paths[name])
    return paths


def setting_with(files, root, *overrides):
    words = [f"objective.pretrained.{name}={path}" for name, path in files.items()]
    setting = setting_of(root, *overrides, *FROZEN, *words)
    config = setting.config
    return replace(setting, pretrained_weights=weights_digest(config.objective, names_of_networks(config)))


def taught_by(node, networks=()):
    """Of two nodes that one, from 0, learns nothing and teaches the other."""
    taught = 1 - node
    edges = [[CUTOFF] * 2 for _ in range(2)]
    edges[node][taught] = THROUGH
    labels = [THROUGH if index == taught else CUTOFF for index in range(2)]
    return replace(graph_of(edges, labels=labels, design=Design.PROB_CLOSER), networks=networks)


def is_of(network, path):
    """Whether its weights are a file's; statistics of batch norms move."""
    stored = load_file(path)
    return all(weight.equal(stored[name]) for name, weight in network.named_parameters())


def trained(graph, setting, number, training):
    """The training of a trial with that graph, which has been trained to its end."""
    trial = ReportingTrial()
    trial.number, trial.seed, trial.graph = number, number + 1, graph
    training = prepare_training(trial, setting, training)
    ride(trial, setting, training)
    return training


def check_mixture(training, node, names, files):
    frozen, taught = training.networks[node], training.networks[1 - node]
    assert is_of(frozen, files[names[node]])
    assert frozen.training
    assert not any(weight.requires_grad for weight in frozen.parameters())
    assert all(weight.requires_grad for weight in taught.parameters())
    assert not any(is_of(taught, path) for name, path in files.items() if name == names[1 - node])


def test_every_mixture_that_a_search_draws_freezes_the_node_with_the_file_of_its_network(files, tmp_path, caplog):
    """One runner, one memory: a network that was frozen learns again, and the other way round."""
    setting = setting_with(files, tmp_path / "s", f"study.networks=[{','.join(NAMES)}]")
    training = None
    mixtures = [(node, (first, second)) for node in (1, 0) for first in NAMES for second in NAMES]
    for number, (node, names) in enumerate(mixtures):
        caplog.clear()
        training = trained(taught_by(node, names), setting, number, training)
        check_mixture(training, node, names, files)
        (told,) = [record.getMessage() for record in caplog.records if "no edge teaches" in record.getMessage()]
        assert told.endswith(f"node {node + 1}; it votes with frozen weights of {files[names[node]]}")


def test_nodes_of_different_networks_are_frozen_with_the_files_of_theirs(files, tmp_path):
    setting = setting_with(files, tmp_path / "s", f"network=[{','.join(NAMES)}]")
    training = None
    for number, node in enumerate((1, 0, 1)):
        training = trained(taught_by(node), setting, number, training)
        check_mixture(training, node, NAMES, files)


def check(files, *, num_classes=NUM_CLASSES, names=NAMES):
    objective = ObjectiveConfig(unlearned="pretrained", pretrained={name: str(path) for name, path in files.items()})
    networks = [NETWORK.only(name) for name in names]
    check_pretrained(objective, networks, num_classes=num_classes, image_size=IMAGE_SIZE)


def test_files_that_are_swapped_of_other_classes_missing_or_damaged_are_one_clear_line(files, tmp_path):
    check(files)
    swapped = dict(zip(NAMES, reversed(files.values()), strict=True))
    with pytest.raises(
        NetworkError,
        match=r"^objective\.pretrained\.resnet8=\S+ does not fit resnet8 with 4 classes: "
        r"it fits resnet14 \(tensor .*\): give a node1\.safetensors of .* network=resnet8`$",
    ):
        check(swapped)
    with pytest.raises(NetworkError, match=r"does not fit resnet8 with 5 classes \(tensor 'head.*\[4.*\[5"):
        check(files, num_classes=5)
    with pytest.raises(NetworkError, match=r"pretrained\.resnet14=\S+nowhere cannot be read \(No such file"):
        check(files | {"resnet14": tmp_path / "nowhere"})
    files["resnet8"].write_bytes(files["resnet8"].read_bytes()[:-9])
    with pytest.raises(NetworkError, match=r"pretrained\.resnet8=\S+ cannot be read as safetensors"):
        check(files)


def test_launch_without_torch_hears_of_swapped_files(files):
    objective = ObjectiveConfig(
        unlearned="pretrained", pretrained=dict(zip(NAMES, map(str, reversed(files.values())), strict=True))
    )
    networks = [NETWORK.only(name) for name in NAMES]
    with pytest.raises(NetworkError, match=r"does not fit resnet8 with 4 classes: it fits resnet14"):
        check_elsewhere(networks, objective, IMAGE_SIZE, num_classes=NUM_CLASSES, compares_maps=False)
