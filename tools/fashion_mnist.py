"""``python -m tools.fashion_mnist FOLDER``: the four official files of Fashion-MNIST, whole; downloads what is not."""

import sys
from pathlib import Path

from torchvision.datasets import FashionMNIST
from torchvision.datasets.utils import download_url


def download(folder: Path) -> None:
    """Get each file that is missing, or that a broken download has left in part.

    Raises:
        OSError: there is no way to the server.
        RuntimeError: what came is not the file.
    """
    for name, checksum in FashionMNIST.resources:
        download_url(FashionMNIST.mirrors[0] + name, folder, name, checksum)


if __name__ == "__main__":
    try:
        download(Path(sys.argv[1]))
    except (OSError, RuntimeError) as exc:
        sys.exit(f"no download: {' '.join(str(exc).split())[:200]}")
