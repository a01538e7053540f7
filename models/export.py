"""From a torch module to an ONNX file, and random weights that keep activations at a natural size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 17


@dataclass(frozen=True)
class TorchModel:
    """A module in inference mode with sample inputs, in the order of its arguments, and the name of its one output.

    With `fold=False` BatchNormalization stays a node of its own in ONNX instead of being folded into its convolution.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    output: str
    fold: bool = True


def export(model: TorchModel, path: Path) -> None:
    """Writes `model` as ONNX (opset 17, the TorchScript exporter) for the shapes of its sample inputs."""
    import warnings

    import torch

    mode = torch.onnx.TrainingMode.EVAL if model.fold else torch.onnx.TrainingMode.PRESERVE
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")     # the exporter is deprecated; it is still what most published models came from
        torch.onnx.export(model.module, tuple(model.inputs.values()), str(path), dynamo=False, opset_version=OPSET,
                          training=mode, input_names=list(model.inputs), output_names=[model.output])


def image(size: int, seed: int = 0, batch: int = 1) -> Tensor:
    """A batch of smooth random pictures [batch,3,size,size], about zero mean and unit variance."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 3, size // 16, size // 16, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    return smooth + 0.3 * torch.randn(batch, 3, size, size, generator=generator)


def randomise(module: nn.Module, size: int, seed: int = 0) -> nn.Module:
    """Seeded random weights: He-scaled convolutions, linears of deviation 1/sqrt(inputs), gains about 1.

    BatchNorm statistics are those of two random pictures after the random layers before it, so that activations neither
    vanish nor explode however deep the net, as in a trained one.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)

    def normal_(tensor: Tensor, mean: float, deviation: float) -> None:
        tensor.copy_(mean + deviation * torch.randn(tensor.shape, generator=generator))

    norms = []
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                normal_(layer.weight, 0.0, (2 / layer.weight[0].numel()) ** 0.5)
            elif isinstance(layer, nn.Linear):
                normal_(layer.weight, 0.0, layer.in_features ** -0.5)
            elif isinstance(layer, (nn.BatchNorm2d, nn.LayerNorm)):
                normal_(layer.weight, 1.0, 0.1)
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None           # a plain average over the batches seen
                norms.append(layer)
            bias = getattr(layer, "bias", None)
            if bias is not None:
                normal_(bias, 0.0, 0.1)
        for name, parameter in module.named_parameters():
            if name.rsplit(".")[-1] in ("layer_scale", "cls_token", "pos_embed"):
                normal_(parameter, 0.2 if "scale" in name else 0.0, 0.05 if "scale" in name else 0.2)
        if norms:
            module.train()(image(size, seed + 1, batch=2))
    return module.eval()


def parameters(module: nn.Module) -> int:
    """How many trainable numbers the module has, as timm counts them."""
    return sum(p.numel() for p in module.parameters())
