"""JSON that is strict both ways."""

import json
import math

import pytest

from kdhpc.files.json_text import parse_json, strict_json


def test_strict_json_has_null_for_numbers_that_are_none() -> None:
    document = {"a": [1.5, math.nan, (math.inf, "x")], "b": {"c": -math.inf}, "d": None, "e": True}
    text = strict_json(document)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": [1.5, None, [None, "x"]],
        "b": {"c": None},
        "d": None,
        "e": True,
    }
    assert parse_json(text) == json.loads(text)
    for broken in ("NaN", '{"a": Infinity}', "{"):
        with pytest.raises(ValueError, match=r"is no JSON|Expecting"):
            parse_json(broken)


@pytest.mark.parametrize("depth", [65, 900, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_parse_json_refuses_what_is_nested_too_deep_to_mean_something(depth: int, opening: str, closing: str) -> None:
    with pytest.raises(ValueError, match="it is nested too deep"):
        parse_json(opening * depth + "1" + closing * depth)
    assert parse_json("[" * 63 + "]" * 63) is not None
