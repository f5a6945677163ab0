"""A dry run in another process: commands that launch must know whether a network can be trained, and have no torch."""

import json
import subprocess
from collections.abc import Sequence

from kdhpc.config.document import to_document
from kdhpc.config.networks import is_foreign
from kdhpc.config.schema import NetworkConfig, ObjectiveConfig
from kdhpc.errors import NetworkError
from kdhpc.interpreter import child_python_words
from kdhpc.networks.names import can_resolve, check_network, is_own

REFUSED = 3
"""Exit code of the other process where a network cannot be trained; the reason is its output."""
_PROGRAM = "kdhpc.networks.dry_run"


def check_elsewhere(
    networks: Sequence[NetworkConfig],
    objective: ObjectiveConfig,
    image_size: int,
    *,
    num_classes: int,
    compares_maps: bool,
) -> None:
    """`check_network` with all that a dry run tells, and a look into files of weights.

    What needs torch is done by one process for all networks, where there is something to do.

    Args:
        networks: Those that a node may be, each alone.
        objective: Names files of weights for nodes that nothing teaches.
        image_size: Side of the images, in pixels.
        num_classes: C.
        compares_maps: Whether attention maps are compared.

    Raises:
        NetworkError: one cannot be trained, or cannot be imported by another process than this; or a file of weights
            is not that of its network.
    """
    unsure = []
    for network in networks:
        is_known = is_own(network.name) or can_resolve()
        if is_known:
            check_network(network, image_size, num_classes=num_classes, compares_maps=compares_maps)
        if not is_known or network.weights is not None:
            unsure.append(network)
    taught = networks if objective.pretrained is not None else ()
    unsure, taught = (
        [network for network in some if is_own(network.name) or is_foreign(network.name) or not can_resolve()]
        for some in (unsure, taught)
    )
    if not unsure and not taught:
        return
    order = {
        "networks": [to_document(network) for network in unsure],
        "pretrained": [to_document(network) for network in taught],
        "objective": to_document(objective),
        "image_size": image_size,
        "num_classes": num_classes,
        "compares_maps": compares_maps,
    }
    done = subprocess.run(
        [*child_python_words(), "-m", _PROGRAM, json.dumps(order)],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode == REFUSED:
        raise NetworkError(done.stdout.strip().splitlines()[-1])
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        names = ", ".join(dict.fromkeys(network.name for network in (*unsure, *taught)))
        raise NetworkError(f"network {names} cannot be tried: {lines[-1][:300]}")
