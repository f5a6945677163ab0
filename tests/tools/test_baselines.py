"""What tools/quickstart says at its end about gains and losses."""

import json

import pytest

from tools.baselines import read_rows, table, verdict

_ALIKE = {
    "dataset": "fashion_mnist",
    "network": "resnet8",
    "num_nodes": 2,
    "epochs": 4,
    "training_images": 2000,
    "scored_on": "test",
}


def _training(name: str, mean: float, std: float | None, **changed: object) -> dict[str, object]:
    spread = {"mean": mean, "std": std}
    return {"name": name, **_ALIKE, "seeds": [0, 1, 2], "node": spread, "ensemble": spread, **changed}


def _verdict(*trainings: dict[str, object]) -> str:
    searched, *baselines = read_rows(json.dumps(trainings), ["ours", "alone", "dml"])
    return verdict(searched, baselines)


def test_verdict_of_a_clear_gain_and_a_clear_loss_says_both() -> None:
    said = _verdict(_training("ours", 80, 0.3), _training("alone", 78, 0.4), _training("dml", 82, 0.4))
    # 2.776 * sqrt((0.09 + 0.16) / 3) = 0.80
    assert said == (
        "On these test images, the searched graph's ensemble is 2.00 points above independent (hardly chance: 95 % "
        "interval +1.20 to +2.80) and is 2.00 points below dml (hardly chance: 95 % interval -2.80 to -1.20)."
    )


def test_verdict_of_a_small_difference_says_that_it_may_be_chance() -> None:
    said = _verdict(_training("ours", 80, 0.3), _training("alone", 79.5, 0.4), _training("dml", 80.5, 0.4))
    assert "0.50 points above independent (may be chance: 95 % interval -0.30 to +1.30)" in said
    assert "0.50 points below dml (may be chance: 95 % interval -1.30 to +0.30)" in said


def test_verdict_of_a_training_that_diverged_compares_nothing_with_it() -> None:
    none = {"seeds": [], "node": None, "ensemble": None}
    said = _verdict(_training("ours", 80, 0.3), _training("alone", 0, None, **none), _training("dml", 80, 0.4))
    assert "ensemble cannot be compared with independent" in said


def test_table_shows_the_three_trainings_in_order_whatever_else_was_trained() -> None:
    trainings = [_training(name, 80, 0.3) for name in ("other", "dml", "alone", "ours")]
    lines = table(read_rows(json.dumps(trainings), ["ours", "alone", "dml"])).splitlines()
    assert lines[0].split() == ["nodes", "ensemble", "seeds"]
    assert [line.split("  ")[0] for line in lines[1:]] == ["searched graph", "independent", "dml"]


def test_trainings_of_other_epochs_are_refused() -> None:
    trainings = [_training("ours", 80, 0.3), _training("alone", 80, 0.3, epochs=5), _training("dml", 80, 0.3)]
    with pytest.raises(ValueError, match="not trained alike"):
        read_rows(json.dumps(trainings), ["ours", "alone", "dml"])


def test_training_that_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="no result of dml"):
        read_rows(json.dumps([_training("ours", 80, 0.3), _training("alone", 80, 0.3)]), ["ours", "alone", "dml"])
