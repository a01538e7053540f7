"""Graphs with branches: what a Concat and a Slice may cost nothing for, and where they must copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper, parser


@dataclass(frozen=True)
class Branches:
    """inputs and outputs in ONNX's text; weights: shapes of float32 constants; copies: (groups around a Concat, groups that are a
    Slice) that are left in the partition."""

    inputs: str
    weights: dict[str, tuple[int, ...]]
    body: str
    copies: tuple[int, int]
    outputs: str = "float y"

    def model(self) -> onnx.ModelProto:
        rng = np.random.default_rng(3)
        proto = parser.parse_model(
            f'<ir_version: 10, opset_import: ["" : 23]> g ({self.inputs}) => ({self.outputs}) {{ {self.body} }}')
        for name, shape in self.weights.items():
            values = rng.standard_normal(shape) / max(1, np.prod(shape[1:]))**0.5
            proto.graph.initializer.append(numpy_helper.from_array(values.astype("f4"), name))
        for output in proto.graph.output:
            output.type.tensor_type.ClearField("shape")
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)

    def sample(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(4)
        return {i.name: rng.standard_normal([d.dim_value for d in i.type.tensor_type.shape.dim]).astype("f4")
                for i in self.model().graph.input}


BRANCHES = {
    "InceptionNeXt: the part that goes through unchanged is copied": Branches(
        "float[2,64,9,7] x0", {"s": (64, 64, 1, 1), "p": (16, 1, 3, 3), "q": (16, 1, 1, 11), "r": (16, 1, 11, 1), "b": (16,),
                               "m": (37, 64, 1, 1)}, """
        x = Conv (x0, s)
        sizes = Constant <value_ints = [16, 16, 16, 16]> ()
        i, a, c, d = Split <axis = 1> (x, sizes)
        a2 = Conv <group = 16, pads = [1, 1, 1, 1]> (a, p, b)
        c2 = Conv <group = 16, pads = [0, 5, 0, 5]> (c, q, b)
        d2 = Conv <group = 16, pads = [5, 0, 5, 0]> (d, r, b)
        t = Concat <axis = 1> (i, a2, c2, d2)
        u = Conv (t, m)
        y = Add (u, u)""", (1, 0)),
    "depthwise reads thin slices from a copy": Branches(
        "float[1,96,9,7] x0", {"s": (96, 96, 1, 1), "p": (12, 1, 3, 3), "q": (12, 1, 1, 11)}, """
        x = Conv (x0, s)
        sizes = Constant <value_ints = [12, 12, 72]> ()
        a, c, i = Split <axis = 1> (x, sizes)
        a2 = Conv <group = 12, pads = [1, 1, 1, 1]> (a, p)
        c2 = Conv <group = 12, pads = [0, 5, 0, 5]> (c, q)
        y = Concat <axis = 1> (a2, i, c2)""", (1, 2)),
    "C2f: the halves are the map, and lie in the end": Branches(
        "float[1,32,7,9] x", {"a": (32, 32, 1, 1), "p": (16, 16, 3, 3), "q": (16, 16, 3, 3), "e": (19, 64, 1, 1)}, """
        u0 = Conv (x, a)
        u = Relu (u0)
        l, m = Split <axis = 1, num_outputs = 2> (u)
        p1 = Conv <pads = [1, 1, 1, 1]> (m, p)
        p2 = Relu (p1)
        p3 = Add (p2, m)
        q1 = Conv <pads = [1, 1, 1, 1]> (p3, q)
        q2 = Add (q1, p3)
        t = Concat <axis = 1> (l, m, p3, q2)
        y = Conv (t, e)""", (0, 0)),
    "dense: only the last of several has its parts made inside": Branches(
        "float[2,17,5,7] x", {"w": (16, 17, 1, 1), "a": (13, 16, 3, 3), "b": (11, 29, 1, 1), "z": (5, 40, 1, 1)}, """
        f = Conv (x, w)
        g = Conv <pads = [1, 1, 1, 1]> (f, a)
        c = Concat <axis = 1> (f, g)
        h = Conv (c, b)
        d = Concat <axis = 1> (f, g, h)
        y = Conv (d, z)""", (1, 0)),
    "a Concat within a Concat": Branches(
        "float[2,17,5,7] x", {"w": (16, 17, 1, 1), "a": (13, 16, 3, 3), "b": (11, 29, 1, 1), "z": (5, 40, 1, 1)}, """
        f = Conv (x, w)
        g = Conv <pads = [1, 1, 1, 1]> (f, a)
        c = Concat <axis = 1> (f, g)
        h = Conv (c, b)
        d = Concat <axis = 1> (h, c)
        y = Conv (d, z)""", (0, 0)),
    "one twice, an input, a constant": Branches(
        "float[3,5,6] x, float[3,2,7] z", {"w": (6, 7), "k": (3, 1, 7)}, """
        a = MatMul (x, w)
        y = Concat <axis = 1> (a, z, a, k)""", (1, 0)),
    "what is an output lies by itself": Branches(
        "float[3,5,6] x", {"w": (6, 7), "v": (7, 4)}, """
        a = MatMul (x, w)
        b = Tanh (a)
        y = Concat <axis = -1> (a, b)
        z = MatMul (a, v)""", (1, 0), "float y, float a, float z"),
    "an output whose parts are read on": Branches(
        "float[3,5,6] x", {"w": (6, 7), "v": (7, 5)}, """
        a0 = MatMul (x, w)
        a = Tanh (a0)
        b0 = MatMul (a, v)
        b = Sigmoid (b0)
        s = ReduceSum <keepdims = 1> (b)
        y = Concat <axis = 2> (b, a, b)
        z = Add (a, s)""", (1, 0), "float y, float z"),
    "views between": Branches(
        "float[5,6] x", {"w": (6, 24), "v": (6, 18), "u": (6, 9)}, """
        a0 = MatMul (x, w)
        b0 = MatMul (x, v)
        c0 = MatMul (x, u)
        n = Constant <value_ints = [5, 4, 2, 3]> ()
        m = Constant <value_ints = [5, 3, 2, 3]> ()
        o = Constant <value_ints = [5, 3, 1, 3]> ()
        f = Constant <value_ints = [5, 24]> ()
        a1 = Reshape (a0, f)
        a = Reshape (a1, n)
        b = Reshape (b0, m)
        y = Concat <axis = 1> (a, b)
        c = Reshape (c0, o)
        b2 = Softmax <axis = 1> (b0)
        s = ReduceMax <keepdims = 0> (a0)
        z = Add (c, s)""", (0, 0), "float y, float z"),
    "a view that no strides describe is copied": Branches(
        "float[6,5] x", {"w": (5, 4), "v": (5, 6)}, """
        a0 = MatMul (x, w)
        b = MatMul (x, v)
        n = Constant <value_ints = [4, 6]> ()
        m = Constant <value_ints = [2, 12]> ()
        a = Reshape (a0, n)
        l = Reshape (a0, m)
        c = MatMul (a, b)
        d = Concat <axis = 1> (a, c)
        e = ReduceSum <keepdims = 0> (l)
        y = Add (d, e)""", (1, 0)),
    "rows one below the other": Branches(
        "float[1,7,6] x, float[1,3,6] z", {"w": (6, 16), "v": (6, 16), "c": (1, 1, 16), "g": (16,), "u": (16, 11)}, """
        a = MatMul (x, w)
        b = MatMul (z, v)
        bn = LayerNormalization <axis = -1> (b, g)
        t = Concat <axis = 1> (c, a, bn)
        y = MatMul (t, u)""", (1, 0)),
    "what reductions, sorting, scans and networks make": Branches(
        "float[3,1,8] x", {"w": (1, 16, 8), "r": (1, 16, 4)}, """
        zero = Constant <value_ints = [0]> ()
        two = Constant <value_ints = [2]> ()
        three = Constant <value_ints = [3]> ()
        axis = Constant <value_int = 2> ()
        h4, hl, cl = LSTM <hidden_size = 4> (x, w, r)
        shape = Constant <value_ints = [3, 1, 4]> ()
        h = Reshape (h4, shape)
        s = ReduceSum <keepdims = 1> (x, two)
        k, n = TopK <axis = 2> (x, three)
        c = CumSum (x, axis)
        f = Cast <to = 1> (n)
        p = Softmax <axis = 2> (x)
        y = Concat <axis = 2> (h, s, k, c, f, p)""", (1, 0)),
    "slices read by many kinds of kernels": Branches(
        "float[2,96,8,9] x0", {"s": (96, 96, 1, 1), "a": (5, 32, 1, 1), "b": (24, 32, 3, 3), "c": (24, 8, 3, 3),
                               "d": (32, 1, 3, 3), "e": (2, 32, 3, 3), "f": (16, 24, 2, 3)}, """
        x = Conv (x0, s)
        sizes = Constant <value_ints = [8, 32, 24, 32]> ()
        r, l, k, m = Split <axis = 1> (x, sizes)
        y0 = Conv (l, a)
        y1 = Conv <strides = [2, 2]> (l, b)
        y2 = Conv <group = 4, pads = [0, 1, 1, 0]> (l, c)
        y3 = Conv <group = 32, pads = [1, 1, 1, 1], strides = [1, 2]> (m, d)
        y4 = Conv <pads = [1, 1, 1, 1]> (m, e)
        y5 = MaxPool <kernel_shape = [3, 2], strides = [2, 1]> (m)
        y6 = GlobalAveragePool (m)
        y7 = Conv <dilations = [2, 3]> (k, f)
        y8 = Softmax <axis = 1> (k)
        y9 = Conv (m, e)
        ya = Relu (l)""", (0, 0),
        "float y0, float y1, float y2, float y3, float y4, float y5, float y6, float y7, float y8, float y9, float ya"),
    "slices along other axes": Branches(
        "float[1,16,9,8] x0, float[2,16,9,8] z0", {"s": (16, 16, 1, 1), "a": (5, 16, 3, 3)}, """
        two = Constant <value_ints = [2]> ()
        nine = Constant <value_ints = [9]> ()
        less = Constant <value_ints = [-1]> ()
        three = Constant <value_ints = [3]> ()
        x = Conv (x0, s)
        z = Conv (z0, s)
        top = Slice (x, two, nine, two)
        left = Slice (x, two, less, three)
        both = Slice (z, two, nine, two)
        y0 = Conv <pads = [1, 1, 1, 1]> (top, a)
        y1 = Conv (top, a)
        y2 = Conv (left, a)
        y3 = MaxPool <kernel_shape = [3, 3]> (left)
        y4 = Conv (both, a)
        y5 = MaxPool <kernel_shape = [3, 3]> (both)""", (0, 2), "float y0, float y1, float y2, float y3, float y4, float y5"),
    "slices of an input": Branches(
        "float[4,32] x", {"w": (16, 5), "v": (16, 3)}, """
        zero = Constant <value_ints = [0]> ()
        one = Constant <value_ints = [1]> ()
        half = Constant <value_ints = [16]> ()
        all = Constant <value_ints = [32]> ()
        a = Slice (x, zero, half, one)
        b = Slice (x, half, all, one)
        c = MatMul (b, w)
        d = MatMul (b, v)
        e = Softmax <axis = 0> (a)
        f = ReduceMax <keepdims = 1> (a, one)
        y = Concat <axis = 1> (c, d, e, f)""", (0, 0)),
    "shuffled channels": Branches(
        "float[2,46,5,7] x0", {"s": (46, 46, 1, 1), "a": (23, 23, 1, 1), "e": (46, 46, 1, 1)}, """
        x = Conv (x0, s)
        l, m = Split <axis = 1, num_outputs = 2> (x)
        d0 = Conv (m, a)
        d = Relu (d0)
        t = Concat <axis = 1> (l, d)
        s1 = Constant <value_ints = [2, 2, 23, 5, 7]> ()
        r = Reshape (t, s1)
        o = Transpose <perm = [0, 2, 1, 3, 4]> (r)
        s2 = Constant <value_ints = [2, 46, 5, 7]> ()
        q = Reshape (o, s2)
        y = Conv (q, e)""", (1, 0)),
    "masks and numbers": Branches(
        "float[3,7] x, float[3,5] z", {}, """
        one = Constant <value_ints = [1]> ()
        a = IsNaN (x)
        k, i = TopK <axis = 1> (x, one)
        j = ArgMax <axis = 1> (z)
        b = Less (z, k)
        c = Not (b)
        m = Concat <axis = 1> (b, a, c)
        n = Concat <axis = 1> (i, j, i)
        u = Cast <to = 1> (m)
        w = Cast <to = 1> (n)
        y = Concat <axis = 1> (u, w)""", (3, 0)),
}
