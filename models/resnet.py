"""ResNet-18 and ResNet-50 (He et al. 2015, arXiv 1512.03385), as timm's: 11,689,512 and 25,557,032 parameters.

The stride is in the 3x3 convolution of a bottleneck.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from .export import TorchModel


def network(depths: tuple[int, ...], bottleneck: bool) -> nn.Module:
    """X [n,3,h,w] -> logits [n,1000]."""
    import torch
    from torch import nn

    expansion = 4 if bottleneck else 1

    def conv(ic: int, oc: int, k: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(ic, oc, k, stride, k // 2, bias=False), nn.BatchNorm2d(oc)]

    class Residual(nn.Module):
        def __init__(self, ic: int, width: int, stride: int) -> None:
            super().__init__()
            oc = width * expansion
            if bottleneck:
                body = [*conv(ic, width, 1), nn.ReLU(), *conv(width, width, 3, stride), nn.ReLU(), *conv(width, oc, 1)]
            else:
                body = [*conv(ic, width, 3, stride), nn.ReLU(), *conv(width, width, 3)]
            self.body = nn.Sequential(*body)
            self.shortcut = nn.Sequential(*(conv(ic, oc, 1, stride) if stride > 1 or ic != oc else []))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.body(x) + self.shortcut(x))

    layers = [*conv(3, 64, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    ic = 64
    for stage, repeats in enumerate(depths):
        for i in range(repeats):
            layers.append(Residual(ic, 64 << stage, stride=2 if stage > 0 and i == 0 else 1))
            ic = (64 << stage) * expansion
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ic, 1000))


def resnet18() -> nn.Module:
    return network((2, 2, 2, 2), bottleneck=False)


def resnet50() -> nn.Module:
    return network((3, 4, 6, 3), bottleneck=True)


def make_resnet18() -> TorchModel:
    """BatchNormalization stays in the graph: some exporters leave it, and its folding is then the compiler's work."""
    from .export import TorchModel, image, randomise

    return TorchModel(randomise(resnet18(), 224), {"image": image(224)}, "logits", fold=False)


def make_resnet50() -> TorchModel:
    from .export import TorchModel, image, randomise

    return TorchModel(randomise(resnet50(), 224), {"image": image(224)}, "logits")
