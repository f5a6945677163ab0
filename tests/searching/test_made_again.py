"""A study that was deleted and made again under its name: nothing of the first one is in its trials."""

import shutil
import signal
from pathlib import Path

import numpy as np
from PIL import Image

from kdhpc.searching.worker import _data_digest
from kdhpc.study.definition import StoredSplit
from kdhpc.training.metrics import read_metrics
from tests.searching.test_search import finished_exactly, worker_logs
from tests.slurm.faults import is_pending
from tests.workspace import Workspace, until


def test_digest_of_the_data_tells_images_and_halves_apart() -> None:
    def digest(checksum: str, train: list[int], validation: list[int]) -> str:
        halves = (np.array(half, dtype=np.int64) for half in (train, validation))
        return _data_digest(checksum, StoredSplit(**dict(zip(("train", "validation"), halves, strict=True))))

    whole = digest("a", [0, 1], [2, 3])
    assert digest("a", [0, 1], [2, 3]) == whole
    others = (digest("b", [0, 1], [2, 3]), digest("a", [0], [1, 2, 3]), digest("a", [2, 3], [0, 1]))
    assert len({whole, *others}) == 4


def pack(workspace: Workspace, images: Path) -> None:
    done = workspace.run("data", "prepare", "folder", str(images), "--name", "again", "--size", "16", "--force")
    assert done.returncode == 0, done.stderr


def mirrored(images: Path, folder: Path) -> Path:
    """Other images of the same classes, sizes and number."""
    for path in sorted(images.rglob("*.png")):
        target = folder / path.relative_to(images)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(target)
    return folder


def losses(workspace: Workspace, study: str) -> list[tuple[float, ...]]:
    return [report.train_losses for report in read_metrics(workspace.paths(study).metrics(0))]


def test_study_made_again_on_other_images_takes_up_no_checkpoint_of_the_first(workspace: Workspace, tmp_path) -> None:
    images = workspace.folder / "images"
    pack(workspace, images)

    def search(study: str) -> tuple[str, ...]:
        options = ("study=tiny", "dataset.name=again", "training.epochs=8", "study.pruner=none")
        return ("search", "--study", study, "--workers", "1", "--trials", "1", *options)

    first = workspace.start(*search("again"))
    (caught,) = workspace.catch("again")
    first.send_signal(signal.SIGINT)
    # The launcher passes it on as this, once it has come to it: the trial must not come to its end before.
    until(lambda: is_pending(caught.pid, signal.SIGTERM))
    caught.let_go()
    first.communicate()
    trials = workspace.paths("again").trial(0).parent
    assert workspace.paths("again").checkpoint(0).exists()
    # As where the database is lost: whatever deleting a study removes, its files may be there again.
    shutil.copytree(trials, tmp_path / "trials")
    deleted = workspace.run("db", "delete-study", "again", "--yes")
    assert deleted.returncode == 0, deleted.stderr
    shutil.copytree(tmp_path / "trials", trials, dirs_exist_ok=True)
    pack(workspace, mirrored(images, tmp_path / "images"))

    for study in ("again", "fresh"):
        done = workspace.run(*search(study))
        assert done.returncode == 0, done.stderr
        assert finished_exactly(workspace.status(study), 1)
    assert "trial 0 starts from its beginning: checkpoint" in worker_logs(workspace, "again")
    assert len(losses(workspace, "again")) == 8
    assert losses(workspace, "again") == losses(workspace, "fresh")
