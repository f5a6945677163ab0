"""A short run has the losses that it always had, in every mode: a change that should not change numbers has not.
(Inductor's own numbers are compared by ``tests/searching/test_modes.py``, as compiling takes it minutes.)

The table is from a CPU, float32, eager, one thread. Other processors sum up in another order, which grows from step to
step: within 1 % it is the same run, and what changes the method changes more than that in the first steps.
"""

import numpy as np
import pytest
import torch

from kdhpc.config.schema import NetworkConfig
from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec
from kdhpc.training.compile import programs
from kdhpc.training.schedule import ScheduleStep
from kdhpc.training.step import TrainingStep
from tests.methods.test_graph import learner_of
from tests.training.memory_source import MemoryTrain
from tests.training.test_recording import Recordings

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

_EDGES = (
    (0, 1, "prob+att+", "through"), (0, 2, "att-", "linear"), (1, 0, "prob-", "correct"),
    (1, 2, "prob-att-", "through"), (2, 0, "att+", "linear"), (2, 1, "prob+", "cutoff"),
)  # fmt: skip
GRAPH = GraphSpec(
    label_gates=(Gate.THROUGH, Gate.LINEAR, Gate.THROUGH),
    edges=tuple(
        DistillationEdge(source=source, target=target, design=Design(design), gate=Gate(gate))
        for source, target, design, gate in _EDGES
    ),
)
REFERENCE = {
    "resnet8": [
        [2.01595, 0.16136, 3.30472],
        [1.81251, 0.25234, 3.70523],
        [1.62351, 0.46222, 3.47328],
        [2.08492, 0.60267, 4.01198],
        [1.56611, 0.60623, 3.5707],
        [1.41071, 1.05339, 3.98647],
    ],
    "abn_resnet8": [
        [2.77657, 0.35724, 4.99058],
        [2.83271, 0.54257, 5.14564],
        [2.80451, 0.78531, 4.88966],
        [3.19871, 1.02935, 5.41901],
        [3.01451, 1.36186, 4.88775],
        [2.59763, 1.72808, 4.9557],
    ],
}
"""By network: a row a step, a column a node."""
NETWORKS = {
    "resnet8": NetworkConfig(name="resnet8", crops=(1, 3)),
    "abn_resnet8": NetworkConfig(name="abn_resnet8", crops=(3, 5)),
}
TOLERANCE = 1e-2


def losses_of(network, *, backend=None, record=None):
    """(steps, M)."""
    learner = learner_of(GRAPH, network=NETWORKS[network], seed=7, backend=backend, record=record)
    train = MemoryTrain(num_images=24)
    step = TrainingStep(learner, lambda spec: learner.learn(train.make(spec)))
    losses = []
    for number, spec in enumerate(train.specs(seed=0, epoch=1), start=1):
        learner.set_schedule(ScheduleStep(epoch=1, step=number, num_steps=12))
        losses.append(step(spec).clone())
    return torch.stack(losses).numpy()


@pytest.mark.parametrize("network", list(NETWORKS))
def test_losses_of_a_short_run_are_those_of_the_table(network):
    np.testing.assert_allclose(losses_of(network), REFERENCE[network], rtol=TOLERANCE)


@pytest.mark.parametrize(
    ("network", "backend", "record"),
    [
        *((name, "aot_eager", None) for name in NETWORKS),
        *((name, "aot_eager", Recordings()) for name in NETWORKS),
    ],
)
def test_losses_of_a_short_run_are_the_same_in_every_mode(network, backend, record):
    torch._dynamo.reset()
    programs.cache_clear()
    losses = losses_of(network, backend=backend, record=record)
    assert programs(backend, record).mode == ("compile" if record is None else "cudagraph")
    np.testing.assert_allclose(losses, losses_of(network), rtol=1e-3)
