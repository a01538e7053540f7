"""Whole graphs through passes, partition and lowering: the tasks, interpreted, against onnxruntime."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from burnish import passes
from burnish.compiler.driver import separate_outputs
from burnish.compiler.lower.registry import LOWERINGS, shape_of
from onnx import numpy_helper, parser

from .harness import assert_close, reference
from .tasks import run_tasks

rng = np.random.default_rng(0)

# name -> inputs, weights, body, and the families of its tasks
GRAPHS = {
    "inverted residual": ("float[1,8,9,7] x", {"a": (24, 8, 1, 1), "b": (24, 1, 3, 3), "c": (8, 24, 1, 1), "s": (24,), "t": (8,)},
                          """
        h = Conv (x, a, s)
        r = Relu (h)
        d = Conv <group = 24, pads = [1, 1, 1, 1]> (r, b)
        g = HardSwish (d)
        p = Conv (g, c, t)
        y = Add (p, x)""", {"gemm", "depthwise", "generic"}),
    "stem and pool": ("float[2,3,15,14] x", {"a": (5, 3, 3, 3)}, """
        h = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, a)
        r = LeakyRelu (h)
        p = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (r)
        q = AveragePool <kernel_shape = [2, 2]> (p)
        y = GlobalAveragePool (q)""", {"conv", "rows", "generic"}),
    "attention block": ("float[2,6,12] x", {"w": (12, 36), "o": (12, 12), "g": (12,), "b": (12,)}, """
        n = LayerNormalization (x, g, b)
        m = MatMul (n, w)
        q3, k3, v3 = Split <axis = -1, num_outputs = 3> (m)
        heads = Constant <value_ints = [0, 0, 3, 4]> ()
        q4 = Reshape (q3, heads)
        k4 = Reshape (k3, heads)
        v4 = Reshape (v3, heads)
        q = Transpose <perm = [0, 2, 1, 3]> (q4)
        k = Transpose <perm = [0, 2, 3, 1]> (k4)
        v = Transpose <perm = [0, 2, 1, 3]> (v4)
        half = Constant <value_float = 0.5> ()
        s = MatMul (q, k)
        t = Mul (s, half)
        p = Softmax (t)
        c = MatMul (p, v)
        d = Transpose <perm = [0, 2, 1, 3]> (c)
        flat = Constant <value_ints = [0, 0, -1]> ()
        e = Reshape (d, flat)
        f = MatMul (e, o)
        y = Add (f, x)""", {"rows", "gemm", "attention"}),
    "upsampling": ("float[1,8,5,4] x", {"w": (8, 16, 2, 2), "b": (16,), "v": (16, 8, 2, 2)}, """
        d = ConvTranspose <strides = [2, 2]> (x, w, b)
        r = Relu (d)
        e = ConvTranspose <strides = [2, 2], group = 2> (r, v)
        y = Sigmoid (e)""", {"gemm", "conv", "generic"}),
    "computed product behind a slice": ("float[3,5,8] x", {"w": (4, 4)}, """
        zero = Constant <value_ints = [0]> ()
        four = Constant <value_ints = [4]> ()
        eight = Constant <value_ints = [8]> ()
        axis = Constant <value_ints = [2]> ()
        a = Slice (x, zero, four, axis)
        b = Slice (x, four, eight, axis)
        c = Transpose <perm = [0, 2, 1]> (b)
        p = MatMul (a, c)
        q = Sqrt (p)
        i = IsNaN (q)
        y = Where (i, p, q)""", {"gemm"}),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graph(name):
    inputs, weights, body, families = GRAPHS[name]
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> g ({inputs}) => (float y) {{ {body} }}')
    for weight, shape in weights.items():
        values = (rng.standard_normal(shape) / 2).astype("f4")
        proto.graph.initializer.append(numpy_helper.from_array(values, weight))
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info("y"))
    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    model = ir.from_proto(proto)
    (x,) = model.graph.inputs
    given = {x.name: rng.standard_normal(shape_of(x)).astype("f4")}
    want = reference(proto, given, "ort")
    passes.run(model, keep=frozenset(LOWERINGS))
    separate_outputs(model)
    got, made = run_tasks(model, given)
    assert_close(got, want)
    assert made == families
