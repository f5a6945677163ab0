"""Exporting a finished run: all files of a bundle are written beside, checked, and moved to where they are wanted."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdhpc.bundle.card import model_card
from kdhpc.bundle.checking import Checked, check_bundle, check_images
from kdhpc.bundle.formats import FORMATS, check_packages
from kdhpc.bundle.origin import write_provenance
from kdhpc.bundle.output import bundle_folder, earlier_files, files_below
from kdhpc.bundle.preprocessing import preprocessing_document
from kdhpc.bundle.programs import write_onnx, write_torch
from kdhpc.bundle.subject import Subject, open_subject
from kdhpc.bundle.use_file import use_file
from kdhpc.bundle.weights import check_timm, packages_of, write_safetensors, write_timm
from kdhpc.errors import GraphError
from kdhpc.files.json_text import strict_json
from kdhpc.files.reading import read_whole
from kdhpc.files.writing import write_whole
from kdhpc.final.finished import FinishedRun
from kdhpc.graph.serial import read_stored

_LOG = logging.getLogger(__name__)
_WRITERS: dict[str, Callable[[Subject, Path], None]] = {
    "torch": write_torch,
    "onnx": write_onnx,
    "safetensors": write_safetensors,
    "timm": write_timm,
}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was written."""

    files: tuple[Path, ...]
    """All of its files."""
    checked: Checked
    """How it compares with its run."""


def export_run(run: FinishedRun, name: str, out: Path, *, node: int | None, num_images: int) -> Bundle:
    """Write a bundle, and compare it with its run before it appears.

    Args:
        run: A finished run.
        name: Of the format.
        out: Folder of the bundle: a new or empty one, or that of a bundle that nobody has changed.
        node: The only node to export, from 0; None: all of them.
        num_images: How many images the check takes.

    Raises:
        BundleError: the networks cannot be exported in this format, or what was exported predicts something else.
        ConfigError: a package is missing, the node or the folder cannot be meant, or timm does not know a network.
        NetworkError: weights are damaged.
        StorageError: the file system refuses.
    """
    check_packages(name)
    earlier_files(out)
    subject = open_subject(run, node=node)
    if name == "timm":
        check_timm(subject)
    needs = FORMATS[name].needs
    if name == "safetensors":
        packages = packages_of(subject)
        needs = f"torch and safetensors, and of its networks {' and '.join(packages)}"
        if "kdhpc" in packages:
            _LOG.warning("whoever uses this bundle needs kdhpc: --format torch and onnx do without")
    images = check_images(subject, num_images)
    with bundle_folder(out) as folder:
        _WRITERS[name](subject, folder)
        document = preprocessing_document(run.config.dataset, subject.card)
        write_whole(folder / "preprocessing.json", strict_json(document, indent=2), "\n")
        write_whole(folder / "classes.json", strict_json(list(subject.card.classes), indent=2), "\n")
        write_whole(folder / "use.py", use_file(name, needs))
        checked = check_bundle(subject, folder, images)
        notes = _write_graph(subject, folder)
        is_drawn = (folder / "graph.svg").exists()
        card = model_card(subject, name, checked, needs=needs, is_drawn=is_drawn, notes=notes)
        write_whole(folder / "README.md", card)
        write_provenance(subject, name, checked, folder)
        names = files_below(folder)
    return Bundle(files=tuple(out / name for name in names), checked=checked)


def _write_graph(subject: Subject, folder: Path) -> tuple[str, ...]:
    """Write the graph and its drawing, if the run has one; and say what is missing."""
    run = subject.run
    try:
        content = read_whole(run.paths.graph)
    except FileNotFoundError:
        return ()
    write_whole(folder / "graph.json", content)
    try:
        graph = read_stored(run.paths.graph, plugin_remedy="it is not drawn; no prediction needs it").graph
    except GraphError as exc:
        said = " ".join(str(exc).split())
        _LOG.warning("%s", said)
        # Where it lies on this machine is nobody else's matter.
        return (f"The graph is not drawn. {said.replace(str(run.paths.graph), 'graph.json')}.",)
    from kdhpc.graph.drawing import draw_graph  # Matplotlib is large.

    result = run.result
    draw_graph(
        graph,
        (folder / "graph.svg", folder / "graph.png"),
        title=f"{result.name}, seed {result.seed}",
        node_accuracies=result.node_accuracies,
        ensemble_accuracy=result.ensemble_accuracy,
    )
    return ()
