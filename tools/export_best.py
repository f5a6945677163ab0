"""``python -m tools.export_best`` is ``kdhpc export-best``."""

import sys

from kdhpc.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export-best", *sys.argv[1:]]))
