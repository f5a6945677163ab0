import os
import platform

import pytest
import torch

from kdhpc.config.schema import DeviceConfig
from kdhpc.errors import ConfigError
from kdhpc.training.device import (
    autocast_dtype,
    enforce_precision,
    fixed_precision,
    has_code_for,
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


BUILT = ("sm_75", "sm_80", "sm_86", "sm_90a", "sm_100", "compute_120")


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((9, 0), ("sm_80", "sm_90"), True),
        ((8, 9), ("sm_80",), True),  # Of the same major version.
        ((8, 0), ("sm_86",), False),
        ((7, 0), BUILT, False),
        ((9, 0), ("sm_80",), False),
        ((9, 0), ("sm_80", "compute_80"), True),  # PTX is compiled for what is newer.
        ((7, 5), ("compute_80",), False),
        ((12, 1), BUILT, True),
        ((9, 0), ("sm_90a",), True),
        ((10, 3), ("sm_100a", "compute_100a"), False),  # For that one alone.
        ((10, 3), ("sm_100",), True),
        ((9, 0), ("gfx90a",), False),
    ],
)
def test_has_code_for_each_kind_of_architecture(capability, architectures, expected):
    assert has_code_for(capability, architectures) is expected


def gpu_of(monkeypatch, capability, architectures=BUILT):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(architectures))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")


@pytest.mark.parametrize("config", [DeviceConfig(), DeviceConfig(device="cuda")])
def test_resolve_device_gpu_that_torch_was_not_built_for_is_refused_in_a_line(monkeypatch, config):
    gpu_of(monkeypatch, (7, 0))
    with pytest.raises(
        ConfigError, match=r"it has code for sm_75 .* compute_120, this GPU is sm_70; .*device=cpu"
    ) as told:
        resolve_device(config)
    assert "cannot use Some GPU" in str(told.value)
    assert "\n" not in str(told.value)
    assert resolve_device(DeviceConfig(device="cpu")) == CPU


@pytest.mark.parametrize(("capability", "architectures"), [((9, 0), BUILT), ((7, 0), ())])
def test_resolve_device_gpu_that_torch_was_built_for_or_does_not_say(monkeypatch, capability, architectures):
    gpu_of(monkeypatch, capability, architectures)
    assert resolve_device(DeviceConfig()) == CUDA


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("auto", CPU, None),
        ("auto", CUDA, torch.bfloat16),
        ("float32", CUDA, None),
        ("tf32", CUDA, None),
        ("bf16", CPU, torch.bfloat16),
        ("fp16", CUDA, torch.float16),
    ],
)
def test_autocast_dtype_of_each_precision(precision, device, expected):
    assert autocast_dtype(resolve_precision(DeviceConfig(precision=precision), device)) is expected


def test_resolve_precision_settles_auto():
    assert [resolve_precision(DeviceConfig(), device) for device in (CPU, CUDA)] == ["float32", "bf16"]
    assert resolve_precision(DeviceConfig(precision="float32"), CUDA) == "float32"


@pytest.mark.parametrize(
    ("has_tiles", "allowed", "precision"),
    [
        (True, None, "bf16"),
        (True, "ALL", "bf16"),
        (True, "avx512_core_amx", "bf16"),
        (True, "AVX512_CORE_BF16", "float32"),
        (False, None, "float32"),
        (False, "AVX512_CORE_AMX", "float32"),
    ],
)
def test_resolve_precision_auto_on_a_cpu_is_bf16_where_it_has_amx_and_may_use_it(
    has_tiles, allowed, precision, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_tiles)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if allowed is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert resolve_precision(DeviceConfig(), CPU) == precision
    assert resolve_precision(DeviceConfig(precision="float32"), CPU) == "float32"


@pytest.mark.parametrize(("has_it", "warnings"), [(False, 1), (True, 0)])
def test_fixed_precision_warns_of_a_cpu_that_emulates_it(has_it, warnings, monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_it)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert fixed_precision(DeviceConfig(), CPU, "bf16").precision == "bf16"
    assert caplog.text.count("this CPU emulates bf16: training is slow here") == warnings


def test_resolve_precision_auto_on_a_gpu_without_bf16_is_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert resolve_precision(DeviceConfig(), CUDA) == "float32"
    assert resolve_precision(DeviceConfig(precision="bf16"), CUDA) == "bf16"


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_precision_that_needs_cuda_is_refused_on_the_cpu(precision):
    said = rf"{precision} needs CUDA, the device is cpu: "
    with pytest.raises(ConfigError, match=rf"device\.precision={said}use float32 or bf16"):
        resolve_precision(DeviceConfig(precision=precision), CPU)
    with pytest.raises(ConfigError, match=said):
        fixed_precision(DeviceConfig(), CPU, precision)
    with pytest.raises(ConfigError, match=said):
        DeviceConfig(device="cpu", precision=precision)


def test_resolve_precision_tf32_needs_a_gpu_that_has_it(monkeypatch):
    gpu_of(monkeypatch, (8, 0))
    assert resolve_precision(DeviceConfig(precision="tf32"), CUDA) == "tf32"
    gpu_of(monkeypatch, (7, 5))
    with pytest.raises(
        ConfigError, match=r"tf32 needs a GPU since Ampere \(sm_80\), and here is Some GPU: use float32"
    ):
        resolve_precision(DeviceConfig(precision="tf32"), CUDA)


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


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16", "fp16"])
def test_preferred_mode_auto_on_cuda_records_in_every_precision(precision):
    assert preferred_mode(DeviceConfig(precision=precision), CUDA) == "cudagraph"


def test_preferred_mode_cudagraph_on_the_cpu_is_refused():
    with pytest.raises(ConfigError, match=r"device\.mode=cudagraph needs CUDA, the device is cpu"):
        preferred_mode(DeviceConfig(mode="cudagraph"), CPU)


def test_has_node_streams_on_the_cpu_is_refused():
    assert not has_node_streams(DeviceConfig(), CPU)
    assert has_node_streams(DeviceConfig(node_streams=True), CUDA)
    with pytest.raises(ConfigError, match=r"device\.node_streams=true needs CUDA, the device is cpu"):
        has_node_streams(DeviceConfig(node_streams=True), CPU)


@pytest.fixture
def as_before():
    """What a process computes in is not left to the tests that follow."""
    yield
    enforce_precision("float32")


def tf32_of():
    """Of convolutions and of matrix products, as torch says it and as its kernels ask."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return (cudnn.allow_tf32, cudnn.conv.fp32_precision == "tf32", matmul.allow_tf32, matmul.fp32_precision == "tf32")


def shortcuts():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def newer_shortcuts():
    torch.backends.fp32_precision = "tf32"
    for place in (torch.backends.cudnn, torch.backends.cudnn.conv, torch.backends.cuda.matmul):
        place.fp32_precision = "tf32"


def contradictions():
    torch.backends.cudnn.conv.fp32_precision, torch.backends.cudnn.rnn.fp32_precision = "tf32", "ieee"
    torch.backends.cudnn.fp32_precision, torch.backends.mkldnn.conv.fp32_precision = "tf32", "bf16"
    torch.set_float32_matmul_precision("medium")


@pytest.mark.parametrize("before", [shortcuts, newer_shortcuts, contradictions])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16", "fp16"])
def test_enforce_precision_says_what_it_is_whatever_was_set_before(as_before, before, precision):
    before()
    enforce_precision(precision)
    is_tf32 = precision == "tf32"
    assert tf32_of() == (is_tf32, is_tf32, False, False)
    assert torch.get_float32_matmul_precision() == "highest"
    mkldnn = torch.backends.mkldnn
    assert not {mkldnn.conv.fp32_precision, mkldnn.matmul.fp32_precision} & {"tf32", "bf16"}


def test_enforce_precision_takes_no_shortcuts_from_the_environment(monkeypatch, caplog, as_before):
    for name in ("NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE"):
        monkeypatch.setenv(name, "1")
    enforce_precision("float32")
    assert not {"NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE"} & os.environ.keys()
    assert "NVIDIA_TF32_OVERRIDE is ignored: device.precision alone says" in caplog.text
    enforce_precision("float32")
    assert caplog.text.count("is ignored") == 2, "each once"


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_fixed_precision_of_a_study_is_taken(precision):
    assert fixed_precision(DeviceConfig(threads=3), CPU, precision) == DeviceConfig(threads=3, precision=precision)


def test_fixed_precision_that_the_gpu_emulates_is_taken_and_told(monkeypatch, caplog):
    monkeypatch.setattr("kdhpc.training.device._multiplies_bf16", lambda device: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "V100")
    assert fixed_precision(DeviceConfig(), CUDA, "bf16").precision == "bf16"
    assert "V100 emulates bf16" in caplog.text
