"""``provenance.json``: what a bundle was made from and with, how it was checked, and the digests of its files."""

from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import torch

from kdhpc.bundle.checking import ALLOWED, Checked
from kdhpc.bundle.formats import FORMATS
from kdhpc.bundle.output import FORMAT, PROVENANCE, VERSION, digest_of, files_below
from kdhpc.bundle.subject import Subject
from kdhpc.files.json_text import parse_json, strict_json
from kdhpc.files.writing import write_whole
from kdhpc.final.result import FinalResult
from kdhpc.final.settings import read_settings
from kdhpc.provenance import package_version
from kdhpc.training.made_with import made_with


def write_provenance(subject: Subject, name: str, checked: Checked, folder: Path) -> None:
    """Write ``provenance.json`` beside the files of a bundle, all of which are there already.

    Args:
        subject: What was exported.
        name: Of the format.
        checked: What the check found.
        folder: Of the bundle.

    Raises:
        StorageError: the file system refuses.
    """
    run = subject.run
    settings = read_settings(run.paths.settings) or {}
    digests = run.result.weights
    document = {
        "format": FORMAT,
        "version": VERSION,
        "exported_as": name,
        "exported_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "exported_with": exported_with(name),
        "nodes": [node + 1 for node in subject.nodes],
        "networks": list(subject.names),
        "weights": {f"node{index + 1}": digest for index, digest in enumerate(digests)},
        "result": {**asdict(run.result), "graph": trained_by(run.result)},
        "dataset_checksum": run.dataset_checksum,
        "settings": {key: parse_json(value) for key, value in settings.items()},
        "checked": {
            "images": len(checked.images.images),
            "kind": checked.images.kind,
            **({"why": checked.images.why} if checked.images.why else {}),
            "largest_difference_of_logits": checked.logits,
            "largest_logit": checked.largest_logit,
            "largest_difference_of_probabilities": checked.probabilities,
            "allowed": ALLOWED,
        },
        "files": {name: digest_of(folder / name) for name in files_below(folder)},
    }
    write_whole(folder / PROVENANCE, strict_json(document, indent=2), "\n")


def trained_by(result: FinalResult) -> str:
    """The preset, the method, or the name of the graph's file: where that lies is nobody else's matter."""
    return Path(result.graph).name


def exported_with(name: str) -> dict[str, str]:
    """Versions of what a bundle of that format is made with."""
    found = {package: package_version(package) for package in (*FORMATS[name].packages, "safetensors")}
    here = {package: version for package, version in found.items() if version is not None}
    return {**made_with(torch.device("cpu")), **here}
