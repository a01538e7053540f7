"""DeiT-Tiny and DeiT-Small (Touvron et al. 2021, arXiv 2012.12877), as timm's: 5,717,416 and 22,050,664 parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from .export import TorchModel

SIZE, PATCH, DEPTH, HEAD = 224, 16, 12, 64


def network(heads: int) -> nn.Module:
    """X [n,3,224,224] -> logits [n,1000]; the width is 64 per head."""
    import torch
    from torch import Tensor, nn

    width, tokens = heads * HEAD, (SIZE // PATCH) ** 2 + 1

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

        def forward(self, x: Tensor) -> Tensor:
            n, t, _ = x.shape
            q, k, v = self.qkv(x).reshape(n, t, 3, heads, HEAD).permute(2, 0, 3, 1, 4).unbind(0)
            attention = ((q * HEAD ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
            return self.proj((attention @ v).transpose(1, 2).reshape(n, t, width))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.Sequential(nn.LayerNorm(width, eps=1e-6), Attention())
            self.mlp = nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 4 * width), nn.GELU(),
                                     nn.Linear(4 * width, width))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attention(x)
            return x + self.mlp(x)

    class DeiT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, width, PATCH, PATCH)
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
            self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
            self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 1000)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
            return self.head(self.norm(self.blocks(x))[:, 0])

    return DeiT()


def deit_tiny() -> nn.Module:
    return network(heads=3)


def deit_small() -> nn.Module:
    return network(heads=6)


def _make(net: nn.Module) -> TorchModel:
    from .export import TorchModel, image, randomise

    return TorchModel(randomise(net, SIZE), {"image": image(SIZE)}, "logits")


def make_deit_tiny() -> TorchModel:
    return _make(deit_tiny())


def make_deit_small() -> TorchModel:
    return _make(deit_small())
