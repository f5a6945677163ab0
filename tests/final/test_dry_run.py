"""``kdhpc train --dry-run``: what would be trained, checked as training checks it, and no folder made."""

import shutil

import pytest

from kdhpc.cli.main import main
from tests.final.conftest import TINY


def test_dry_run_says_what_would_be_trained_and_makes_nothing(place, capsys):
    words = ("--graph", "dml,one", "--nodes", "2", "--seeds", "0..1", *TINY, "training.epochs=5")
    assert main(["train", *words, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    first, second, ending = out.split("\n\n")
    assert first.splitlines() == [
        "tiny-resnet8-dml2",
        "  graph     dml, 2 nodes",
        "  network   resnet8",
        "  images    tiny: 64 train, 40 test images score",
        "            2 classes; stored 16x16x3, seen 16x16",
        "  training  5 epochs of 4 steps, 20 in all; 16 images a step",
        "            sgd, learning rate 0.05, schedule steps",
        "  settings  training.epochs=5 (else 300)",
        "            training.learning_rate=0.05 (else 0.1)",
        "            training.milestones=[] (else [150,225])",
        "            device.threads=1 (else null)",
        "  seeds     0, 1",
        f"  folder    {place.runs}/train/tiny-resnet8-dml2/seed0 is new",
        f"  folder    {place.runs}/train/tiny-resnet8-dml2/seed1 is new",
    ]
    assert second.startswith("tiny-resnet8-one2\n  graph     one, 2 nodes\n")
    assert ending == "4 trainings, here, one after the other; nothing was trained (--dry-run)\n"
    assert list(place.folder.iterdir()) == []


def test_dry_run_knows_what_is_done_and_refuses_what_training_refuses(place, capsys):
    words = ("train", "--graph", "independent", "--nodes", "1", *TINY, "training.epochs=1")
    assert main(words) == 0
    done = capsys.readouterr().out.split("ensemble ")[1].split(" %")[0]
    assert main([*words, "--dry-run"]) == 0
    assert f"independent1/seed0 is done already: ensemble {done} %\n" in capsys.readouterr().out
    run = place.runs / "train" / "tiny-resnet8-independent1" / "seed0"
    (run / "node1.safetensors").unlink()
    assert main([*words, "--dry-run"]) == main(words) == 1
    says = capsys.readouterr().err.splitlines()
    assert "seed0 is done: node1.safetensors cannot be read" in says[0]
    assert says[0] == says[-1], "as the training says"
    (run / "result.json").unlink()
    assert main([*words, "--dry-run"]) == 0
    assert "seed0 goes on, after about 1 of 1 epochs\n" in capsys.readouterr().out
    assert main([*words, "training.learning_rate=0.2", "--dry-run"]) == 2
    assert "begun with other settings (training.learning_rate was 0.05, is 0.2)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--graph", "dmll", "--nodes", "2"), 1, "allowed: dml, frskd, independent, one, sla, student"),
        (("--graph", "dml", "--nodes", "2", "training.batch_size=1000"), 2, "only 64 images train"),
        (("--graph", "dml", "--nodes", "300"), 2, "run.num_nodes=300 is not allowed: at most 256"),
        (("--graph", "sla", "--nodes", "3"), 2, "run.num_nodes=3 has no meaning for run.graph=sla"),
        (("--graph", "student",), 2, "--teacher"),
    ],
)  # fmt: skip
def test_dry_run_refuses_in_one_line(place, capsys, words, code, said):
    assert main(["train", *words, *TINY, "--dry-run"]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert list(place.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--graph", "dml", "--nodes", "1"),
            "dml with 1 node is independent: a single network has nobody",
        ),
        (("--graph", "one", "--nodes", "1"), "one with 1 branch is a plain network"),
        (("--graph", "independent", "--nodes", "100"), "run.num_nodes=100: one device trains 100 networks at once"),
        (("--graph", "independent", "--nodes", "1", "training.milestones=[9]"), "the learning rate never falls"),
    ],
)
def test_dry_run_tells_what_is_doubtful_once_for_all_seeds(place, capsys, caplog, words, said):
    assert main(["train", *words, *TINY, "--seeds", "0..1", "--dry-run"]) == 0
    assert caplog.text.count(said) == 1


def test_dry_run_without_the_images_says_the_rest_and_fails_as_training_does(place, capsys, monkeypatch):
    monkeypatch.setenv("KDHPC_DATA", str(place.folder / "nothing"))
    words = ("train", "--graph", "dml", "--nodes", "2", *TINY)
    assert main([*words, "--dry-run"]) == 1
    out, said = capsys.readouterr()
    assert "images    tiny: not prepared here; seen 16x16" in out
    assert "training  2 epochs, 16 images a step" in out
    assert main(words) == 1
    assert capsys.readouterr() == ("", said)
    shutil.rmtree(place.runs, ignore_errors=True)


def test_seed_of_a_key_counts_without_the_option(place, capsys):
    assert main(["train", "--graph", "dml", "--nodes", "2", *TINY, "run.seed=7", "--dry-run"]) == 0
    assert "  seed      7\n" in capsys.readouterr().out
