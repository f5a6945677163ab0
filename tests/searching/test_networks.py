"""Searches that choose the network of each node: what is drawn, stored, trained in one memory, exported and trained."""

import csv
import json

import pytest
import torch

from kdhpc.config.compose import compose_search, compose_train
from kdhpc.errors import ConfigError, StudyMismatchError
from kdhpc.graph.serial import read_stored
from kdhpc.graph.space import SearchSpace
from kdhpc.searching.export import export_trials
from kdhpc.searching.plan import search_space, stored_groups, study_definition
from kdhpc.searching.trial import prepare_training
from kdhpc.study.outcome import Outcome
from kdhpc.study.status import TrialRecord, top_trials
from kdhpc.study.study import SharedStudy
from tests.searching.test_trial import epochs_of, ride, setting_of
from tests.study.made import HERE, SPLIT, optuna_trials

CHOICES = ("study.networks=[resnet8,abn_resnet8]", "training.epochs=1", "training.milestones=[]")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(storage, setting, *, target, **changes):
    definition = study_definition("chosen", setting.config, "0123abcd")
    return SharedStudy.create_or_open(storage, definition, SPLIT, target=target, **changes)


def test_search_of_networks_trains_exports_and_hands_them_on(storage, storage_url, tmp_path):
    """Trials of one runner, in one memory; each has the numbers that it has alone."""
    setting = setting_of(tmp_path / "runner", *CHOICES)
    study = made(storage, setting, target=4)
    training, graphs = None, []
    while (trial := study.lease(HERE, lease_s=60, renew_s=20)) is not None:
        trial.seed = trial.number + 1  # That these small images can be drawn by.
        graphs.append(trial.graph)
        training = prepare_training(trial, setting, training)
        _, outcome = ride(trial, setting, training)
        assert outcome in (Outcome.COMPLETE, Outcome.PRUNED)
    assert graphs == [study.definition.space.graph(0, slot) for slot in range(4)]
    assert len({graph.networks for graph in graphs}) > 1
    stored = optuna_trials(storage_url, "chosen")
    assert [(one.params["network_1"], one.params["network_2"]) for one in stored] == [one.networks for one in graphs]

    last = setting_of(tmp_path / "alone", *CHOICES)
    alone = type("Alone", (), {"number": 3, "seed": 4, "graph": graphs[3], "lost": False, "reported": ()})()
    alone.describe, alone.advance, alone.stepped = lambda **_: None, lambda step: None, lambda epoch, images: None
    alone.report_rung = lambda epoch, accuracy: Outcome.COMPLETE
    ride(alone, last, prepare_training(alone, last, None))
    assert epochs_of(last, 3) == epochs_of(setting, 3)

    best = top_trials(storage, "chosen", 4)
    files, table = export_trials(study.definition, best, tmp_path / "export", study_uid=study.uid)
    exported = read_stored(files[0].graph)
    assert exported.graph == best[0].graph
    names = "+".join(dict.fromkeys(best[0].graph.networks))
    assert exported.provenance["network"] == names
    drawn = files[0].svg.read_text()
    assert all(f">{name}<" in drawn for name in best[0].graph.networks)
    row = next(csv.DictReader(table.read_text().splitlines()))
    assert (row["network_1"], row["network_2"]) == best[0].graph.networks

    words = [f"run.graph={files[0].graph}", "dataset=fashion_mnist"]
    network = compose_train(words).network
    assert (network.nodes or (network.name,) * 2) == best[0].graph.networks
    plain = study_definition("chosen", setting_of(tmp_path, *CHOICES[1:]).config, "0123abcd")
    with pytest.raises(StudyMismatchError, match=r"space\.networks was \[.*\], is not there"):
        SharedStudy.create_or_open(storage, plain, SPLIT, target=4)
    groups = stored_groups(study)
    again = compose_search(["device=cpu"], given=groups)
    assert again.study.networks == ("abn_resnet8", "resnet8")
    assert search_space(again) == study.definition.space


def test_tpe_chooses_networks_too(storage, storage_url):
    study = made(storage, setting_of("unused", *CHOICES, "study.sampler=tpe", "study.pruner=none"), target=3)
    chosen = []
    while (trial := study.lease(HERE, lease_s=60, renew_s=20)) is not None:
        chosen.append(trial.graph.networks)
        trial.complete(50.0)
    assert all(set(names) <= {"resnet8", "abn_resnet8"} and len(names) == 2 for names in chosen)
    assert [one.params["network_2"] for one in optuna_trials(storage_url, "chosen")] == [names[1] for names in chosen]


def test_study_of_a_network_for_each_node_exports_them(tmp_path):
    setting = setting_of(tmp_path, "network=[resnet8,resnet14]")
    definition = study_definition("fixed", setting.config, "0123abcd")
    assert "networks" not in json.loads(definition.settings)["dataset"]
    assert definition.network == "resnet8+resnet14"
    trial = TrialRecord(number=0, value=50.0, graph=definition.space.graph(0, 0), worked_s=1.0)
    files, _ = export_trials(definition, [trial], tmp_path / "export", draw=False)
    assert read_stored(files[0].graph).graph.networks == ("resnet8", "resnet14")
    assert read_stored(files[0].graph).provenance["config.network.nodes"] == '["resnet8", "resnet14"]'


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["study.networks=[resnet8]"], r"study\.networks=.* is not allowed: two or more different names"),
        (["study.networks=[resnet8,resnet8]"], "two or more different names"),
        (["study.networks=resnet8"], "is not allowed: a list, each text"),
        (["network=[resnet8,resnet14,resnet8]"], r"is a list of 3, study\.num_nodes is 2: give a network for each"),
    ],
)
def test_search_with_networks_that_cannot_be_meant_is_refused(overrides, said):
    with pytest.raises(ConfigError, match=said):
        compose_search(["study=quickstart", *overrides])


def test_search_space_with_networks_draws_the_edges_that_it_draws_without():
    """Small spaces, and larger ones; the networks of a slot are as likely as each other."""
    for num_nodes in (2, 3):
        plain = SearchSpace(num_nodes=num_nodes)
        mixed = SearchSpace(num_nodes=num_nodes, networks=("wide", "narrow"))
        graphs = [mixed.graph(3, slot) for slot in range(100)]
        assert [(one.label_gates, one.edges) for one in graphs] == [
            (one.label_gates, one.edges) for one in (plain.graph(3, slot) for slot in range(100))
        ]
        counts = [sum(one.networks[node] == "wide" for one in graphs) for node in range(num_nodes)]
        assert all(30 < count < 70 for count in counts)
        for graph in graphs[:5]:
            assert mixed.from_parameters(mixed.to_parameters(graph)).networks == graph.networks
        assert mixed.from_parameters(plain.to_parameters(plain.graph(3, 0))).networks == ()
