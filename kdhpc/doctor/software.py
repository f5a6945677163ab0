"""What is installed."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from kdhpc import __version__
from kdhpc.doctor.finding import Finding, absent, fault, ok

_EXTRAS = {
    "server": "an embedded PostgreSQL",
    "timm": "its networks",
    "optuna": "Optuna's dashboard and tables",
    "tensorboard": "tracking=tensorboard",
    "mlflow": "tracking=mlflow",
    "wandb": "tracking=wandb",
}


def check_software() -> Iterator[Finding]:
    """Python, kdhpc, the packages that it needs, and those that it may have."""
    yield ok("python", f"{platform.python_version()} in {sys.prefix}, {platform.platform()}")
    needed = [Requirement(line) for line in requires("kdhpc") or ()]
    shown, wrong = [], []
    for requirement in needed:
        if requirement.marker is None:
            installed = _version(requirement.name)
            shown.append(f"{requirement.name} {installed or 'missing'}")
            if installed is None or not requirement.specifier.contains(installed, prereleases=True):
                wrong.append(f"{requirement} is needed, {installed or 'nothing'} is installed")
    if wrong:
        yield fault("packages", "; ".join(wrong), "install kdhpc again, with pip, into an environment of its own")
    else:
        yield ok("packages", f"kdhpc {__version__}, {', '.join(shown)}")
    for extra, use in _EXTRAS.items():
        of_it = [each for each in needed if each.marker and each.marker.evaluate({"extra": extra})]
        missing = [each.name for each in of_it if _version(each.name) is None]
        if missing:
            yield absent(extra, f"{use}: {', '.join(missing)}", f"pip install 'kdhpc[{extra}]'")
        else:
            yield ok(extra, f"{use}: {', '.join(f'{each.name} {_version(each.name)}' for each in of_it)}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
