"""What a config asks for and hardly means."""

import pytest

from kdhpc.config.compose import compose_search
from kdhpc.config.meaning import doubts


@pytest.mark.parametrize(
    ("prune_from", "epochs", "prunes"), [(1, 1, True), (2, 4, True), (3, 8, True), (3, 4, False), (5, 8, False)]
)
def test_pruning_that_begins_after_the_last_rung_is_told(prune_from: int, epochs: int, prunes: bool) -> None:
    config = compose_search(
        ["study=quickstart", f"study.prune_from={prune_from}", f"training.epochs={epochs}", "training.milestones=[]"]
    )
    said = [f"study.prune_from={prune_from}: no trial ends early" in line for line in doubts(config)]

    assert any(said) is not prunes
