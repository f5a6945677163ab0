"""``README.md`` of a bundle: a model card, in the form of those on the Hugging Face Hub."""

import yaml

from kdhpc.bundle.checking import Checked
from kdhpc.bundle.origin import exported_with, trained_by
from kdhpc.bundle.preprocessing import preprocessing_steps
from kdhpc.bundle.subject import Subject

_LIBRARIES = {"torch": "pytorch", "onnx": "onnx", "safetensors": "pytorch", "timm": "timm"}
"""How the Hub calls the library that reads a format."""
_OUTPUTS = """\
The input is `images`, float32 (N, 3, {side}, {side}), any number N of preprocessed images. The outputs are

- `logits`, float32 (N, {nodes}, {classes}): of each node, in the order of the table;
- `probabilities`, float32 (N, {classes}): {ensemble}.
"""
_LOADING = {
    "torch": """\
```python
import torch

model = torch.export.load("model.pt2").module()
logits, probabilities = model(images)
```

`model.pt2` was written by torch {torch}. Another torch reads it as long as its own schema has the same major version;
else it says `Serialized schema version ... does not match our current schema version`: then export anew with that
torch, or as ONNX. It runs on the CPU, in float32, in evaluation mode.
""",
    "onnx": """\
```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
logits, probabilities = session.run(["logits", "probabilities"], {{"images": images}})
```

It was written by torch {torch} and onnx {onnx}, and checked with onnxruntime {onnxruntime}.
""",
    "safetensors": """\
`config.json` says for each network how kdhpc builds it, and how torchvision or timm does where they have it; the names
of the weights are then those of that library. `load()` and `run()` in `use.py` do it.
""",
    "timm": """\
```python
import timm

{timm_lines}
```

The preprocessing in timm's `config.json` comes near the one below; `preprocessing.json` is exact.
""",
}


def model_card(
    subject: Subject, name: str, checked: Checked, *, needs: str, is_drawn: bool, notes: tuple[str, ...]
) -> str:
    """The text.

    Args:
        subject: What was exported.
        name: Of the format.
        checked: What the check found.
        needs: Packages that its reader must have, in words.
        is_drawn: Whether ``graph.svg`` and ``graph.png`` are there.
        notes: Sentences about what is missing.
    """
    result = subject.run.result
    title = f"{result.name}, seed {result.seed}"
    if subject.node is not None:
        title += f", node {subject.node + 1}"
    parts = [
        _head(subject, name, title),
        f"# {title}\n\n{_what(subject)}",
        f"## Accuracy\n\n{_accuracy(subject)}",
        f"## Use\n\n{_use(subject, name, needs)}",
        f"## Preprocessing\n\n{_numbered(preprocessing_steps(subject.run.config.dataset, subject.card))}\n\n"
        "`preprocessing.json` says the same to programs. `classes.json` names the classes, by label from 0.",
        f"## Training\n\n{_training(subject, is_drawn)}",
        f"## Check\n\n{_check(checked)}",
        f"## Limits\n\n{_limits(subject)}",
        "## Licence\n\nNot chosen yet: fill it in here and in the head of this file. The licences of the images, and "
        "of weights that the training started from, may bind you.",
    ]
    if notes:
        parts.insert(-2, "## What is missing\n\n" + "\n".join(f"- {note}" for note in notes))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _head(subject: Subject, name: str, title: str) -> str:
    result = subject.run.result
    accuracies = result.node_accuracies or ()
    accuracy = result.ensemble_accuracy if subject.node is None else accuracies[subject.node]
    document = {
        "library_name": _LIBRARIES[name],
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "kdhpc", *([name] if name in ("onnx", "safetensors") else [])],
        "model-index": [
            {
                "name": title,
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": result.dataset, "type": result.dataset, "split": result.scored_on},
                        "metrics": [{"type": "accuracy", "value": accuracy and round(accuracy / 100, 6)}],
                    }
                ],
            }
        ],
    }
    return f"---\n# license: to be filled in\n{yaml.safe_dump(document, sort_keys=False, allow_unicode=True)}---"


def _what(subject: Subject) -> str:
    result, count = subject.run.result, len(subject.nodes)
    classes = f"It tells {len(subject.card.classes)} classes of `{result.dataset}` apart."
    if subject.node is not None:
        return (
            f"Node {subject.node + 1} of {result.num_nodes} of an ensemble that was trained with kdhpc: "
            f"one image classifier, `{subject.names[0]}`. {classes}"
        )
    if count == 1:
        return f"One image classifier, `{subject.names[0]}`, which was trained with kdhpc. {classes}"
    if subject.is_branched:
        return f"One image classifier with {count} branches, on `{subject.names[0]}`, trained with kdhpc. {classes}"
    return (
        f"An ensemble of {count} image classifiers, which also taught each other while they were trained with kdhpc as "
        f"their graph says. {classes}"
    )


def _accuracy(subject: Subject) -> str:
    result = subject.run.result
    accuracies = result.node_accuracies or ()
    rows = [
        f"| node {node + 1} | `{name}` | {accuracies[node]:.2f} |"
        for node, name in zip(subject.nodes, subject.names, strict=True)
    ]
    if len(subject.nodes) > 1:
        rows.append(f"| **ensemble** | {_ensemble(subject)} | **{result.ensemble_accuracy:.2f}** |")
    images = "the test images" if result.scored_on == "test" else "images that were held out of the training images"
    precision = result.precision or "an unknown precision"
    return "\n".join(["| | network | top-1 in percent |", "|---|---|---|", *rows]) + (
        f"\n\nOn {images} of `{result.dataset}`, after the last epoch, in {precision}. One training with seed "
        f"{result.seed}: others differ by chance."
    )


def _ensemble(subject: Subject) -> str:
    return "gated sum of the logits" if subject.is_branched else "mean of the logits"


def _use(subject: Subject, name: str, needs: str) -> str:
    folders = [""] if len(subject.nodes) == 1 else [f"/node{node + 1}" for node in subject.nodes]
    lines = [
        f'node{i + 1} = timm.create_model("local-dir:FOLDER{f}", pretrained=True).eval()'
        for i, f in zip(subject.nodes, folders, strict=True)
    ]
    versions = exported_with(name)
    known = {key: versions.get(key, "") for key in ("torch", "onnx", "onnxruntime")}
    mean = "its own gated sum of the branches' logits" if subject.is_branched else "the mean of the nodes' logits"
    ensemble = f"of the ensemble, the softmax of {mean}"
    if len(subject.nodes) == 1:
        ensemble = "the softmax of these logits"
    outputs = _OUTPUTS.format(
        side=subject.image_size, nodes=len(subject.nodes), classes=len(subject.card.classes), ensemble=ensemble
    )
    return (
        f"It needs {needs}. `use.py` classifies image files, and needs numpy and pillow as well:\n\n"
        f"```bash\npython use.py IMAGE...\n```\n\nFrom Python:\n\n"
        f"{_LOADING[name].format(timm_lines=chr(10).join(lines), **known)}\n{outputs}"
    )


def _training(subject: Subject, is_drawn: bool) -> str:
    run = subject.run
    result = run.result
    sentences = [
        f"{result.training_images:,} images of `{result.dataset}` (checksum `{run.dataset_checksum[:16]}`), "
        f"{result.epochs} epoch{'s' if result.epochs > 1 else ''}, by the method `{trained_by(result)}`, on "
        f"`{result.device}`.",
    ]
    if result.teacher:
        scored = "" if result.teacher_accuracy is None else f", whose top-1 is {result.teacher_accuracy:.2f} %"
        sentences.append(f"Its teacher was `{result.teacher}`{scored}.")
    if result.searched.study:
        sentences.append(f"The graph was found by the search `{result.searched.study}`, trial {result.searched.trial}.")
    if run.config.network.weights is not None:
        sentences.append("The networks started from the weights of a file; `settings` in `provenance.json` names it.")
    text = " ".join(sentences)
    text += "\n\n`provenance.json` has all settings, versions, commits, and the digest of each file."
    if run.paths.graph.is_file():
        text += " `graph.json` is the graph: who taught whom, what, and when."
    return text + ("\n\n![The graph](graph.svg)" if is_drawn else "")


def _check(checked: Checked) -> str:
    images = checked.images
    said = (
        "After it was written, this bundle was loaded again and compared with the run's own networks on "
        f"{images.words}: {checked.words}."
    )
    if images.why:
        said += " The images were generated, as the run's own were not there when it was exported."
    return said


def _limits(subject: Subject) -> str:
    side = subject.image_size
    lines = [
        f"It knows {len(subject.card.classes)} classes, and gives each image to one of them, whatever it shows.",
        "Probabilities are a softmax of logits: they are not calibrated.",
        f"It takes images of {side}x{side} pixels, made as above. Made otherwise, they are told apart less well.",
        "It computes in float32. A training in half precision may have been scored a little differently.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _numbered(steps: tuple[str, ...]) -> str:
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, start=1))
