"""What an error says about the device: its memory is used up, or this process has lost it.

torch says both in many words. Out of memory is `torch.OutOfMemoryError` only where torch's own allocator was asked;
the driver, cuBLAS, cuDNN and Triton allocate by themselves, and fail with a RuntimeError or a torch.AcceleratorError.
And some errors stay: after an illegal address, a device-side assert, a failed launch or an ECC error every further call
fails, in this process and until it ends. Which ones these are is not read from their words: the next synchronise fails.

The words are those of torch 2.11 to 2.14, cuBLAS 13, cuDNN 9, the CUDA runtime 13 and Triton 3.6 to 3.8.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdhpc.errors import DeviceError, DeviceLostError

_MEMORY_ALLOCATION = 2
"""cudaErrorMemoryAllocation."""
_NO_MEMORY = re.compile(
    r"CUDA (driver )?error: out of memory"  # A graph's instantiation, a context, pinned memory; a module's loading.
    r"|CUDA out of memory"
    r"|CUDA ran out of memory outside PyTorch's allocator"
    r"|Triton Error \[CUDA\]: out of memory"
    r"|(CUBLAS|CUSOLVER)_STATUS_ALLOC_FAILED"
    # What cuBLAS says where there is no memory for its context.
    r"|CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate"
    r"|CUDNN_STATUS_(INTERNAL_ERROR_DEVICE_)?ALLOC(ATION)?_FAILED"
    # What is left of it where none of cuDNN's algorithms found memory for its workspace.
    r"|unable to find an engine to execute this computation"
    r"|Unable to find a valid cuDNN algorithm"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that the device has no memory left."""
    return any(_says_no_memory(each) for each in _causes(error))


def is_device_lost() -> bool:
    """Whether this process can use its GPU no more. The host waits for the device: to be asked after an error only."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def is_of_device(error: BaseException) -> bool:
    """Whether the device is to blame for an error, and not what was compiled, recorded or computed."""
    return is_out_of_memory(error) or is_device_lost()


def lost_to(error: BaseException) -> DeviceLostError:
    """What to raise after an error that has left the device lost."""
    return DeviceLostError(
        f"this process cannot use its GPU any more ({first_line(error)}): another process can, unless the GPU is "
        "broken or taken, see nvidia-smi"
    )


@contextmanager
def device_errors_in_words(
    *, less: str = "a smaller training.batch_size, a smaller network, fewer nodes"
) -> Iterator[None]:
    """A context in which errors of the device become errors with a message of one line.

    It is for work that has no other work beside it that could be ended to make room in memory.

    Args:
        less: What needs less memory, for the message.

    Raises:
        DeviceError: the device has no memory left.
        DeviceLostError: this process can use it no more.
    """
    try:
        yield
    except RuntimeError as exc:
        if is_device_lost():
            raise lost_to(exc) from exc
        if not is_out_of_memory(exc):
            raise
        raise DeviceError(
            f"the GPU's memory is used up ({first_line(exc)}): free it (nvidia-smi shows who has it), or use less: "
            f"{less}"
        ) from exc


def first_line(error: BaseException) -> str:
    """The type and the first line of an error; of a list of causes, as compilers give it, also its last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = lines[:1] if len(lines) < 2 or not lines[0].endswith(":") else [lines[0], lines[-1]]
    return f"{type(error).__name__}: {' '.join(words)}"


def _says_no_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, torch.AcceleratorError) and getattr(error, "error_code", None) == _MEMORY_ALLOCATION:
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and all that led to it: what a compiler wrapped, and what was being handled when it came."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        inner = (getattr(each, "inner_exception", None), each.__cause__, each.__context__)
        waiting += [found for found in inner if isinstance(found, BaseException)]
