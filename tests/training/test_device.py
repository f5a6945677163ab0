import os

import pytest
import torch

from kdhpc.config.schema import DeviceConfig
from kdhpc.errors import ConfigError
from kdhpc.training.device import (
    autocast_dtype,
    enforce_precision,
    fixed_precision,
    has_node_streams,
    preferred_mode,
    resolve_device,
    resolve_precision,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_resolve_device_cpu_is_the_cpu():
    assert resolve_device(DeviceConfig(device="cpu")) == CPU


def test_resolve_device_auto_is_cuda_exactly_where_there_is_one():
    assert resolve_device(DeviceConfig()).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_resolve_device_cuda_without_a_gpu_says_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device\.device=cuda cannot be used.*device\.device=cpu"):
        resolve_device(DeviceConfig(device="cuda"))


@pytest.mark.parametrize(
    ("environment", "refused"),
    [
        ({}, True),
        ({"CUDA_VISIBLE_DEVICES": "0"}, True),
        ({"CUDA_VISIBLE_DEVICES": ""}, False),
        ({"SLURM_JOB_ID": "7"}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "0", "CUDA_VISIBLE_DEVICES": "0"}, True),
    ],
)
def test_resolve_device_auto_does_not_leave_gpus_unused_that_torch_cannot_use(monkeypatch, environment, refused):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("kdhpc.training.device._gpus", lambda: ["/dev/nvidia0"])
    for name in ("SLURM_JOB_ID", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert resolve_device(DeviceConfig(device="cpu")) == CPU
    if refused:
        with pytest.raises(ConfigError, match=r"cannot use this machine's GPUs.*device\.device=cpu"):
            resolve_device(DeviceConfig())
    else:
        assert resolve_device(DeviceConfig()) == CPU


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("auto", CPU, None),
        ("auto", CUDA, torch.bfloat16),
        ("float32", CUDA, None),
        ("bf16", CPU, torch.bfloat16),
        ("fp16", CUDA, torch.float16),
    ],
)
def test_autocast_dtype_of_each_precision(precision, device, expected):
    assert autocast_dtype(DeviceConfig(precision=precision), device) is expected


def test_resolve_precision_settles_auto():
    assert [resolve_precision(DeviceConfig(), device) for device in (CPU, CUDA)] == ["float32", "bf16"]
    assert resolve_precision(DeviceConfig(precision="float32"), CUDA) == "float32"


def test_resolve_precision_auto_on_a_gpu_without_bf16_is_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert resolve_precision(DeviceConfig(), CUDA) == "float32"
    assert resolve_precision(DeviceConfig(precision="bf16"), CUDA) == "bf16"


def test_autocast_dtype_fp16_on_the_cpu_is_refused():
    with pytest.raises(ConfigError, match=r"device\.precision=fp16 needs CUDA"):
        autocast_dtype(DeviceConfig(precision="fp16"), CPU)


@pytest.mark.parametrize(
    ("setting", "device", "mode"),
    [
        ("auto", CPU, "eager"),
        ("auto", CUDA, "cudagraph"),
        ("compile", CPU, "compile"),
        ("eager", CUDA, "eager"),
        ("cudagraph", CUDA, "cudagraph"),
    ],
)
def test_preferred_mode_of_each_setting(setting, device, mode):
    assert preferred_mode(DeviceConfig(mode=setting), device) == mode


def test_preferred_mode_auto_with_fp16_is_compile():
    assert preferred_mode(DeviceConfig(precision="fp16"), CUDA) == "compile"


@pytest.mark.parametrize(("device", "precision"), [(CPU, "auto"), (CUDA, "fp16")])
def test_preferred_mode_cudagraph_where_there_can_be_none_is_refused(device, precision):
    with pytest.raises(ConfigError, match=r"device\.mode=cudagraph needs CUDA and a precision other than fp16"):
        preferred_mode(DeviceConfig(mode="cudagraph", precision=precision), device)


def test_has_node_streams_on_the_cpu_is_refused():
    assert not has_node_streams(DeviceConfig(), CPU)
    assert has_node_streams(DeviceConfig(node_streams=True), CUDA)
    with pytest.raises(ConfigError, match=r"device\.node_streams=true needs CUDA, the device is cpu"):
        has_node_streams(DeviceConfig(node_streams=True), CPU)


def test_enforce_precision_takes_no_shortcuts_from_the_environment(monkeypatch, caplog):
    for name in ("NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE"):
        monkeypatch.setenv(name, "1")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    enforce_precision()
    assert not {"NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE"} & os.environ.keys()
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (False, False)
    assert "NVIDIA_TF32_OVERRIDE is ignored: device.precision alone says" in caplog.text
    enforce_precision()
    assert caplog.text.count("is ignored") == 2, "each once"


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_fixed_precision_of_a_study_is_taken(precision):
    assert fixed_precision(DeviceConfig(threads=3), CPU, precision) == DeviceConfig(threads=3, precision=precision)


def test_fixed_precision_that_the_gpu_emulates_is_taken_and_told(monkeypatch, caplog):
    monkeypatch.setattr("kdhpc.training.device._multiplies_bf16", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "V100")
    assert fixed_precision(DeviceConfig(), CUDA, "bf16").precision == "bf16"
    assert "V100 emulates bf16" in caplog.text
