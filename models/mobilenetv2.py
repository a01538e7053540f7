"""MobileNetV2 1.0 (Sandler et al. 2018, arXiv 1801.04381, table 2), as timm's mobilenetv2_100: 3,504,872 parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from .export import TorchModel

# expansion, output channels, repeats, stride of the first
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def network() -> nn.Module:
    """X [n,3,h,w] -> logits [n,1000]."""
    import torch
    from torch import nn

    def unit(ic: int, oc: int, k: int = 1, stride: int = 1, groups: int = 1, act: bool = True) -> list[nn.Module]:
        conv = nn.Conv2d(ic, oc, k, stride, k // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(oc), *([nn.ReLU6()] if act else [])]

    class InvertedResidual(nn.Module):
        def __init__(self, ic: int, oc: int, expansion: int, stride: int) -> None:
            super().__init__()
            wide = ic * expansion
            expand = unit(ic, wide) if expansion > 1 else []
            self.body = nn.Sequential(*expand, *unit(wide, wide, 3, stride, groups=wide), *unit(wide, oc, act=False))
            self.residual = stride == 1 and ic == oc

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.body(x) if self.residual else self.body(x)

    layers = unit(3, 32, 3, stride=2)
    ic = 32
    for expansion, oc, repeats, first_stride in STAGES:
        for i in range(repeats):
            layers.append(InvertedResidual(ic, oc, expansion, first_stride if i == 0 else 1))
            ic = oc
    return nn.Sequential(*layers, *unit(ic, 1280), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


def make() -> TorchModel:
    from .export import TorchModel, image, randomise

    return TorchModel(randomise(network(), 224), {"image": image(224)}, "logits")
