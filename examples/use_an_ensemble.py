"""Use a finished run where its data set is not: classes, preprocessing and weights all come from its folder."""

import sys
from pathlib import Path

from PIL import Image

import kdhpc


def main(folder: Path, files: list[Path]) -> None:
    """Say what is in some images, and draw where the first node looks."""
    ensemble = kdhpc.load(folder)
    probabilities = ensemble.predict(files)
    for file, row in zip(files, probabilities, strict=True):
        best = int(row.argmax())
        print(f"{file.name}: {ensemble.classes[best]} ({100 * row[best]:.1f} %)")
    for file, maps in zip(files, ensemble.attention(files), strict=True):
        heat = maps[0] / maps[0].max().clamp_min(1e-12)
        Image.fromarray((255 * heat).byte().numpy()).save(file.with_suffix(".attention.png"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
