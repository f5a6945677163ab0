"""What a device config means here, settled once."""

from dataclasses import replace

import pytest
import torch

from kdhpc.config.schema import DeviceConfig
from kdhpc.errors import ConfigError
from kdhpc.training.runtime import resolve_runtime
from tests.training.memory_source import CPU, runtime_of

CUDA = torch.device("cuda")


def test_resolve_runtime_on_a_cpu_leaves_the_mode_open():
    runtime = resolve_runtime(DeviceConfig(device="cpu"))
    assert (runtime.device.type, runtime.precision, runtime.mode) == ("cpu", "float32", "eager")
    assert (runtime.mode_is_open, runtime.node_streams, runtime.combines) == (True, False, False)
    assert (runtime.autocast_dtype, runtime.scales_loss, runtime.threads) == (None, False, None)


def test_resolve_runtime_on_a_gpu_records_in_bf16():
    runtime = resolve_runtime(DeviceConfig(), device=CUDA)
    assert (runtime.precision, runtime.mode, runtime.mode_is_open) == ("bf16", "cudagraph", False)
    assert (runtime.combines, runtime.autocast_dtype) == (True, torch.bfloat16)
    assert resolve_runtime(DeviceConfig(precision="fp16"), device=CUDA).scales_loss
    assert resolve_runtime(DeviceConfig(node_streams=True), device=CUDA).node_streams


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "fp16"}, "fp16 needs CUDA"),
        ({"mode": "cudagraph"}, "needs CUDA"),
        ({"node_streams": True}, "CUDA"),
    ],
)
def test_resolve_runtime_that_the_device_cannot_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        resolve_runtime(DeviceConfig(**changes), device=torch.device("cpu"))


def test_resolve_runtime_takes_the_configs_threads_first_and_changes_nothing():
    before = torch.get_num_threads()
    assert resolve_runtime(replace(CPU, threads=7), threads=5).threads == 7
    runtime = resolve_runtime(CPU, threads=5)
    assert (runtime.threads, torch.get_num_threads()) == (5, before)
    try:
        runtime.enforce()
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)


def test_runtime_programs_are_shared_by_the_process_unless_they_are_given():
    assert runtime_of().programs is runtime_of().programs
    given = replace(runtime_of().programs)
    assert runtime_of(programs=given).programs is given
