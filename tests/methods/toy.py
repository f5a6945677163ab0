"""A method from outside the package: two networks that learn the labels, and the mean of the other's logits."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kdhpc.methods.method import Method
from kdhpc.networks.build import build_network
from kdhpc.training.evaluation import mean_ensemble
from kdhpc.training.model import Model, run_network


def toy_losses(logits_MNC, labels_N, pull):
    hard = torch.stack([F.cross_entropy(logits_NC, labels_N) for logits_NC in logits_MNC])
    mean_NC = logits_MNC.detach().mean(dim=0)
    return hard + pull * (logits_MNC - mean_NC).square().mean(dim=(1, 2))


@dataclass(frozen=True, kw_only=True)
class ToyMethod(Method):
    num: int
    title = "a toy"

    @classmethod
    def from_config(cls, config, open_run):
        return cls(num=config.run.num_nodes or 2)

    @property
    def num_nodes(self):
        return self.num

    @property
    def label(self):
        return f"toy{self.num}"

    @property
    def key(self):
        return self.label

    def model(self, setting, seed):
        return ToyModel(self.num, setting, seed)


class ToyModel(Model):
    def __init__(self, num_nodes, setting, seed):
        super().__init__(
            lambda _: build_network(setting.network, num_classes=setting.num_classes, image_size=setting.image_size),
            num_networks=num_nodes,
            setting=setting,
            seed=seed,
        )
        self._pull = torch.zeros((), device=setting.runtime.device)

    def set_schedule(self, step):
        self._pull.fill_(step.step / step.num_steps)

    def varied(self):
        return ((self._pull, 2 - self._pull),)

    def losses(self, batch):
        return self.run(toy_losses, self._logits(batch.images), batch.labels, self._pull)

    def predict(self, images):
        return mean_ensemble(self._logits(images))

    def _logits(self, images):
        return torch.stack([self.forward(run_network, network, images).logits for network in self.networks])
