"""What learns: the networks of a model, a batch at a time. All forwards, then all losses, then all updates."""

from collections.abc import Hashable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from kdhpc.config.schema import TrainingConfig
from kdhpc.errors import CheckpointError
from kdhpc.training.batches import EvalSource, ImageBatch
from kdhpc.training.compile import Programs
from kdhpc.training.counters import BatchCounters
from kdhpc.training.evaluation import Accuracies, NotFinite, Prediction, predictions, top1_accuracies
from kdhpc.training.model import AnyModel, Trainable
from kdhpc.training.node_trainer import NodeState, NodeTrainer
from kdhpc.training.schedule import ScheduleStep, learning_rate
from kdhpc.training.varying import overwritten


class Learner:
    """Trains the M networks of a model, each with an optimiser of its own.

    Args:
        model: Networks, losses, prediction.
        training: Optimiser and schedule.
    """

    def __init__(self, model: AnyModel, training: TrainingConfig) -> None:
        self.model = model
        self._training = training
        self._pool = [
            NodeTrainer(
                network,
                training,
                groups=None if model.weight_groups is None else model.weight_groups[index],
                scale_loss=self.scales_loss,
                capturable=model.programs.records,
            )
            for index, network in enumerate(model.pool)
        ]
        self._counters = BatchCounters(model.pool)
        self._settle()
        self._ones_M = torch.ones(self.num_losses, device=model.runtime.device)

    def restart(self, method: Trainable, seed: int) -> None:
        """Become, in the same memory, what a new learner of that method and seed would be.

        Args:
            method: Of the same kind, with networks of the same shapes.
            seed: Initial weights follow from it.
        """
        self.model.choose(method)
        self._settle()
        for node, weights in zip(self._nodes, self.model.fresh_weights(seed), strict=True):
            node.restart(weights)
        self.model.become(method)
        self._settle()

    @property
    def num_losses(self) -> int:
        """M."""
        return len(self.model.networks)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """What learns."""
        return self.model.networks

    @property
    def kept_networks(self) -> tuple[nn.Module, ...]:
        """What is kept of them when training ends."""
        return self.model.kept_networks

    @property
    def programs(self) -> Programs:
        """What computes a step."""
        return self.model.programs

    def use(self, programs: Programs) -> None:
        """Compute steps by these from now on; either all or none of the programs used are recorded."""
        self.model.use(programs)

    @property
    def replay_key(self) -> Hashable:
        """Cache key: everything in a step that is not the value of a tensor."""
        return self.model.frozen, self.model.active

    def step(self, batch: ImageBatch, schedule: ScheduleStep) -> Tensor:
        """`set_schedule` and `learn`."""
        self.set_schedule(schedule)
        return self.learn(batch)

    def set_schedule(self, step: ScheduleStep) -> None:
        """Tell the next `learn` where it stands."""
        self.model.set_schedule(step)
        for node in self._nodes:
            node.set_learning_rate(learning_rate(self._training, step))

    @contextmanager
    def varied(self) -> Iterator[None]:
        """Within it, all that a step reads beside its batch and the state has other values: rate, ramp, graph.

        They are so different that a step which still uses the usual values of any of them comes to other results.
        """
        untaught_MG = self.model.untaught_MG.clone()
        if self.model.weight_groups is not None:
            for m in self._learning()[:1]:  # One group of one node: the others still move.
                untaught_MG[m, -1] = 1 - untaught_MG[m, -1]
        with ExitStack() as stack:
            for node in self._nodes:
                stack.enter_context(node.varied())
            stack.enter_context(overwritten(*self.model.varied(), (self.model.untaught_MG, untaught_MG)))
            yield

    def learn(self, batch: ImageBatch) -> Tensor:
        """Learn the batch. Returns each network's loss before the update, (M,), on the device, detached.

        Nothing waits for the host, and all tensors that outlast the step stay where they are.
        """
        loss_M = self.model.losses(batch)
        learning = self._learning()
        # One backward pass: a node's loss reaches no other node.
        if learning and self.scales_loss:
            losses = loss_M.unbind()
            torch.autograd.backward([self._nodes[m].loss_to_differentiate(losses[m]) for m in learning])
        elif learning:
            torch.autograd.backward([loss_M], [self._ones_M])
        # Weights that nothing teaches stay as they are, and all of a node whose loss is zero.
        skip_MG = torch.maximum((loss_M.detach() == 0).float().unsqueeze(1), self.model.untaught_MG)
        for m in learning:
            self._nodes[m].update(skip_MG[m])
        self._counters.count()
        return loss_M.detach()

    def evaluate(self, source: EvalSource) -> Accuracies | NotFinite:
        """Top-1 accuracies of the nodes and of their ensemble in evaluation mode, if all logits are finite."""
        with self._evaluating():
            return top1_accuracies(self.model.predict, source)

    def predictions(self, source: EvalSource) -> Iterator[tuple[Prediction, Tensor]]:
        """The logits of each batch in evaluation mode, and its labels, (N,)."""
        with self._evaluating():
            yield from predictions(self.model.predict, source)

    @property
    def scales_loss(self) -> bool:
        """Whether the loss is scaled (fp16), so that a step may overflow and is left out then."""
        return self.model.runtime.scales_loss

    def are_finite(self) -> Tensor:
        """Whether all weights, statistics and momenta of each network are, (M,), bool, on the device."""
        return torch.stack([node.is_finite() for node in self._nodes])

    def state(self) -> tuple[NodeState, ...]:
        """A copy of all that moves, on the CPU."""
        return tuple(node.state() for node in self._nodes)

    def restore(self, states: tuple[NodeState, ...]) -> None:
        """Become that state.

        Raises:
            CheckpointError: it is of another training; nothing has changed.
        """
        if len(states) != len(self._nodes):
            ours = "a single one" if len(self._nodes) == 1 else str(len(self._nodes))
            raise CheckpointError(f"the checkpoint holds {len(states)} networks, this training has {ours}")
        for node, state in zip(self._nodes, states, strict=True):
            node.check(state)
        for node, state in zip(self._nodes, states, strict=True):
            node.restore(state)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        for network in self.networks:
            network.eval()
        try:
            yield
        finally:
            for index, network in enumerate(self.networks):
                network.train(index not in self._still)

    @property
    def _still(self) -> tuple[int, ...]:
        """The networks whose statistics stay."""
        return () if self.model.frozen_train else self.model.frozen

    def _learning(self) -> list[int]:
        """The networks that learn."""
        return [index for index in range(len(self._nodes)) if index not in self.model.frozen]

    def _settle(self) -> None:
        """Know which networks of the pool learn."""
        active = self.model.active
        self._nodes = [self._pool[index] for index in active]
        moving = {active[index] for index in range(len(active)) if index not in self._still}
        self._counters.freeze([index for index in range(len(self._pool)) if index not in moving])
