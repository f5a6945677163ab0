"""Errors in torch's own words, as its libraries make them (torch 2.14.1, cuBLAS 13, cuDNN 9, Triton 3.8)."""

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InductorError

from kdhpc.errors import DeviceError, DeviceLostError
from kdhpc.training.device_errors import (
    device_errors_in_words,
    first_line,
    is_device_lost,
    is_of_device,
    is_out_of_memory,
)

HELP = (
    "Search for `cudaErrorX' in https://docs.nvidia.com for more information.\nCUDA kernel errors might be asynchronous"
)


def accelerator(words: str, code: int) -> torch.AcceleratorError:
    error = torch.AcceleratorError(f"CUDA error: {words}\n{HELP}\n")
    error.error_code = code
    return error


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB"),
    accelerator("out of memory", 2),  # cudaGraphInstantiate, cudaHostAlloc, a context.
    RuntimeError(f"CUDA error: out of memory\n{HELP}"),
    RuntimeError("CUDA driver error: out of memory"),  # cuModuleLoadData, by torch's launcher of Triton kernels.
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError(
        "CUDA ran out of memory outside PyTorch's allocator. If this workload uses many dynamic shapes, cuDNN"
    ),
]
OTHERS = [
    accelerator("an illegal memory access was encountered", 700),
    accelerator("device-side assert triggered", 710),
    accelerator("uncorrectable ECC error encountered", 214),
    accelerator("operation failed due to a previous error during capture", 901),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSetStream(handle, stream)`"),
    RuntimeError(
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input."
    ),
    RuntimeError("Triton Error [CUDA]: invalid argument"),
    ValueError("CUDA error: out of memory is what the user wrote"),
]


def name(error: BaseException) -> str:
    return first_line(error)[:60]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=name)
def test_is_out_of_memory_in_every_disguise(error):
    assert is_out_of_memory(error)
    assert is_of_device(error)


@pytest.mark.parametrize("error", OTHERS, ids=name)
def test_is_out_of_memory_no_other_error_is(error):
    assert not is_out_of_memory(error)
    assert not is_of_device(error), "the device is sound"


def test_is_out_of_memory_behind_a_compiler():
    for wrap in (
        lambda error: InductorError(error, None),
        lambda error: BackendCompilerFailed("inductor", error, None),
    ):
        assert is_out_of_memory(wrap(OUT_OF_MEMORY[3]))
        assert not is_out_of_memory(wrap(OTHERS[6]))


def test_is_out_of_memory_behind_the_end_of_a_capture():
    """Ending the capture of what failed fails, too, and says nothing of why."""
    ending = accelerator("operation failed due to a previous error during capture", 901)
    assert not is_out_of_memory(ending)
    ending.__context__ = OUT_OF_MEMORY[0]
    assert is_out_of_memory(ending)
    circle = RuntimeError("a")
    circle.__cause__ = circle.__context__ = circle
    assert not is_out_of_memory(circle)


def lose_device(monkeypatch, error=OTHERS[0]):
    def synchronize(device=None):
        raise error

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)


def test_device_is_lost_where_the_next_synchronise_fails(monkeypatch):
    assert not is_device_lost(), "a process that uses none has lost none"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert not is_device_lost()
    lose_device(monkeypatch)
    assert is_device_lost()
    assert is_of_device(ValueError("whatever comes first after a late error"))


def test_errors_in_words_memory():
    with (
        pytest.raises(
            DeviceError, match=r"the GPU's memory is used up \(RuntimeError: CUDA driver error: out of"
        ) as told,
        device_errors_in_words(),
    ):
        raise OUT_OF_MEMORY[3]
    assert not isinstance(told.value, DeviceLostError)
    assert told.value.__cause__ is OUT_OF_MEMORY[3]


@pytest.mark.parametrize("error", OTHERS[:3], ids=name)
def test_errors_in_words_lost(monkeypatch, error):
    lose_device(monkeypatch, error)
    with pytest.raises(DeviceLostError) as told, device_errors_in_words():
        raise error
    assert str(told.value).startswith(
        f"this process cannot use its GPU any more ({first_line(error)}): another process"
    )
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("b")])
def test_errors_in_words_others_stay_as_they_are(error):
    with pytest.raises(type(error)) as told, device_errors_in_words():
        raise error
    assert told.value is error


def test_first_line_of_a_list_of_causes_has_its_end():
    assert first_line(RuntimeError("one\ntwo")) == "RuntimeError: one"
    long = "An exception occurred in a subprocess:\n\nTraceback (most recent call last):\n  ...\nOSError: no gcc\n"
    assert first_line(RuntimeError(long)) == "RuntimeError: An exception occurred in a subprocess: OSError: no gcc"
    assert first_line(RuntimeError()) == "RuntimeError: "
