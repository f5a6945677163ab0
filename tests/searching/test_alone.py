"""The command that trains a trial's graph alone."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from kdhpc.config.compose import compose_search, compose_train
from kdhpc.graph.serial import write_graph
from kdhpc.searching.alone import train_words
from kdhpc.searching.export import named_graph
from kdhpc.searching.plan import study_definition

KTG3 = ("resnet32", "resnet110", "wrn28_2")


@pytest.mark.parametrize(
    "overrides",
    [
        ["study=quickstart"],
        ["study=dogs3", "network=[resnet18,resnet34,resnet18]"],
        ["study=ktg3", *(f"objective.pretrained.{name}=weights of mine.safetensors" for name in KTG3)],
        ["study=cifar100_2", "training.optimizer=adamw", "training.betas=[0.8,0.99]", "training.schedule=cosine"],
    ],
)
def test_command_trains_with_the_settings_of_the_study(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights of mine.safetensors").touch()
    config = compose_search(overrides)
    definition = study_definition("mine", config, "0123abcd")
    graph = definition.space.graph(0, 0)
    write_graph(tmp_path / "graph.json", named_graph(definition, graph))
    kdhpc, train, option, path, *words = train_words(definition, graph, tmp_path / "graph.json")
    assert [kdhpc, train, option, path] == ["kdhpc", "train", "--graph", str(tmp_path / "graph.json")]
    composed = compose_train([f"run.graph={path}", *words])
    assert replace(composed.training, evaluate=config.training.evaluate) == config.training
    assert composed.dataset.name == config.dataset.name
    networks = graph.networks or config.network.nodes or (config.network.name,)
    assert (composed.network.nodes or (composed.network.name,)) == networks
    pretrained = config.objective.pretrained
    if isinstance(pretrained, Mapping):
        pretrained = {name: path for name, path in pretrained.items() if name in networks}
    assert composed.objective == replace(config.objective, pretrained=pretrained)


def test_command_of_a_data_set_without_a_config_names_it(tmp_path: Path) -> None:
    config = compose_search(["study=quickstart"])
    config = replace(config, dataset=replace(config.dataset, name="pets"))
    definition = study_definition("mine", config, "0123abcd")
    words = train_words(definition, definition.space.graph(0, 0), Path("graph.json"))
    assert words == ["kdhpc", "train", "--graph", "graph.json", "dataset=pets", "network=resnet8"]
