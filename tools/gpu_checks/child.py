"""The process that runs the checks of one part, and says on its standard output what came of each.

See supervisor.py, which starts it.
"""

import dataclasses
import fnmatch
import gc
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from kdhpc.errors import ConfigError
from tools.gpu_checks.check import NOTE, CannotRunError, Check, DiffersError, Numbers, Scale, scale_for
from tools.gpu_checks.rows import Cell, Outcome, Row
from tools.gpu_checks.wheels import MODULES

_DETAIL_LENGTH = 400


def main() -> int:
    """Run the checks that are not done yet.

    Returns:
        0: all are done; 1: this process cannot go on, and another one may.
    """
    work = json.loads(sys.argv[1])
    talk = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # Nothing else is to come between the lines.
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        scale = _prepare(work)
        checks = [check for check in plan(work, scale) if _is_wanted(check.name, work["only"])]
        _say(talk, {"machine": machine(), "plan": [{"name": check.name, "limit_s": check.limit_s} for check in checks]})
    except Exception as exc:
        outcome, detail = _told(exc)
        _say(talk, {"plan": [{"name": "start", "limit_s": 60}], "row": _row(work["part"], "start", outcome, detail)})
        return 0
    for check in checks:
        if check.name in work["done"]:
            continue
        _say(talk, {"begin": check.name})
        row = run_check(work["part"], check)
        _say(talk, {"row": dataclasses.asdict(row)})
        if not _can_go_on():
            os._exit(1)  # Ending in order would wait for a device that does not answer.
    return 0


def run_check(part: str, check: Check) -> Row:
    """One check, whatever it raises."""
    began = time.monotonic()
    outcome: Outcome = "failed"
    numbers: Numbers = {}
    try:
        numbers = check.run()
        outcome, detail = "passed", str(numbers.pop(NOTE, ""))
    except Exception as exc:
        outcome, detail = _told(exc)
    row = Row(**_row(part, check.name, outcome, detail, time.monotonic() - began, numbers))
    forget(broken=outcome == "failed", measured=part == "speed")
    return row


def plan(work: dict[str, Any], scale: Scale) -> Iterator[Check]:
    """The checks of a part, most important first."""
    scratch = Path(work["scratch"])
    if work["part"] == "correctness":
        from tools.gpu_checks import conditions, numerics, recordings, side_by_side

        yield from numerics.checks(scale)
        yield from recordings.checks(scale)
        yield from side_by_side.checks(scale, scratch)
        yield from conditions.checks(scale)
        yield from recordings.more_checks(scale, scratch)
        yield from numerics.compiled_checks(scale)
    elif work["part"] == "speed":
        from tools.gpu_checks import floor, speed

        floors = [network for network in scale.speed_networks if _is_wanted(f"{network}: floor", work["only"])]
        if not scale.cpu:
            floor.begin_floors(scale, floors, scratch / "floors")
        yield from speed.checks(scale, scratch)
    else:
        from tools.gpu_checks import search

        yield from search.checks(scale, time.monotonic() + work["seconds"])


def machine() -> dict[str, Cell]:
    """The card, and the versions of what was checked."""
    import torch
    import torchvision

    found: dict[str, Cell] = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        found |= {
            "card": torch.cuda.get_device_name(),
            "compute capability": f"{major}.{minor}",
            "memory_gb": torch.cuda.get_device_properties(0).total_memory / 2**30,
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    found["cores"] = len(os.sched_getaffinity(0))
    return found


def forget(*, broken: bool, measured: bool) -> None:
    """Let go what a check has left.

    Args:
        broken: It failed: all that was compiled is forgotten.
        measured: It is no failure of such a check that compiling or recording failed: that is forgotten.
    """
    import torch

    from kdhpc.training.compile import programs

    if broken or measured:
        programs.cache_clear()
    if broken:
        torch._dynamo.reset()
    gc.collect()
    try:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    except RuntimeError:  # The next look at the device says so.
        return


def _prepare(work: dict[str, Any]) -> Scale:
    import torch

    from tools.gpu_checks.setting import compute_in

    if work["cpu"]:
        torch.set_num_threads(1)
    elif not torch.cuda.is_available():
        raise ConfigError("a GPU is needed, and torch sees none: run it in a job that has one, or give --cpu")
    compute_in("float32")
    os.environ["KDHPC_RUNS"] = str(Path(work["scratch"]) / "runs")
    os.environ["KDHPC_DATA"] = str(Path(work["scratch"]) / "data")
    scale = scale_for(cpu=work["cpu"], compiles=work["compiles"])
    return dataclasses.replace(scale, speed_networks=tuple(work["networks"] or scale.speed_networks))


def _is_wanted(name: str, patterns: list[str]) -> bool:
    return not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _told(exc: Exception) -> tuple[Outcome, str]:
    """What a check that ended by that has come to."""
    words = " ".join(str(exc).split())[:_DETAIL_LENGTH]
    if isinstance(exc, ModuleNotFoundError) and (exc.name or "").partition(".")[0] in MODULES:
        return "not run", f"the package of the module {exc.name} is not here: see --wheels and --site"
    if isinstance(exc, CannotRunError):
        return "not run", words
    if isinstance(exc, (DiffersError, ConfigError)):
        return "failed", words
    logging.getLogger(__name__).error("a check ended by an error", exc_info=exc)
    return "failed", f"{type(exc).__name__}: {words}"


def _row(
    part: str, check: str, outcome: Outcome, detail: str, seconds: float = 0.0, numbers: Numbers | None = None
) -> dict[str, Any]:
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in (numbers or {}).items()
    }
    return {
        "part": part, "check": check, "outcome": outcome, "detail": detail, "seconds": seconds, "numbers": finite,
    }  # fmt: skip


def _can_go_on() -> bool:
    """Whether the device still does what it is told, in a new capture, too."""
    import torch

    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").add_(1).item()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def _say(talk: TextIO, message: dict[str, Any]) -> None:
    talk.write(json.dumps(message) + "\n")
    talk.flush()


if __name__ == "__main__":
    sys.exit(main())
