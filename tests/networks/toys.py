"""Networks of a user's own, right and wrong, for 4 or any number of classes."""

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Small(nn.Module):
    """A convolution, dropout, and a classifier."""

    def __init__(self, num_classes: int = 1000, width: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.norm(self.conv(images)))
        return self.fc(self.drop(features.mean(dim=(2, 3))))


class Counting(Small):
    """Becomes another with each batch, and no checkpoint says so."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.steps = {"done": 0}

    def forward(self, images: Tensor) -> Tensor:
        self.steps["done"] += 1
        return super().forward(images)


class HiddenBuffer(Small):
    """A moving mean that is not in the state_dict."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("mean", torch.zeros(()), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        self.mean.lerp_(images.mean(), 0.5)
        return super().forward(images)


class Caching(Small):
    """Keeps what it has computed once, and its last output: no state."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.scale: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = torch.ones(1)
        self.last = super().forward(images) * self.scale
        return self.last


class OtherRandom(Small):
    """Draws numbers that torch does not know of."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + random.random()


class Lazy(Small):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.fc = nn.LazyLinear(num_classes)


class Half(Small):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.fc.half()


class Extra(Small):
    def get_extra_state(self) -> int:
        return 3

    def set_extra_state(self, state: int) -> None:
        pass


class Grey(Small):
    """Made for images of one channel."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.conv = nn.Conv2d(1, 6, 3, stride=2, padding=1)


class Viewed(Small):
    """As many tutorials have it: needs features whose memory has no gaps."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.fc = nn.Linear(6 * 6 * 6, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.conv(images))
        return self.fc(features.view(len(features), -1))


class TwoOutputs(Small):
    """A further classifier, in training mode."""

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits = super().forward(images)
        return (logits, logits) if self.training else logits


class Remembering(Small):
    """A moving mean, in its state_dict, of all images that it sees."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.mean.lerp_(images.mean(), 0.5)
        return super().forward(images)


class Resizing(Small):
    """Whatever the images' size, it sees 16 x 16 pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(F.interpolate(images, (16, 16)))


class Skipping(Small):
    """Its last layer with a map is not run in training mode."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        features = features if self.training else self.norm(features)
        return self.fc(features.mean(dim=(2, 3)))


class PixelLogits(Small):
    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


class Oblong(Small):
    """Features that are no square."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.conv = nn.Conv2d(3, 6, 3, stride=(1, 2), padding=1)


class SharedRelu(Small):
    """One layer that puts out maps, and later vectors."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.norm(self.conv(images)))
        return self.fc(self.relu(features.mean(dim=(2, 3))))


class Tokens(nn.Module):
    """A transformer of a fixed size, with a token in front of the patches."""

    def __init__(self, num_classes: int, image_size: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.places = nn.Parameter(torch.randn(1, 1 + (image_size // 4) ** 2, 8))
        self.layers = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(images), -1, -1), tokens], dim=1) + self.places
        return self.fc(self.layers(tokens)[:, 0])


class KnownTokens(Tokens):
    num_prefix_tokens = 1


not_callable = 3


def small_patches(num_classes: int) -> nn.Module:
    """timm's smallest transformer, on patches of 4x4 pixels."""
    import timm

    model: nn.Module = timm.create_model("test_vit", patch_size=4, img_size=16, num_classes=num_classes, drop_rate=0.1)
    return model
