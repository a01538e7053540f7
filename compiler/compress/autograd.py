"""A graph in torch, so that it has gradients. It is there to be trained on: inference stays with onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ...passes.base import DOMAIN, attr
from ..errors import BurnishError

if TYPE_CHECKING:
    from torch import Tensor

Op = Callable[..., Any]     # (node, *inputs) -> a Tensor, or one for each output


class NoGradient(BurnishError):
    """torch is missing, or an op of the graph is unknown here."""


class Differentiable:
    """A graph of float ops, and of integers where they are indices. `weights`: its float32 initializers by name, as Parameters
    that ask for no gradient yet."""

    def __init__(self, model: ir.Model) -> None:
        torch = load_torch()
        self.graph, self.ops = model.graph, _ops()
        unknown = sorted({n.op_type for n in self.graph if (n.domain, n.op_type) not in self.ops})
        if unknown:
            raise NoGradient(f"the gradient of {', '.join(unknown)} is not known here")
        self.weights: dict[str, Any] = {}
        self.constants: dict[str, Any] = {}
        for name, value in self.graph.initializers.items():
            assert value.const_value is not None
            array = torch.from_numpy(np.array(value.const_value.numpy()))
            if array.dtype == torch.float32:
                self.weights[name] = torch.nn.Parameter(array, requires_grad=False)
            else:
                self.constants[name] = array

    def __call__(self, feed: Mapping[str, np.ndarray], wanted: frozenset[str]) -> dict[str, Tensor]:
        """The values of these names; whatever is no longer needed for them is dropped (but for what gradients need)."""
        torch = load_torch()
        known: dict[str, Any] = {**self.constants, **self.weights, **{k: torch.from_numpy(v) for k, v in feed.items()}}
        found: dict[str, Tensor] = {}
        left = {str(v.name): len(v.uses()) for n in self.graph for v in n.outputs}
        for node in self.graph:
            inputs = [None if v is None else known[str(v.name)] for v in node.inputs]
            made = self.ops[node.domain, node.op_type](node, *inputs)
            for value, array in zip(node.outputs, made if isinstance(made, tuple) else (made,), strict=False):
                known[str(value.name)] = array
                if value.name in wanted:
                    found[str(value.name)] = array
            for v in node.inputs:
                if v is not None and str(v.name) in left:
                    left[str(v.name)] -= 1
                    if not left[str(v.name)]:
                        known.pop(str(v.name), None)
            if len(found) == len(wanted):
                break
        return found


def load_torch() -> Any:
    try:
        import torch
    except ImportError:
        raise NoGradient("torch is not installed: pip install 'burnish[compress]'") from None
    return torch


def _ops() -> dict[tuple[str, str], Op]:
    torch = load_torch()
    f = torch.nn.functional

    def plain(function: Callable[..., Any]) -> Op:
        return lambda node, *inputs: function(*inputs)

    def axes_of(node: ir.Node, given: Any) -> list[int] | None:
        return given.tolist() if given is not None else attr(node, "axes")

    def padded(node: ir.Node, x: Any, value: float = 0.0) -> Any:
        pads = attr(node, "pads", [])
        half = len(pads) // 2
        return f.pad(x, [p for a in reversed(range(half)) for p in (pads[a], pads[a + half])], value=value) if any(pads) else x

    def conv(node: ir.Node, x: Any, w: Any, b: Any = None) -> Any:
        function = {1: f.conv1d, 2: f.conv2d, 3: f.conv3d}[w.ndim - 2]
        return function(padded(node, x), w, b, attr(node, "strides", 1), 0, attr(node, "dilations", 1), attr(node, "group", 1))

    def max_pool(node: ir.Node, x: Any) -> Any:
        if attr(node, "ceil_mode", 0):
            raise NoGradient("the gradient of MaxPool with ceil_mode is not known here")
        return f.max_pool2d(padded(node, x, -math.inf), attr(node, "kernel_shape"), attr(node, "strides", 1), 0,
                            attr(node, "dilations", 1))

    def average_pool(node: ir.Node, x: Any) -> Any:
        if any(attr(node, "pads", [])) or attr(node, "ceil_mode", 0):
            raise NoGradient("the gradient of AveragePool with padding is not known here")
        return f.avg_pool2d(x, attr(node, "kernel_shape"), attr(node, "strides", 1))

    def reduce(function: Callable[..., Any]) -> Op:
        def made(node: ir.Node, x: Any, axes: Any = None) -> Any:
            found = axes_of(node, axes)
            return function(x, dim=list(range(x.ndim)) if found is None else found, keepdim=bool(attr(node, "keepdims", 1)))
        return made

    def reshape(node: ir.Node, x: Any, to: Any) -> Any:
        return x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(to.tolist())])

    def layer_norm(node: ir.Node, x: Any, scale: Any, b: Any = None) -> Any:
        axis = attr(node, "axis", -1)
        shape = x.shape[axis:]
        y = f.layer_norm(x, shape, None, None, attr(node, "epsilon", 1e-5)) * scale
        return y if b is None else y + b

    def cut(node: ir.Node, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
        at: list[Any] = [slice(None)] * x.ndim
        which = range(len(starts)) if axes is None else axes.tolist()
        for i, a in enumerate(which):
            step = 1 if steps is None else int(steps[i])
            if step < 1:
                raise NoGradient("the gradient of Slice with a negative step is not known here")
            at[a] = slice(int(starts[i]), int(ends[i]), step)
        return x[tuple(at)]

    def split(node: ir.Node, x: Any, sizes: Any = None) -> Any:
        axis = attr(node, "axis", 0)
        return torch.split(x, sizes.tolist() if sizes is not None else -(-x.shape[axis] // len(node.outputs)), axis)

    def gather(node: ir.Node, x: Any, at: Any) -> Any:
        axis = attr(node, "axis", 0) % x.ndim
        at = torch.where(at < 0, at + x.shape[axis], at)
        return x.index_select(axis, at.reshape(-1)).reshape(*x.shape[:axis], *at.shape, *x.shape[axis + 1:])

    def resize(node: ir.Node, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
        way = attr(node, "mode", "nearest"), attr(node, "coordinate_transformation_mode", "half_pixel")
        size = [int(d) for d in node.outputs[0].shape.numpy()][2:] if node.outputs[0].shape is not None else None
        if way == ("linear", "half_pixel") and x.ndim == 4:
            return f.interpolate(x, size, mode="bilinear", align_corners=False)
        if way == ("nearest", "asymmetric") and attr(node, "nearest_mode", "round_prefer_floor") == "floor":
            return f.interpolate(x, size, mode="nearest")
        raise NoGradient(f"the gradient of Resize ({', '.join(way)}) is not known here")

    def squeeze(node: ir.Node, x: Any, axes: Any = None) -> Any:
        found = axes_of(node, axes)
        return x.squeeze() if found is None else x.squeeze(tuple(found))

    def unsqueeze(node: ir.Node, x: Any, axes: Any = None) -> Any:
        found = axes_of(node, axes) or []
        for a in sorted(a % (x.ndim + len(found)) for a in found):
            x = x.unsqueeze(a)
        return x

    ops: dict[str, Op] = {
        "Add": plain(torch.add), "Sub": plain(torch.sub), "Mul": plain(torch.mul), "Pow": plain(torch.pow),
        "Div": lambda n, a, b: a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc"),
        "Sqrt": plain(torch.sqrt), "Exp": plain(torch.exp), "Log": plain(torch.log), "Erf": plain(torch.erf),
        "Relu": plain(f.relu), "Sigmoid": plain(torch.sigmoid), "Tanh": plain(torch.tanh), "HardSwish": plain(f.hardswish),
        "Abs": plain(torch.abs), "Neg": plain(torch.neg), "Reciprocal": plain(torch.reciprocal), "Where": plain(torch.where),
        "Identity": plain(lambda x: x),
        "Clip": plain(lambda x, low=None, high=None: torch.clamp(x, low, high)), "MatMul": plain(torch.matmul),
        "HardSigmoid": lambda n, x: torch.clamp(attr(n, "alpha", 0.2) * x + attr(n, "beta", 0.5), 0, 1),
        "Gelu": lambda n, x: f.gelu(x, approximate=attr(n, "approximate", "none")),
        "Softmax": lambda n, x: f.softmax(x, attr(n, "axis", -1)),
        "LayerNormalization": layer_norm, "Conv": conv, "MaxPool": max_pool, "AveragePool": average_pool,
        "GlobalAveragePool": lambda n, x: x.mean(dim=list(range(2, x.ndim)), keepdim=True),
        "ReduceMean": reduce(torch.mean), "ReduceSum": reduce(torch.sum), "Reshape": reshape, "Resize": resize,
        "Transpose": lambda n, x: x.permute(attr(n, "perm", list(reversed(range(x.ndim))))),
        "Concat": lambda n, *x: torch.cat(x, attr(n, "axis")), "Slice": cut, "Split": split, "Gather": gather,
        "Flatten": lambda n, x: x.reshape(math.prod(x.shape[:attr(n, "axis", 1)]), -1),
        "Squeeze": squeeze, "Unsqueeze": unsqueeze,
        "Cast": lambda n, x: x.to(torch.from_numpy(np.empty(0, ir.DataType(attr(n, "to")).numpy())).dtype),
        "Expand": lambda n, x, to: x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(to.tolist()))),
    }
    return {**{("", name): function for name, function in ops.items()}, (DOMAIN, "SiLU"): plain(f.silu)}
