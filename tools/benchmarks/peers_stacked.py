"""All networks of an ensemble as one: by vmap, and by grouped convolutions. Losses and update are ours.

Both are what one thinks of first to run small networks at once; here they are peers, to know what they are worth.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from kdhpc.config.schema import TrainingConfig
from kdhpc.errors import NetworkError
from kdhpc.losses.coefficients import GraphCoefficients, all_terms
from kdhpc.losses.distillation import CropWindows
from kdhpc.losses.objective import EnsembleOutput, node_losses
from kdhpc.networks.backbone import SubsampleAndPad
from kdhpc.networks.build import Network
from kdhpc.networks.heads import PlainHead
from kdhpc.networks.output import NetworkOutput
from kdhpc.training.batches import ImageBatch
from kdhpc.training.compile_folder import keep_private


class Stacked(Protocol):
    """Networks that answer at once."""

    parameters: list[nn.Parameter]

    def __call__(self, images: Tensor) -> EnsembleOutput:
        """The answers of all networks."""
        ...


class StackedLoop:
    """A training step of networks that are stacked somehow.

    Args:
        stacked: From images to the answers of all networks.
        losses: From those, the labels and the ramp to the loss of each node.
        config: Of the one optimiser.
        autocast: Half precision of the networks; none: float32.
    """

    def __init__(
        self,
        stacked: Stacked,
        losses: Callable[[EnsembleOutput, Tensor, Tensor], Tensor],
        config: TrainingConfig,
        *,
        autocast: torch.dtype | None = None,
    ) -> None:
        self._stacked = stacked
        self._answer: Callable[[Tensor], EnsembleOutput] = stacked
        self._autocast = autocast
        self._ramp = torch.zeros((), device=stacked.parameters[0].device)
        self._losses = losses
        self._optimizer = torch.optim.SGD(
            stacked.parameters,
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def compile(self, backend: str) -> None:
        """Run as two compiled programs from now on: all networks, and the losses.

        Args:
            backend: Of torch.compile.
        """
        problem = keep_private()
        assert problem is None, problem
        self._answer = torch.compile(self._stacked.__call__, backend=backend, dynamic=False)
        self._losses = torch.compile(self._losses, backend=backend, dynamic=False)

    def step(self, batch: ImageBatch, ramp: float, learning_rate: float) -> Tensor:
        """Learn a batch; gives the losses before the update, (M,)."""
        self._ramp.fill_(ramp)
        with torch.autocast(batch.images.device.type, self._autocast, enabled=self._autocast is not None):
            output = self._answer(batch.images)
        losses = self._losses(output, batch.labels, self._ramp)
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.zero_grad()
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return losses.detach()


def graph_losses(
    coefficients: GraphCoefficients, windows: CropWindows
) -> Callable[[EnsembleOutput, Tensor, Tensor], Tensor]:
    """Our losses, for a graph that uses all terms."""
    terms = all_terms(2)
    return lambda output, labels, ramp: node_losses(output, labels, coefficients, windows, ramp, terms=terms)


class VmappedNetworks:
    """``torch.func.vmap`` over stacked weights.

    Args:
        networks: Of one architecture; copied.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._base = copy.deepcopy(networks[0]).to("meta")
        parameters, self._buffers = torch.func.stack_module_state(list(networks))
        self.parameters = [nn.Parameter(tensor.detach()) for tensor in parameters.values()]
        self._named: dict[str, Tensor] = dict(zip(parameters, self.parameters, strict=True))

    def __call__(self, images: Tensor) -> EnsembleOutput:
        """The answers of all networks, in training mode."""

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> NetworkOutput:
            output: NetworkOutput = torch.func.functional_call(self._base, (parameters, buffers), (images,))
            return output

        output = torch.func.vmap(one)(self._named, self._buffers)
        return EnsembleOutput(output.logits, output.attention_map, output.extra_hard_logits)


class GroupedNetworks:
    """Plain residual networks whose convolutions are one with a group for each network.

    Args:
        networks: Of one architecture; copied.

    Raises:
        NetworkError: they are attention branch networks, which would need more than grouped layers.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        heads = [network.head for network in networks]
        if not all(isinstance(head, PlainHead) for head in heads):
            raise NetworkError("only plain residual networks can be grouped")
        self._num = len(networks)
        self._lower = _grouped([network.lower for network in networks])
        self._layer4 = _grouped([head.layer4 for head in heads])
        self._weight_MCD = nn.Parameter(torch.stack([head.fc.weight.detach() for head in heads]))
        self._bias_MC = nn.Parameter(torch.stack([head.fc.bias.detach() for head in heads]))
        self.parameters = [
            *self._lower.parameters(), *self._layer4.parameters(), self._weight_MCD, self._bias_MC
        ]  # fmt: skip

    def __call__(self, images: Tensor) -> EnsembleOutput:
        """The answers of all networks, in training mode."""
        features = self._layer4(self._lower(images.repeat(1, self._num, 1, 1)))
        features_NMDHW = features.reshape(len(features), self._num, -1, *features.shape[2:])
        pooled_MND = features_NMDHW.mean(dim=(3, 4)).transpose(0, 1)
        logits_MNC = torch.baddbmm(self._bias_MC.unsqueeze(1), pooled_MND, self._weight_MCD.mT)
        return EnsembleOutput(logits_MNC, features_NMDHW.float().square().mean(dim=2).transpose(0, 1))


class _GroupedSubsampleAndPad(nn.Module):
    """The shortcut without parameters, group by group."""

    def __init__(self, shortcut: SubsampleAndPad, num_groups: int) -> None:
        super().__init__()
        self._shortcut = shortcut
        self._num_groups = num_groups

    def forward(self, features: Tensor) -> Tensor:
        num = features.shape[0]
        num_channels = features.shape[1] // self._num_groups
        apart = features.reshape(num * self._num_groups, num_channels, *features.shape[2:])
        shortcut: Tensor = self._shortcut(apart)
        return shortcut.reshape(num, -1, *shortcut.shape[2:])


def _grouped(modules: Sequence[nn.Module]) -> nn.Module:
    """One module that does what these do, each on its group of channels."""
    first, num = modules[0], len(modules)
    if isinstance(first, SubsampleAndPad):
        return _GroupedSubsampleAndPad(first, num)
    merged: nn.Module
    if isinstance(first, nn.Conv2d):
        assert isinstance(first.padding, tuple)
        merged = nn.Conv2d(
            num * first.in_channels,
            num * first.out_channels,
            first.kernel_size,  # type: ignore[arg-type]
            first.stride,  # type: ignore[arg-type]
            first.padding,  # type: ignore[arg-type]
            groups=num * first.groups,
            bias=False,
        )
    elif isinstance(first, nn.BatchNorm2d):
        merged = nn.BatchNorm2d(num * first.num_features, first.eps, first.momentum)
    else:
        merged = copy.deepcopy(first)
        for name, _ in first.named_children():
            setattr(merged, name, _grouped([module.get_submodule(name) for module in modules]))
        return merged
    for name, parameter in merged.named_parameters():
        parameter.data = torch.cat([module.get_parameter(name).detach() for module in modules])
    return merged.to(next(first.parameters()).device)


def stacked_loop(
    networks: Sequence[Network],
    stack: Callable[[Sequence[Network]], Stacked],
    config: TrainingConfig,
    coefficients: GraphCoefficients,
    windows: CropWindows,
    *,
    autocast: torch.dtype | None = None,
) -> StackedLoop:
    """A loop of networks that ``stack`` puts together."""
    return StackedLoop(stack(networks), graph_losses(coefficients, windows), config, autocast=autocast)
