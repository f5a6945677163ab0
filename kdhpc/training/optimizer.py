"""Optimisers that leave weights as they are where a tensor says so: for a zero loss, and for weights untaught."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from kdhpc.config.schema import TrainingConfig


class _Skips(torch.optim.Optimizer):
    """A fused optimiser, which a tensor on the device can tell to leave groups of weights as they are.

    A zero gradient is not enough for that: weight decay and momentum would still move the weights. Where ``found_inf``
    (the attribute by which a `torch.amp.GradScaler` reports an overflow) is 1, the fused kernels touch neither weights
    nor what the optimiser remembers, and steps that are counted are not. No step waits for the host to look at a loss.

    Source: the authors' code skips the optimiser where a node's loss is 0, and weights without a loss.
    """

    skip: Tensor
    """float32, (groups,) or a scalar for all of them: 1 to leave a group's weights and state as they are, 0 to step."""
    found_inf: Tensor
    """float32 scalar: the same, as the fused kernel expects it and as a GradScaler sets it."""
    _rate: float

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the weights of each group unless its ``skip``, or the overflow that a GradScaler found, is 1."""
        overflow: Tensor | None = getattr(self, "found_inf", None)
        groups, loss = self.param_groups, None
        skip_G = self.skip.expand(len(groups))
        if overflow is not None:
            skip_G = torch.maximum(skip_G, overflow)
        try:
            for group, skip in zip(groups, skip_G.unbind(), strict=True):
                self.param_groups, self.found_inf = [group], skip
                loss = super().step(closure)
        finally:
            self.param_groups = groups
            if overflow is None:
                del self.found_inf  # A GradScaler deletes its own.
        return loss

    @property
    def learning_rate(self) -> float:
        """Of the next steps."""
        return self._rate

    def set_learning_rate(self, rate: float) -> None:
        """Of the next steps."""
        if rate == self._rate:  # Nearly always, unless it changes at every step: nothing is launched for it.
            return
        self._rate = rate
        for group in self.param_groups:
            if isinstance(group["lr"], Tensor):  # All groups share it.
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _keep_rate(self, rate: float, *, in_tensor: bool) -> None:
        """Begin with that learning rate."""
        self._rate = rate
        if in_tensor:
            shared = torch.tensor(rate, device=self.param_groups[0]["params"][0].device)
            for group in self.param_groups:
                group["lr"] = shared


class ZeroLossSGD(_Skips, torch.optim.SGD):
    """Fused SGD, with momentum or Nesterov's, that skips.

    Args:
        network: Whose weights.
        config: Learning rate, momentum, weight decay.
        groups: All of its weights by name, in the groups that ``skip`` tells apart; None: a single group.
        capturable: Keep the learning rate in a tensor, where a recorded step reads it. On CUDA it always is one:
            the fused kernel takes a float32 from a tensor and a float64 as a number, and all modes must agree.
    """

    def __init__(
        self,
        network: nn.Module,
        config: TrainingConfig,
        *,
        groups: Sequence[Sequence[str]] | None = None,
        capturable: bool = False,
    ) -> None:
        super().__init__(
            _in_groups(network, groups),
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
            fused=True,
        )
        self._keep_rate(config.learning_rate, in_tensor=capturable or _is_on_cuda(network))
        if config.momentum:
            # Of zeros, the first step makes the gradient, as SGD does. SGD's own would be left uninitialised by a skip.
            for parameter in network.parameters():
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


class ZeroLossAdamW(_Skips, torch.optim.AdamW):
    """Fused AdamW that skips: steps that are skipped do not count in the correction of its means either.

    Args:
        network: Whose weights.
        config: Learning rate, betas, eps, weight decay.
        groups: As those of `ZeroLossSGD`.
        capturable: As that of `ZeroLossSGD`.

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization" (https://arxiv.org/abs/1711.05101),
    algorithm 2, as torch computes it: the decay is multiplied by the learning rate.
    """

    def __init__(
        self,
        network: nn.Module,
        config: TrainingConfig,
        *,
        groups: Sequence[Sequence[str]] | None = None,
        capturable: bool = False,
    ) -> None:
        super().__init__(
            _in_groups(network, groups),
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
            capturable=capturable,
        )
        self._keep_rate(config.learning_rate, in_tensor=capturable or _is_on_cuda(network))
        for parameter in network.parameters():  # AdamW's own come with the first gradient, too late for a checkpoint.
            self.state[parameter] |= {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


ZeroLossOptimizer: TypeAlias = ZeroLossSGD | ZeroLossAdamW


def optimizer_of(
    network: nn.Module,
    config: TrainingConfig,
    *,
    groups: Sequence[Sequence[str]] | None = None,
    capturable: bool = False,
) -> ZeroLossOptimizer:
    """The optimiser that a config chooses; see `ZeroLossSGD` for the arguments."""
    kind = ZeroLossAdamW if config.optimizer == "adamw" else ZeroLossSGD
    return kind(network, config, groups=groups, capturable=capturable)


def _in_groups(network: nn.Module, groups: Sequence[Sequence[str]] | None) -> list[dict[str, object]]:
    """A network's weights as torch's optimisers take them."""
    parameters = dict(network.named_parameters())
    groups = [tuple(parameters)] if groups is None else groups
    assert sorted(name for group in groups for name in group) == sorted(parameters), "each weight is in one group"
    return [{"params": [parameters[name] for name in group]} for group in groups]


def _is_on_cuda(network: nn.Module) -> bool:
    return next(network.parameters()).device.type == "cuda"
