"""``device.mode=auto`` on a CPU: steps are compiled if the training is so long that compiling saves time in all.

A training has one mode from its first step to its last, because the two modes round differently: it is chosen before
the first step, kept in checkpoints, and a resumed training goes on in it.
"""

import dataclasses
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from kdhpc.errors import StorageError
from kdhpc.files.json_text import parse_json, strict_json
from kdhpc.files.reading import read_whole
from kdhpc.files.writing import write_whole
from kdhpc.training.compile import Programs, programs_in
from kdhpc.training.compile_cache import CacheKey
from kdhpc.training.device import Mode
from kdhpc.training.toolchain import missing_tool

_LOG = logging.getLogger(__name__)
_MEASURED_STEPS = 20
_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class CompileTimes:
    """How long compiling took, and how long a step takes without and with it."""

    compile_s: float
    """Seconds that the first step took beyond a later one: everything but the scoring is compiled in it."""
    eager_s: float
    """Seconds of an uncompiled step."""
    compiled_s: float
    """Seconds of a compiled step, after the first."""

    def seconds_won(self, *, num_steps: int, eager_s: float, is_compiled: bool) -> float:
        """Seconds that compiling saves in a training; negative: it costs more than it saves.

        Args:
            num_steps: Number of steps ahead.
            eager_s: Seconds of an uncompiled step, as measured in this process.
            is_compiled: The compiling is done already, so that it costs nothing more.
        """
        saved_s = num_steps * eager_s * (1 - self.compiled_s / self.eager_s)
        return saved_s - (0.0 if is_compiled else self.compile_s)


UNKNOWN = CompileTimes(compile_s=120.0, eager_s=1.0, compiled_s=0.9)
"""Assumed if no times are on record: compiling takes longer, and gains less, than for any network that
docs/performance.md lists."""


class AutoMode:
    """Chooses for each training of a process whether its steps are compiled. All of them share the compiled programs.

    Args:
        key: What would be compiled, and for which processor.
        folder: Folder in which the times are on record, for all processes.
        before_compiling: Called once, before anything is compiled.
    """

    def __init__(self, key: CacheKey, folder: Path, before_compiling: Callable[[], None] = lambda: None) -> None:
        self._path = folder / f"{key.digest}-{torch.get_num_threads()}threads.json"
        self._before_compiling = before_compiling
        self._eager_s: float | None = None
        self._compiled: Programs | None = None
        self._seconds: list[float] = []

    def choose(self, num_steps: int, measure: Callable[[], float]) -> Programs:
        """The programs of a training that begins.

        Args:
            num_steps: Number of steps ahead.
            measure: Returns the seconds of an uncompiled step; called once in a process.
        """
        if self._eager_s is None:
            self._eager_s = measure()
        if missing_tool() is not None:
            return self.of("eager")
        times = self._on_record() or UNKNOWN
        is_compiled = self._compiled is not None
        won_s = times.seconds_won(num_steps=num_steps, eager_s=self._eager_s, is_compiled=is_compiled)
        if won_s <= 0:
            return self.of("eager")
        if not is_compiled:
            _LOG.info("the step is compiled: %d steps of %.3g s are ahead", num_steps, self._eager_s)
        return self.of("compile")

    def of(self, mode: Mode) -> Programs:
        """The programs of a training that goes on, in the mode that it has had."""
        if mode != "compile":
            return programs_in("eager", _CPU)
        if self._compiled is None:
            self._before_compiling()
            self._compiled = programs_in("compile", _CPU)
        return self._compiled

    def observe(self, mode: Mode, seconds: float) -> None:
        """Note the seconds that a step took. The first compiled steps of a process are measured and put on record."""
        if mode != "compile" or len(self._seconds) > _MEASURED_STEPS:
            return
        self._seconds.append(seconds)
        if len(self._seconds) > _MEASURED_STEPS and self._eager_s is not None:
            first, *others = self._seconds
            step_s = sorted(others)[len(others) // 2]
            self._put_on_record(
                CompileTimes(compile_s=max(0.0, first - step_s), eager_s=self._eager_s, compiled_s=step_s)
            )

    def _on_record(self) -> CompileTimes | None:
        try:
            document = parse_json(read_whole(self._path))
        except (OSError, StorageError, ValueError):  # There is none, or none that can be read: only time is lost.
            return None
        names = [field.name for field in dataclasses.fields(CompileTimes)]
        if not isinstance(document, dict) or document.keys() != set(names):
            return None
        numbers = [document[name] for name in names]
        if not all(isinstance(number, (int, float)) and math.isfinite(number) and number >= 0 for number in numbers):
            return None
        return CompileTimes(**document) if document["eager_s"] > 0 else None

    def _put_on_record(self, times: CompileTimes) -> None:
        try:
            write_whole(self._path, strict_json(dataclasses.asdict(times)), "\n")
        except StorageError as exc:
            _LOG.warning("what compiling took is not kept: %s", exc)
            return
        words = "compiling took %.0f s; a step takes %.3g s, as it was %.3g s"
        _LOG.info(words, times.compile_s, times.compiled_s, times.eager_s)
