"""Networks as one program: torch's ExportedProgram, and ONNX. Neither needs a class of kdhpc's to run."""

import io
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from kdhpc.bundle.quiet import quiet
from kdhpc.bundle.subject import Subject
from kdhpc.errors import BundleError
from kdhpc.files.writing import write_whole

TORCH_FILE, ONNX_FILE = "model.pt2", "model.onnx"
INPUT, OUTPUTS = "images", ("logits", "probabilities")
_ONNX_LIMIT = (1 << 31) - (1 << 20)
"""Bytes of a single ONNX file: protobuf's limit, and some room."""
_NUM_EXAMPLES = 2
"""torch takes a number of images of 0 or 1 for a constant."""


def write_torch(subject: Subject, folder: Path) -> None:
    """Write ``model.pt2``.

    Raises:
        BundleError: torch cannot follow the networks.
        StorageError: the file system refuses.
    """
    content = io.BytesIO()
    with quiet():
        torch.export.save(_exported(subject), content)
    write_whole(folder / TORCH_FILE, content.getbuffer())


def write_onnx(subject: Subject, folder: Path) -> None:
    """Write ``model.onnx``.

    Raises:
        BundleError: torch cannot follow the networks, ONNX has no operator for what they do, or they are too large.
        StorageError: the file system refuses.
    """
    program = _exported(subject)
    try:
        with quiet():
            made = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                external_data=False,
            )
            assert made is not None, "it is not asked to write a file"
            for graph_node in made.model.graph.all_nodes():
                graph_node.metadata_props.clear()  # Where in whose files the code of the networks is.
            content = made.model_proto.SerializeToString()
    except Exception as exc:  # A converter may fail in whatever way.
        raise BundleError(
            f"{subject.run.origin} cannot be written as ONNX ({_reason(exc)}): give --format torch or safetensors"
        ) from exc
    if len(content) > _ONNX_LIMIT:
        raise BundleError(
            f"{subject.run.origin} has {len(content):,} bytes as ONNX, a file has {_ONNX_LIMIT:,} at most: export each "
            "node alone with --node, or give --format torch"
        )
    write_whole(folder / ONNX_FILE, content)


def _exported(subject: Subject) -> ExportedProgram:
    side = subject.image_size
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(
                subject.networks,
                (torch.zeros(_NUM_EXAMPLES, 3, side, side),),
                dynamic_shapes=({0: Dim("batch", min=1)},),
                strict=False,
            )
    except Exception as exc:  # The code of a network of somebody's own may do whatever Python can.
        raise BundleError(
            f"{subject.run.origin}: torch.export cannot follow its networks for any number of images "
            f"({_reason(exc)}): give --format safetensors"
        ) from exc
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for graph_node in module.graph.nodes:
                graph_node.meta.pop("stack_trace", None)  # Where in whose files the code of the networks is.
    return program


def _reason(exc: Exception) -> str:
    return " ".join(f"{type(exc).__name__}: {exc}".split())[:300]
