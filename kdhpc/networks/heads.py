"""Heads: the part of a network above its lower stages, which gives logits and an attention map."""

import torch
from torch import Tensor, nn

from kdhpc.networks.backbone import Backbone
from kdhpc.networks.output import NetworkOutput


def attention_transfer_map(features: Tensor) -> Tensor:
    """The attention map of features: the mean over channels of the squared activations.

    Args:
        features: (N, D, H, W).

    Returns:
        (N, H, W), float32, 0 or more.

    Source: Zagoruyko and Komodakis, "Paying more attention to attention" (paper reference 37).
    """
    # Not in half precision: squares of ordinary activations overflow float16 and tie in bfloat16.
    features = features.float()
    return (features * features).mean(dim=1)  # Not `square`: it goes through `pow`, many times slower on a CPU.


def classify(classifier: nn.Linear | nn.Conv2d, features: Tensor) -> Tensor:
    """Average features over all pixels and classify the result.

    This runs in the precision of the weights, even under autocast: in half precision several logits may be equal, and
    then the predicted class is arbitrary. A 1x1 convolution without a bias gives the same after pooling as before it,
    where it would be H x W times the work.

    Args:
        classifier: A linear layer, or a 1x1 convolution without a bias, from D to C channels.
        features: (N, D, H, W).

    Returns:
        Logits (N, C).
    """
    pooled_ND11 = features.to(classifier.weight.dtype).mean(dim=(2, 3), keepdim=True)
    with torch.autocast(features.device.type, enabled=False):
        logits: Tensor = classifier(pooled_ND11 if isinstance(classifier, nn.Conv2d) else pooled_ND11.flatten(1))
    return logits.flatten(1)


class PlainHead(nn.Module):
    """The last stage and the classifier of a residual network. Its attention map is that of Attention Transfer."""

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.layer4 = backbone.last_stage(2)
        self.fc = nn.Linear(backbone.channels, num_classes)

    def forward(self, shared: Tensor) -> NetworkOutput:
        """From the features of the lower stages, (N, D, H, W)."""
        features = self.layer4(shared)
        return NetworkOutput(classify(self.fc, features), attention_transfer_map(features))


class AttentionBranchHead(nn.Module):
    """The attention branch and the perception branch of an attention branch network.

    The attention branch has a last stage of stride 1 and ends in class evidence (N, C, H, W). Its own logits and the
    attention map, by a sigmoid, are made from that evidence. The perception branch is the last stage and the classifier
    on features that are weighted by the map.

    Source: Fukui et al., "Attention branch network" (paper reference 7). The map comes from a 3x3 convolution, as in
    its code; its figure says 1x1.

    Args:
        backbone: Builds the last stage of either branch.
        num_classes: C, the number of classes.
        residual: Weight the features by ``1 + map`` instead of ``map``.
    """

    def __init__(self, backbone: Backbone, num_classes: int, *, residual: bool) -> None:
        super().__init__()
        self.evidence = nn.Sequential(
            backbone.last_stage(1),
            nn.BatchNorm2d(backbone.channels),
            nn.Conv2d(backbone.channels, num_classes, 1, bias=False),
            nn.BatchNorm2d(num_classes),
            nn.ReLU(inplace=True),
        )
        self.attention_fc = nn.Conv2d(num_classes, num_classes, 1, bias=False)
        self.attention_map = nn.Sequential(
            nn.Conv2d(num_classes, 1, 3, padding=1, bias=False),
            nn.BatchNorm2d(1),
        )
        self.layer4 = backbone.last_stage(2)
        self.fc = nn.Linear(backbone.channels, num_classes)
        self.residual = residual

    def forward(self, shared: Tensor) -> NetworkOutput:
        """From the features of the lower stages, (N, D, H, W)."""
        evidence = self.evidence(shared)
        attention_logits = classify(self.attention_fc, evidence)
        # In float32 for the losses: half precision would tie many pixels at the map's maximum.
        attention_N1HW = self.attention_map(evidence).float().sigmoid()
        weighted = shared * attention_N1HW.to(shared.dtype)
        features = self.layer4(weighted + shared if self.residual else weighted)
        return NetworkOutput(classify(self.fc, features), attention_N1HW[:, 0], (attention_logits,))
