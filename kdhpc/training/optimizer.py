"""SGD that leaves weights as they are where a tensor says so: for a zero loss, and for weights that nothing teaches."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdhpc.config.schema import TrainingConfig


class ZeroLossSGD(torch.optim.SGD):
    """Fused SGD with momentum, which a tensor on the device can tell to leave groups of weights as they are.

    A zero gradient is not enough for that: weight decay and momentum would still move the weights. Where ``found_inf``
    (the attribute by which a `torch.amp.GradScaler` reports an overflow) is 1, the fused kernel touches neither weights
    nor momentum, and no step waits for the host to look at a loss.

    Source: the authors' code skips the optimiser where a node's loss is 0, and weights without a loss.
    """

    skip: Tensor
    """float32, (groups,) or a scalar for all of them: 1 to leave a group's weights and momentum as they are, 0 to
    step."""
    found_inf: Tensor
    """float32 scalar: the same, as the fused kernel expects it and as a GradScaler sets it."""

    def __init__(
        self,
        network: nn.Module,
        config: TrainingConfig,
        *,
        groups: Sequence[Sequence[str]] | None = None,
        capturable: bool = False,
    ) -> None:
        """Make it.

        Args:
            network: Whose weights.
            config: Learning rate, momentum, weight decay.
            groups: All of its weights by name, in the groups that ``skip`` tells apart; None: a single group.
            capturable: Keep the learning rate in a tensor, where a recorded step reads it. On CUDA it always is one:
                the fused kernel takes a float32 from a tensor and a float64 as a number, and all modes must agree.
        """
        parameters = dict(network.named_parameters())
        device = next(iter(parameters.values())).device
        groups = [tuple(parameters)] if groups is None else groups
        assert sorted(name for group in groups for name in group) == sorted(parameters), "each weight is in one group"
        super().__init__(
            [{"params": [parameters[name] for name in group]} for group in groups],
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._rate = config.learning_rate
        if capturable or device.type == "cuda":
            rate = torch.tensor(config.learning_rate, device=device)
            for group in self.param_groups:
                group["lr"] = rate
        if config.momentum:
            # Of zeros, the first step makes the gradient, as SGD does. SGD's own would be left uninitialised by a skip.
            for parameter in parameters.values():
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

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
        if rate == self._rate:  # Nearly always: nothing is launched for it.
            return
        self._rate = rate
        for group in self.param_groups:
            if isinstance(group["lr"], Tensor):  # All groups share it.
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
