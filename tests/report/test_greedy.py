"""``kdhpc results --ensemble greedy``: networks chosen on held-out images, and scored on the test images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kdhpc.cli.main import main
from kdhpc.config.paths import packed_dir
from kdhpc.data.packed import PackedDataset
from kdhpc.data.split import search_split
from kdhpc.final.finished import open_finished
from kdhpc.report.greedy import select
from tests.final.test_scoring import log_softmax, reference
from tests.report.conftest import INDEPENDENT
from tests.report.conftest import finished as finished
from tests.report.conftest import trained as trained

SEARCH = "runs/train/tiny-resnet8-independent1-search"


def reference_choice(logits, labels, num_members):
    """Try every network in turn; the first of the best ones."""
    members = []
    while len(members) < num_members:
        ranks = []
        for network in set(range(len(logits))) - set(members):
            mean = logits[[*members, network]].astype(np.float64).mean(axis=0)
            nll = -log_softmax(mean)[np.arange(len(labels)), labels].mean()
            ranks.append(((mean.argmax(1) != labels).sum(), nll, network))
        members.append(min(ranks)[2])
    return members


def test_select_agrees_with_numpy():
    rng = np.random.default_rng(3)
    labels = rng.integers(4, size=60)
    logits = (rng.normal(0, 1, (9, 60, 4)) + 0.8 * np.eye(4)[labels]).astype(np.float32)
    found = select(torch.as_tensor(logits), torch.as_tensor(labels), 5)
    assert found == reference_choice(logits, labels, 5)
    assert len(set(select(torch.as_tensor(logits), torch.as_tensor(labels), 9))) == 9


def logits_of(run, pixels):
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        return run.network(0, 2, torch.device("cpu"))(images).logits.numpy()


@pytest.fixture
def library(finished):
    """Three networks trained by the search split; two of them made of the first by moving its weights a little."""
    from safetensors.torch import load_file, save_file

    for seed in (1, 2):
        folder = Path(SEARCH) / f"seed{seed}"
        shutil.copytree(Path(SEARCH) / "seed0", folder)
        weights = load_file(folder / "node1.safetensors")
        torch.manual_seed(seed)
        moved = {
            name: one + 0.3 * one.std() * torch.randn_like(one) if one.dim() > 1 else one
            for name, one in weights.items()
        }
        save_file(moved, folder / "node1.safetensors")
        document = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps({**document, "seed": seed, "weights": []}))
    return finished


def test_greedy_ensemble_is_chosen_on_held_out_images_and_scored_on_test_images(library, capsys):
    assert main(["results", SEARCH, "--ensemble", "greedy", "--members", "2", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    runs = [open_finished(Path(SEARCH) / f"seed{seed}") for seed in range(3)]
    packed, config = PackedDataset.open(packed_dir("tiny")), runs[0].config.dataset
    split = search_split(
        packed.train.labels, validation_fraction=config.validation_fraction, subset=None, seed=config.split_seed
    )
    held_out = np.stack([logits_of(run, packed.train.images[split.validation]) for run in runs])
    test = np.stack([logits_of(run, packed.test.images[:]) for run in runs])
    own_labels = packed.train.labels[split.validation]
    members = reference_choice(held_out, own_labels, 2)

    def accuracy(logits, labels):
        return 100 * np.mean(logits.argmax(1) == labels)

    alone = [accuracy(own, own_labels) for own in held_out]
    names = [f"tiny-resnet8-independent1-search/seed{seed}" for seed in range(3)]
    assert [member["network"] for member in found["members"]] == [f"{names[member]}/node1" for member in members]
    assert [member["held_out_accuracy"] for member in found["members"]] == pytest.approx(
        [alone[member] for member in members]
    )
    assert (found["held_out_images"], found["test_images"]) == (len(own_labels), len(packed.test.labels))
    best = int(np.argmax(alone))
    for key, networks in (("greedy", members), ("best_run", [best]), ("all_networks", [0, 1, 2])):
        one, mean = found[key], test[networks].mean(axis=0)
        assert one["num_networks"] == len(networks)
        assert one["held_out_accuracy"] == pytest.approx(accuracy(held_out[networks].mean(axis=0), own_labels))
        assert one["test_accuracy"] == pytest.approx(accuracy(mean, packed.test.labels))
        quality = one["scores"]["ensemble"]
        expected = reference(mean, packed.test.labels)
        assert (quality["nll"], quality["brier"], quality["ece"]) == pytest.approx(expected, abs=1e-5)
    assert found["best_run"]["name"] == names[best]
    assert main(["results", SEARCH, "--ensemble", "greedy", "--members", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["greedy", "best", "all"]
    assert "held-out training images of tiny" in lines[-1]


def change(folder, key, value):
    """The search split of a run, as its files say it."""
    path = Path(folder) / "config.yaml"
    lines = path.read_text().splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.strip().startswith(f"{key}:")]
    lines[place] = f"{lines[place].partition(':')[0]}: {value}"
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(("key", "value"), [("split_seed", 1), ("validation_fraction", 0.25), ("subset", 40)])
def test_greedy_ensemble_of_other_splits_is_refused(library, capsys, key, value):
    change(f"{SEARCH}/seed1", key, value)
    assert main(["results", SEARCH, "--ensemble", "greedy", "--members", "2"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "are not scored on the same images (search split" in err


@pytest.mark.parametrize(
    ("folders", "members", "said"),
    [
        ([INDEPENDENT], "2", "seed0 and 1 more learnt from all training images, so that none is left to choose by"),
        ([SEARCH, f"{INDEPENDENT}/seed0"], "1", "seed0 learnt from all training images"),
        ([SEARCH], "2", "--members 2 is not possible: there is 1 network"),
        (["nowhere"], "2", "nowhere is no folder"),
    ],
)
def test_greedy_ensemble_of_what_cannot_be_is_one_line(finished, capsys, folders, members, said):
    assert main(["results", *folders, "--ensemble", "greedy", "--members", members]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
