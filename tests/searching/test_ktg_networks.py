"""`ktg3` as its users run it, with small networks: from a teacher for each of them to a student of node 1."""

import json

from kdhpc.graph.serial import read_stored
from tests.searching.test_ktg import SMALL

NAMES = ("resnet8", "resnet14")
# With this seed, nodes 2 and 3 of the third graph are pretrained teachers, each of another network.
SPACE = (
    *("study=ktg3", "study.networks=[resnet8,resnet14]", "study.node1_network=resnet8", "study.baselines=[]"),
    *("study.gates=[through,cutoff]", "study.label_gates=[through,cutoff]", "study.seed=15"),
)


def test_search_over_networks_each_with_its_own_pretrained_file_goes_to_a_student(workspace) -> None:
    taught = workspace.run(
        *("train", "--graph", "independent", "--nodes", "1", "run.split=search", *SMALL, "network=resnet8,resnet14"),
        "run.name=ktg-${network.name}",
    )
    assert taught.returncode == 0, taught.stderr
    runs = workspace.runs / "train"
    files = {name: runs / f"ktg-{name}" / "seed0" / "node1.safetensors" for name in NAMES}
    pretrained = [f"objective.pretrained.{name}={path}" for name, path in files.items()]
    swapped = [f"objective.pretrained.{name}={files[other]}" for name, other in (NAMES, NAMES[::-1])]
    command = ("search", "--study", "k3", *SPACE, "--trials", "3", *SMALL, "study.pruner=none")

    refused = workspace.run(*command, *swapped)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "does not fit resnet8 with 2 classes: it fits resnet14" in refused.stderr
    refused = workspace.run(*command, f"objective.pretrained.resnet8={files['resnet8']}")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "objective.pretrained has no file for network resnet14" in refused.stderr
    assert not (workspace.runs / "k3").exists()

    done = workspace.run(*command, *pretrained)
    assert done.returncode == 0, done.stderr
    logs = "".join(path.read_text() for path in (workspace.runs / "k3" / "jobs").rglob("*_log.*"))
    (told,) = [line for line in logs.splitlines() if "no edge teaches node" in line]
    assert "node 2, 3; it votes with frozen weights of " in told
    assert all(str(path) in told for path in files.values()), "one of them is each network"
    assert workspace.status("k3")["trials"]["complete"] == 3
    assert workspace.run("export-best", "--study", "k3").returncode == 0
    exported = workspace.runs / "k3" / "export" / "k3-best.json"
    graph = read_stored(exported).graph
    assert graph.networks[0] == "resnet8"
    assert 0 not in graph.unlearned_nodes

    frozen = (*pretrained, "objective.unlearned=pretrained", "objective.unlearned_norm=batch")
    words = [word for word in SMALL if not word.startswith("network")]
    final = workspace.run("train", "--graph", str(exported), "run.name=final3", *words, *frozen)
    assert final.returncode == 0, final.stderr
    teacher = runs / "final3" / "seed0"
    student = workspace.run(
        *("train", "--graph", "student", "--teacher", str(teacher), "--teacher-node", "1", "run.name=pupil3", *SMALL)
    )
    assert student.returncode == 0, student.stderr
    result = json.loads((runs / "pupil3" / "seed0" / "result.json").read_text())
    node1 = json.loads((teacher / "result.json").read_text())["node_accuracies"][0]
    assert result["teacher_accuracy"] == node1
