"""A dry run in another process: commands that launch must know whether a network can be trained, and have no torch."""

import json
import subprocess

from kdhpc.config.document import to_document
from kdhpc.config.networks import is_foreign
from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import NetworkError
from kdhpc.interpreter import child_python_words
from kdhpc.networks.names import can_resolve, check_network, is_own

REFUSED = 3
"""Exit code of the other process where the network cannot be trained; the reason is its output."""
_PROGRAM = "kdhpc.networks.dry_run"


def check_elsewhere(config: NetworkConfig, image_size: int, *, num_classes: int, compares_maps: bool) -> None:
    """`check_network` with all that a dry run tells, in a process of its own where this one has no torch.

    Args:
        config: The network.
        image_size: Side of the images, in pixels.
        num_classes: C.
        compares_maps: Whether attention maps are compared.

    Raises:
        NetworkError: it cannot be trained, or cannot be imported by another process than this.
    """
    if is_own(config.name) or can_resolve():
        check_network(config, image_size, num_classes=num_classes, compares_maps=compares_maps)
        if config.weights is None or not (is_own(config.name) or is_foreign(config.name)):
            return
    order = {
        "network": to_document(config),
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
        raise NetworkError(f"network {config.name} cannot be tried: {lines[-1][:300]}")
