"""The program of `kdhpc.networks.elsewhere`: whether networks can be trained, and have the weights of files."""

import json
import sys

from kdhpc.config.document import parse_group
from kdhpc.config.schema import NetworkConfig, ObjectiveConfig
from kdhpc.errors import NetworkError
from kdhpc.networks.elsewhere import REFUSED
from kdhpc.networks.names import check_network
from kdhpc.networks.pretrained import check_pretrained
from kdhpc.networks.started import check_started


def main(order: str) -> int:
    """Check what an order says; the last line of the output is why not."""
    said = json.loads(order)
    networks, taught = (
        [parse_group("network", NetworkConfig, document) for document in said[key]]
        for key in ("networks", "pretrained")
    )
    objective = parse_group("objective", ObjectiveConfig, said["objective"])
    image_size, num_classes = said["image_size"], said["num_classes"]
    try:
        for network in networks:
            check_network(network, image_size, num_classes=num_classes, compares_maps=said["compares_maps"])
            check_started(network, num_classes=num_classes, image_size=image_size)
        check_pretrained(objective, taught, num_classes=num_classes, image_size=image_size)
    except NetworkError as exc:
        print(" ".join(str(exc).split()))
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
