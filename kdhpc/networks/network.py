"""The network of a node."""

from collections.abc import Mapping

from torch import Tensor, nn

from kdhpc.networks.heads import AttentionBranchHead, PlainHead
from kdhpc.networks.output import NetworkOutput
from kdhpc.networks.torchvision_names import from_torchvision, to_torchvision


class Network(nn.Module):
    """The network of a node: the lower stages of a backbone and a head."""

    takes_channels_last: bool = True
    """Whether it runs in torch's memory format ``channels_last``."""

    def __init__(self, lower: nn.Module, head: PlainHead | AttentionBranchHead) -> None:
        super().__init__()
        self.lower = lower
        self.head = head

    def forward(self, images: Tensor) -> NetworkOutput:
        """The output for images (N, 3, S, S)."""
        output: NetworkOutput = self.head(self.lower(images))
        return output

    def exported_weights(self) -> dict[str, Tensor]:
        """Weights and batch-norm statistics by the names of files: torchvision's if it is torchvision's."""
        weights: dict[str, Tensor] = self.state_dict()
        return to_torchvision(weights) if self._is_torchvisions else weights

    def named_for_it(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a file by the names that they have in this network."""
        return from_torchvision(weights) if self._is_torchvisions else dict(weights)

    @property
    def _is_torchvisions(self) -> bool:
        """Whether it has the layers of one of torchvision's: three lower stages, and no attention branch."""
        return hasattr(self.lower, "layer3") and isinstance(self.head, PlainHead)
