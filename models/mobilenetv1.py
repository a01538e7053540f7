"""MobileNet 1.0 (Howard et al. 2017, arXiv 1704.04861, table 1), as timm's mobilenetv1_100: 4,231,976 parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from .export import TorchModel

# output channels and stride of each depthwise separable convolution
LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


def network() -> nn.Module:
    """X [n,3,h,w] -> logits [n,1000]."""
    from torch import nn

    def unit(ic: int, oc: int, k: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(ic, oc, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(oc), nn.ReLU6()]

    layers, ic = unit(3, 32, 3, stride=2), 32
    for oc, stride in LAYERS:
        layers += [*unit(ic, ic, 3, stride, groups=ic), *unit(ic, oc, 1)]
        ic = oc
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ic, 1000))


def make() -> TorchModel:
    from .export import TorchModel, image, randomise

    return TorchModel(randomise(network(), 224), {"image": image(224)}, "logits")
