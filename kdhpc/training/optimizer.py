"""SGD that takes no step at all for a node whose loss is exactly zero."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdhpc.config.schema import TrainingConfig


class ZeroLossSGD(torch.optim.SGD):
    """Fused SGD with momentum, which a tensor on the device can tell to leave everything as it is.

    A zero gradient is not enough for that: weight decay and momentum would still move the weights. Where ``found_inf``
    (the attribute by which a `torch.amp.GradScaler` reports an overflow) is 1, the fused kernel touches neither weights
    nor momentum, and no step waits for the host to look at a loss.

    Source: the authors' code skips the optimiser where a node's loss is 0.
    """

    skip: Tensor
    """float32 scalar: 1 to leave everything as it is, 0 to step."""
    found_inf: Tensor
    """float32 scalar: the same, as the fused kernel expects it and as a GradScaler sets it."""

    def __init__(self, network: nn.Module, config: TrainingConfig, *, capturable: bool = False) -> None:
        """Make it.

        Args:
            network: Whose weights.
            config: Learning rate, momentum, weight decay.
            capturable: Keep the learning rate on the device, where a recorded step reads it.
        """
        parameters = list(network.parameters())
        super().__init__(
            parameters,
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._rate = config.learning_rate
        if capturable:
            self.param_groups[0]["lr"] = torch.tensor(config.learning_rate, device=parameters[0].device)
        if config.momentum:
            # Of zeros, the first step makes the gradient, as SGD does. SGD's own would be left uninitialised by a skip.
            for parameter in parameters:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the weights unless ``skip``, or the overflow that a GradScaler found, is 1."""
        overflow: Tensor | None = getattr(self, "found_inf", None)
        self.found_inf = self.skip if overflow is None else torch.maximum(self.skip, overflow)
        try:
            loss: float | None = super().step(closure)
        finally:
            if overflow is None:
                del self.found_inf  # A GradScaler deletes its own.
        return loss

    def set_learning_rate(self, rate: float) -> None:
        """Of the next steps."""
        if rate == self._rate:  # Nearly always: nothing is launched for it.
            return
        self._rate = rate
        for group in self.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
