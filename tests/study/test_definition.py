import json
from dataclasses import replace

import numpy as np
import pytest

from kdhpc.errors import StudyError
from kdhpc.graph.space import SearchSpace
from kdhpc.graph.spec import Design, Gate
from kdhpc.study.definition import differences, from_json, pack_indices, to_json, unpack_indices
from tests.study.made import definition

RICH = definition(
    space=SearchSpace(
        num_nodes=4,
        label_gates=(Gate.THROUGH,),
        gates=(Gate.LINEAR, Gate.CUTOFF),
        designs=(Design.BOTH_APART, Design.PROB_CLOSER),
        reject_unlearned=True,
    ),
    seed=2**40,
    settings=json.dumps({"training": {"milestones": [1, 2]}, "dataset": {"mean": None}}, sort_keys=True),
    pretrained_weights="0123456789abcdef",
)


def test_definition_comes_back_from_its_json() -> None:
    assert from_json(to_json(RICH), name="tiny") == RICH


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"format": "other"}, {"space": {}}, {"space": {"num_nodes": 2, "gates": ["open"]}}]
)
def test_definition_of_another_version_names_the_study(change: dict[str, object]) -> None:
    document = {**json.loads(to_json(RICH)), **change}
    with pytest.raises(StudyError, match=r"study 'tiny' cannot be read .*kdhpc-study version 1"):
        from_json(json.dumps(document), name="tiny")


@pytest.mark.parametrize(
    ("change", "said"), [({"later": 1}, "later"), ({"space": {"later": 1, "num_nodes": 2}}, r"space\.later")]
)
def test_definition_of_a_newer_version_says_so(change: dict[str, object], said: str) -> None:
    document = {**json.loads(to_json(RICH)), **change}
    with pytest.raises(StudyError, match=rf"it was made by a newer kdhpc, this one does not know {said}: use that"):
        from_json(json.dumps(document), name="tiny")


def test_differences_name_each_field_once_and_shorten_long_values() -> None:
    assert differences(RICH, RICH) == []
    settings = json.dumps({"training": {"milestones": [1, 3]}, "dataset": {"mean": None, "flip": False}})
    changed = replace(RICH, dataset="x" * 100, settings=settings)
    assert differences(RICH, changed) == [
        f'dataset was "fashion_mnist", is "{"x" * 56}...',
        "dataset.flip was true, is false",
        "training.milestones was [1, 2], is [1, 3]",
    ]


def test_differences_count_pretrained_weights_by_their_content() -> None:
    settings = [json.dumps({"objective": {"pretrained": path}}) for path in ("/here/w", "/there/w")]
    here, there = (replace(RICH, settings=text) for text in settings)
    assert differences(here, there) == []
    assert differences(here, replace(there, pretrained_weights="f" * 16)) == [
        f'pretrained_weights was "0123456789abcdef", is "{"f" * 16}"'
    ]


def test_definition_written_before_weights_counted_is_read() -> None:
    document = json.loads(to_json(RICH))
    del document["pretrained_weights"]
    assert from_json(json.dumps(document), name="tiny") == replace(RICH, pretrained_weights=None)


def test_indices_come_back_from_their_packed_form() -> None:
    indices = np.random.default_rng(0).permutation(50_000).astype(np.int64)
    packed = pack_indices(indices)
    assert len(packed) < 200_000
    unpacked = unpack_indices(packed)
    assert unpacked.dtype == np.int64
    np.testing.assert_array_equal(unpacked, indices)
    assert unpack_indices(pack_indices(np.array([], dtype=np.int64))).shape == (0,)
