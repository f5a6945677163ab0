"""The network of ONE, a baseline: several branches on shared lower stages, and a gate that weights the branches."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import NetworkError
from kdhpc.networks.backbone import initialise
from kdhpc.networks.build import make_backbone, make_head
from kdhpc.networks.heads import AttentionBranchHead, PlainHead
from kdhpc.networks.names import architecture
from kdhpc.networks.output import NetworkOutput


class OneOutput(NamedTuple):
    """The logits of the branches and of their gated ensemble for one batch."""

    branch_logits_BNC: Tensor
    """(B, N, C): the logits of each branch."""
    ensemble_logits_NC: Tensor
    """(N, C): the sum of the branches' logits, weighted by the gate."""
    extra_hard_logits_BNC: tuple[Tensor, ...] = ()
    """(B, N, C) each: the logits of further classifiers of the branches, such as attention branches."""


class OneNetwork(nn.Module):
    """Shared lower stages, B heads, and a gate that weights the heads for each sample.

    Source: Lan et al., "Knowledge distillation by on-the-fly native ensemble" (paper reference 16).
    """

    def __init__(self, lower: nn.Module, heads: list[PlainHead | AttentionBranchHead], lower_channels: int) -> None:
        super().__init__()
        self.lower = lower
        self.heads = nn.ModuleList(heads)
        self.gate = nn.Sequential(
            nn.Linear(lower_channels, len(heads)), nn.BatchNorm1d(len(heads)), nn.ReLU(inplace=True), nn.Softmax(dim=1)
        )

    def forward(self, images: Tensor) -> OneOutput:
        """The output for images (N, 3, S, S)."""
        shared = self.lower(images)
        outputs: list[NetworkOutput] = [head(shared) for head in self.heads]
        branch_logits_BNC = torch.stack([output.logits for output in outputs])
        weights_NB = self.gate(shared.mean(dim=(2, 3)))
        ensemble_logits_NC = (weights_NB.T.unsqueeze(2) * branch_logits_BNC).sum(dim=0)
        extra = zip(*(output.extra_hard_logits for output in outputs), strict=True)
        return OneOutput(branch_logits_BNC, ensemble_logits_NC, tuple(torch.stack(logits) for logits in extra))


class GatedOneNetwork(OneNetwork):
    """The same, as a single network: its output is the ensemble's. It gives no attention map, but a single pixel."""

    def forward(self, images: Tensor) -> NetworkOutput:  # type: ignore[override]
        """The output for images (N, 3, S, S)."""
        logits_NC = super().forward(images).ensemble_logits_NC
        return NetworkOutput(logits_NC, logits_NC.new_ones(len(logits_NC), 1, 1, dtype=torch.float32))


def build_one(
    config: NetworkConfig, *, num_branches: int, num_classes: int, kind: type[OneNetwork] = OneNetwork
) -> OneNetwork:
    """Build a network of ONE with initial weights that are drawn from torch's global random state.

    A branch is a whole head. So each branch of an attention branch network has an attention branch of its own.

    Args:
        config: The network that is branched.
        num_branches: B, 1 or more.
        num_classes: C.
        kind: What its output is: that of all branches, or of the ensemble alone.

    Raises:
        NetworkError: the name is unknown, or there are no branches.
    """
    if num_branches < 1:
        raise NetworkError(f"ONE needs at least 1 branch, it was given {num_branches}")
    backbone = make_backbone(architecture(config.name))
    heads = [make_head(backbone, config, num_classes=num_classes) for _ in range(num_branches)]
    network = kind(backbone.lower, heads, backbone.lower_channels)
    initialise(network)
    return network
