"""What a process compiles for its trainings: under which key it is kept, and who chooses whether to compile."""

import importlib.metadata
import platform
from dataclasses import replace
from pathlib import Path

import torch

from kdhpc.training.auto_mode import AutoMode
from kdhpc.training.compile_cache import CacheKey, CompileCache, device_description
from kdhpc.training.runtime import Runtime
from kdhpc.training.setting import TrainingSetting


def cache_key(setting: TrainingSetting, *, name: str, num_nodes: int) -> CacheKey:
    """The key of what trainings of this setting compile.

    Args:
        setting: What they are trained with.
        name: Names the networks that learn, and what else of the method is compiled.
        num_nodes: M.
    """
    try:
        triton_version = importlib.metadata.version("triton")  # Importing it takes long.
    except importlib.metadata.PackageNotFoundError:
        triton_version = ""
    return CacheKey(
        torch=torch.__version__,
        triton=triton_version,
        python=platform.python_version(),
        device=device_description(setting.runtime.device),
        network=name,
        num_nodes=num_nodes,
        num_classes=setting.num_classes,
        image_size=setting.image_size,
        batch_size=setting.training.batch_size,
        eval_batch_size=setting.training.eval_batch_size,
        precision=setting.runtime.precision,
        channels_last=setting.runtime.channels_last,
    )


def prepare_compiling(
    setting: TrainingSetting, *, name: str, num_nodes: int, folder: Path, is_shared: bool
) -> tuple[Runtime, CompileCache | None]:
    """Set up what a process needs for compiling: a cache, and the choice of the mode where that is open.

    To be called before anything is compiled, and after `Runtime.enforce`, as times depend on the number of threads.

    Args:
        setting: What is trained.
        name: See `cache_key`.
        num_nodes: M.
        folder: Where times, and what was compiled, are kept for all processes.
        is_shared: Begin with what other workers have compiled.

    Returns:
        The setting's runtime, which chooses the mode of each training where that is open; and the cache of what is
        compiled, in use if anything is compiled at once. None: nothing is compiled, or nothing is shared.
    """
    runtime = setting.runtime
    if runtime.mode == "eager" and not runtime.mode_is_open:
        return runtime, None
    key = cache_key(setting, name=name, num_nodes=num_nodes)
    cache = CompileCache(folder, key) if is_shared else None
    if runtime.mode_is_open:
        auto = AutoMode(key, folder) if cache is None else AutoMode(key, folder, cache.use)
        return replace(runtime, auto=auto), cache
    if cache is not None:
        cache.use()
    return runtime, cache
