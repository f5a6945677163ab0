"""Which defaults follow from the table: the rule that docs/performance.md states, as code.

This module imports no torch.
"""

from collections.abc import Iterator, Sequence

from tools.gpu_checks.rows import Row

WORTHWHILE = 1.05
"""Times as many steps a second that a lever must make to become the default."""
WORTHWHILE_STACKED = 1.25
"""The same of stacked networks, which would be a mode of its own, and none for attention branch networks."""
DECIDING = ("resnet20", "abn_resnet18")
"""Networks on which a lever is judged: the smallest, and the paper's own."""
LEVERS: dict[str, tuple[str, str]] = {
    "node streams": ("cudagraph", "device.node_streams=true"),
    "cudnn.benchmark": ("cudagraph", "device.cudnn_benchmark=true"),
    "not combined": ("cudagraph", "device.combine=false"),
    "4 trials, CUDA_DEVICE_MAX_CONNECTIONS=32": (
        "4 trials, a process of their own",
        "CUDA_DEVICE_MAX_CONNECTIONS=32 in the environment of workers",
    ),
}
"""Each lever's check, the check that it is compared with, and what would become the default."""
_STACKED = "stacked networks, compiled and recorded"


def over_floors(rows: Sequence[Row]) -> Iterator[Row]:
    """A row for each network whose floor is known: what its recorded step takes longer than that."""
    measured = {row.check: row.numbers for row in rows if row.part == "speed" and row.outcome == "passed"}
    for check, numbers in measured.items():
        network, _, name = check.partition(": ")
        step = measured.get(f"{network}: cudagraph", {})
        if name == "floor" and step.get("step_ms") and step.get("again_ms") and numbers.get("floor_ms"):
            step_ms = min(float(step["step_ms"] or 0), float(step["again_ms"] or 0))
            floor_ms = float(numbers["floor_ms"] or 0)
            found = {"step_ms": step_ms, "floor_ms": floor_ms, "over_floor_ms": step_ms - floor_ms}
            yield Row(part="speed", check=f"{network}: over the floor", outcome="passed", numbers={**found})


def verdicts(rows: Sequence[Row]) -> Iterator[Row]:
    """A row for each lever that was measured."""
    times = {
        row.check: (float(row.numbers["step_ms"] or 0), float(row.numbers["again_ms"] or 0))
        for row in rows
        if row.part == "speed" and row.outcome == "passed" and row.numbers.get("step_ms") and "again_ms" in row.numbers
    }
    for lever, (usual, default) in LEVERS.items():
        ratios = {
            network: gain(times[f"{network}: {usual}"], times[f"{network}: {lever}"])
            for network in DECIDING
            if f"{network}: {usual}" in times and f"{network}: {lever}" in times
        }
        yield from _verdict(lever, ratios, DECIDING, WORTHWHILE, default)
    ratios = {}
    usual, stacked = f"{DECIDING[0]}: cudagraph, images ready", f"{DECIDING[0]}: {_STACKED}"
    if usual in times and stacked in times:
        ratios[DECIDING[0]] = gain(times[usual], times[stacked])
    yield from _verdict(_STACKED, ratios, DECIDING[:1], WORTHWHILE_STACKED, "a mode for plain residual networks")


def gain(usual: tuple[float, float], lever: tuple[float, float]) -> float:
    """How many times faster a lever makes a step, noise against it: its slower time against the usual's faster one."""
    return min(usual) / max(lever)


def _verdict(
    lever: str, ratios: dict[str, float], networks: Sequence[str], worthwhile: float, default: str
) -> Iterator[Row]:
    if not ratios:
        return
    missing = [network for network in networks if network not in ratios]
    if missing:
        decision = f"undecided: not measured on {', '.join(missing)}"
    elif all(ratio >= worthwhile for ratio in ratios.values()):
        decision = f"becomes the default: {default}"
    else:
        decision = f"stays off: every network must gain {worthwhile:g} times"
    yield Row(
        part="speed",
        check=f"rule: {lever}",
        outcome="passed",
        detail=decision,
        numbers={f"{network}, times faster": ratio for network, ratio in ratios.items()},
    )
