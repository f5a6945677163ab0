"""A check, how much of everything it takes, and what may come of it."""

from collections.abc import Callable
from dataclasses import dataclass

from tools.gpu_checks.rows import Cell

Numbers = dict[str, Cell]
"""What a check measured."""
NOTE = "note"
"""Among the numbers: not a number, but what should be known of a check that passed."""


class DiffersError(Exception):
    """The check failed; the message says what differed."""


class CannotRunError(Exception):
    """The check cannot be run here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check."""

    name: str
    """Of the row."""
    run: Callable[[], Numbers]
    """Returns what it measured; raises `DiffersError` or `CannotRunError`. Any other exception is a failure, too."""
    limit_s: float = 150.0
    """Longest time that it may take."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything."""

    cpu: bool
    """On a CPU, where something that repeats a step's work stands for CUDA graphs."""
    compiles: bool
    """Whether torch.compile is used."""
    networks: tuple[str, ...]
    """Whose losses and steps are compared with float64."""
    step_networks: tuple[str, ...]
    """Whose steps are recorded."""
    node_counts: tuple[int, ...]
    """Each M for which losses are compared."""
    num_nodes: int
    """M elsewhere."""
    batch_size: int
    """N."""
    small_px: int
    """S of CIFAR's networks, in pixels."""
    large_px: int
    """S of ImageNet's networks, in pixels."""
    num_graphs: int
    """Random graphs that must not make torch.compile compile again."""
    speed_networks: tuple[str, ...]
    """Of the part speed."""
    num_steps: int
    """Timed steps, each time."""
    num_trials: int
    """Of the search."""
    search_images: int
    """Of the search, to learn and to score."""
    parity_images: int
    """Of the comparison of precisions, to learn and to score."""

    @property
    def backend(self) -> str | None:
        """Of torch.compile. On a CPU one that compiles no C++, which would take minutes."""
        if not self.compiles:
            return None
        return "aot_eager" if self.cpu else "inductor"


def scale_for(*, cpu: bool, compiles: bool) -> Scale:
    """The usual one."""
    networks = ("resnet20", "abn_resnet20", "abn_resnet18")
    if cpu:
        return Scale(
            cpu=True, compiles=compiles, networks=networks, step_networks=("resnet8", "abn_resnet8"),
            node_counts=(2, 3, 4, 5), num_nodes=2, batch_size=2,
            small_px=16, large_px=64, num_graphs=50, speed_networks=("resnet8", "abn_resnet8"), num_steps=2,
            num_trials=16, search_images=64, parity_images=96,
        )  # fmt: skip
    return Scale(
        cpu=False, compiles=compiles, networks=networks, step_networks=networks,
            node_counts=(2, 3, 4, 5), num_nodes=4, batch_size=16,
        small_px=32, large_px=224, num_graphs=50,
        speed_networks=("resnet20", "abn_resnet18", "resnet18", "abn_resnet20"), num_steps=200,
        num_trials=16, search_images=8_000, parity_images=8_000,
    )  # fmt: skip
