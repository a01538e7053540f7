"""InceptionNeXt-T (Yu et al. 2023, arXiv 2303.16900, section 3), as timm's inception_next_tiny: 28.06 million parameters.

The token mixer splits the channels: an eighth each for a 3x3, a 1x11 and an 11x1 depthwise convolution, the rest untouched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from .export import TorchModel

DEPTHS, WIDTHS, RATIOS = (3, 3, 9, 3), (96, 192, 384, 768), (4, 4, 4, 3)
SQUARE, BAND = 3, 11


def network() -> nn.Module:
    """X [n,3,h,w] -> logits [n,1000]."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width: int, ratio: int) -> None:
            super().__init__()
            g = width // 8
            self.split = [width - 3 * g, g, g, g]
            self.square = nn.Conv2d(g, g, SQUARE, padding=SQUARE // 2, groups=g)
            self.across = nn.Conv2d(g, g, (1, BAND), padding=(0, BAND // 2), groups=g)
            self.down = nn.Conv2d(g, g, (BAND, 1), padding=(BAND // 2, 0), groups=g)
            self.norm = nn.BatchNorm2d(width)
            self.mlp = nn.Sequential(nn.Conv2d(width, ratio * width, 1), nn.GELU(), nn.Conv2d(ratio * width, width, 1))
            self.gamma = nn.Parameter(torch.ones(width))     # as when trained: it starts at 1e-6, which would hide the block

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rest, a, b, c = torch.split(x, self.split, 1)
            y = torch.cat((rest, self.square(a), self.across(b), self.down(c)), 1)
            return x + self.mlp(self.norm(y)) * self.gamma.reshape(1, -1, 1, 1)

    class Head(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.fc1, self.norm, self.fc2 = nn.Linear(width, 3 * width), nn.LayerNorm(3 * width, 1e-6), nn.Linear(3 * width, 1000)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc2(self.norm(nn.functional.gelu(self.fc1(x.mean((2, 3))))))

    layers: list[nn.Module] = [nn.Conv2d(3, WIDTHS[0], 4, 4), nn.BatchNorm2d(WIDTHS[0])]
    for n, (depth, width, ratio) in enumerate(zip(DEPTHS, WIDTHS, RATIOS, strict=True)):
        if n:
            layers += [nn.BatchNorm2d(WIDTHS[n - 1]), nn.Conv2d(WIDTHS[n - 1], width, 2, 2)]
        layers += [Block(width, ratio) for _ in range(depth)]
    return nn.Sequential(*layers, Head(WIDTHS[-1]))


def make() -> TorchModel:
    from .export import TorchModel, image, randomise

    return TorchModel(randomise(network(), 224), {"image": image(224)}, "logits")
