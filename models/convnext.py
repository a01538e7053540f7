"""ConvNeXt-Tiny (Liu et al. 2022, arXiv 2201.03545), as timm's convnext_tiny: 28,589,128 parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from .export import TorchModel

DEPTHS, WIDTHS = (3, 3, 9, 3), (96, 192, 384, 768)


def network() -> nn.Module:
    """X [n,3,h,w] -> logits [n,1000]."""
    import torch
    from torch import Tensor, nn

    class ChannelNorm(nn.LayerNorm):
        """LayerNorm over the channels of [n,c,h,w]."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
            self.mlp = nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 4 * width), nn.GELU(),
                                     nn.Linear(4 * width, width))
            self.layer_scale = nn.Parameter(torch.ones(width))

        def forward(self, x: Tensor) -> Tensor:
            y = self.mlp(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return x + y * self.layer_scale.reshape(1, -1, 1, 1)

    layers: list[nn.Module] = [nn.Conv2d(3, WIDTHS[0], 4, 4), ChannelNorm(WIDTHS[0], eps=1e-6)]
    for stage, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True)):
        if stage:
            before = WIDTHS[stage - 1]
            layers += [ChannelNorm(before, eps=1e-6), nn.Conv2d(before, width, 2, 2)]
        layers += [Block(width) for _ in range(depth)]
    head = [nn.AdaptiveAvgPool2d(1), ChannelNorm(WIDTHS[-1], eps=1e-6), nn.Flatten(), nn.Linear(WIDTHS[-1], 1000)]
    return nn.Sequential(*layers, *head)


def make() -> TorchModel:
    from .export import TorchModel, image, randomise

    return TorchModel(randomise(network(), 224), {"image": image(224)}, "logits")
