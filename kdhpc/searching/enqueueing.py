"""Graphs that a study is given later: whether its networks can train them."""

from collections.abc import Sequence

from kdhpc.config.compose import compose_search
from kdhpc.config.paths import packed_dir
from kdhpc.data.packed import PackedDataset
from kdhpc.errors import NetworkError
from kdhpc.networks.elsewhere import check_elsewhere
from kdhpc.networks.names import is_own
from kdhpc.searching.plan import check_networks, stored_groups
from kdhpc.study.given import GivenGraph
from kdhpc.study.study import SharedStudy


def check_given(study: SharedStudy, graphs: Sequence[GivenGraph]) -> None:
    """Refuse graphs that compare attention maps where the networks of a study make none that could be compared.

    If the study's own graphs compare probabilities alone, nobody has looked at maps before.

    Raises:
        DataError: the images are not prepared here, which networks that are not kdhpc's own are tried with.
        NetworkError: as `check_network`; the message names the graph.
    """
    name = next((given.name for given in graphs if given.graph.compares_maps), None)
    if name is None or any(design.compares_maps for design in study.definition.space.designs):
        return
    # Whatever else the study was made with: its files of weights may lie elsewhere.
    config = compose_search([], given=stored_groups(study) | {"objective": {}})
    try:
        check_networks(config, compares_maps=True)
        if not all(is_own(network.name) for network in config.possible_networks):
            check_elsewhere(
                config.possible_networks,
                config.objective,
                config.dataset.image_size,
                num_classes=len(PackedDataset.open(packed_dir(config.dataset.name)).classes),
                compares_maps=True,
            )
    except NetworkError as exc:
        raise NetworkError(f"{name} compares attention maps: {exc}") from exc
