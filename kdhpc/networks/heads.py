"""What stands on the lower stages: the last stage, the classifier, and the attention map of either kind of network."""

import torch
from torch import Tensor, nn

from kdhpc.networks.backbone import Backbone
from kdhpc.networks.output import NetworkOutput


def attention_transfer_map(features: Tensor) -> Tensor:
    """Mean over channels of the squared activations, in float32: (N, D, H, W) to (N, H, W).

    Source: Zagoruyko and Komodakis, "Paying more attention to attention" (paper reference 37).
    """
    # Not in half precision: squares of ordinary activations overflow float16 and tie in bfloat16.
    features = features.float()
    return (features * features).mean(dim=1)  # Not `square`: it goes through `pow`, many times slower on a CPU.


def classify(classifier: nn.Linear | nn.Conv2d, features: Tensor) -> Tensor:
    """Logits (N, C) of pooled features (N, D, H, W), in the weights' precision whatever autocast says.

    In half precision logits tie, and a tie is an answer by chance. A 1x1 convolution without a bias may come after the
    pool as well as before it, where it is H x W times the work.
    """
    pooled_ND11 = features.to(classifier.weight.dtype).mean(dim=(2, 3), keepdim=True)
    with torch.autocast(features.device.type, enabled=False):
        logits: Tensor = classifier(pooled_ND11 if isinstance(classifier, nn.Conv2d) else pooled_ND11.flatten(1))
    return logits.flatten(1)


class PlainHead(nn.Module):
    """Last stage and classifier of a residual network; its map is that of Attention Transfer."""

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.layer4 = backbone.last_stage(2)
        self.fc = nn.Linear(backbone.channels, num_classes)

    def forward(self, shared: Tensor) -> NetworkOutput:
        """From the features of the lower stages, (N, D, H, W)."""
        features = self.layer4(shared)
        return NetworkOutput(classify(self.fc, features), attention_transfer_map(features))


class AttentionBranchHead(nn.Module):
    """Attention branch and perception branch of an attention branch network.

    The attention branch is a stride-1 copy of the last stage that ends in class evidence (N, C, H, W), from which come
    its own logits and a sigmoid map. The perception branch is the last stage and classifier on the weighted features.

    Source: Fukui et al., "Attention branch network" (paper reference 7). The map comes from a 3x3 convolution, as in
    its code; its figure says 1x1.

    Args:
        backbone: Both branches take their last stage from it.
        num_classes: C.
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
