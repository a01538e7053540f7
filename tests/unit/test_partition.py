"""Which nodes become one kernel."""

import onnx
import onnx_ir as ir
import pytest
from burnish.compiler import lower  # noqa: F401
from burnish.compiler.partition import partition
from burnish.passes.canonical.lift_constants import LiftConstants
from onnx import parser

# inputs => outputs, body -> the groups in order (and aliased values)
GRAPHS = {
    "an anchor takes what follows it": (
        "float[4,8] x, float[8,8] w, float[4,8] r => float[4,8] y", """
        m = MatMul (x, w)
        a = Relu (m)
        y = Add (a, r)""", ["MatMul Relu Add"], []),
    "across a diamond": (
        "float[4,8] x, float[8,8] w => float[4,8] y", """
        m = MatMul (x, w)
        s = Sigmoid (m)
        p = Mul (m, s)
        y = Tanh (p)""", ["MatMul Sigmoid Mul Tanh"], []),
    "but not past a value that another kernel needs": (
        "float[4,8] x, float[8,8] w => float[4,8] y, float[8] z", """
        m = MatMul (x, w)
        a = Relu (m)
        y = Abs (a)
        axis = Constant <value_ints = [0]> ()
        z = ReduceSum <keepdims = 0> (a, axis)""", ["MatMul Relu", "Abs", "ReduceSum"], []),
    "nor past an output, even one that is read on": (
        "float[4,8] x, float[8,8] w => float[4,8] m, float[4,8] y", """
        m = MatMul (x, w)
        y = Relu (m)""", ["MatMul", "Relu"], []),
    "where two anchors meet, the later one takes the node": (
        "float[4,8] x, float[8,8] w => float[4,8] y", """
        a = MatMul (x, w)
        b = MatMul (a, w)
        c = Relu (b)
        y = Add (c, a)""", ["MatMul", "MatMul Relu Add"], []),
    "one that closes over the other's value": (
        "float[4,8] x, float[8,8] w => float[4,8] y", """
        a = MatMul (x, w)
        s = Sigmoid (a)
        b = MatMul (s, w)
        p = Mul (b, s)
        y = Add (p, a)""", ["MatMul", "Sigmoid", "MatMul Mul Add"], []),
    "a growing result stays outside": (
        "float[1,8] x, float[8,8] w, float[4,8] r => float[4,8] y", """
        m = MatMul (x, w)
        y = Add (m, r)""", ["MatMul", "Add"], []),
    "an epilogue turns rows and reshapes": (
        "float[4,8] x, float[8,6] w => float[3,4,2] y", """
        m = MatMul (x, w)
        n = Constant <value_ints = [4, 3, 2]> ()
        v = Reshape (m, n)
        y = Transpose <perm = [1, 0, 2]> (v)""", ["MatMul Reshape Transpose"], []),
    "the other input of an epilogue is computed inside": (
        "float[4,8] x, float[8,8] w, float[8,4] r => float[4,8] y", """
        t = Transpose (r)
        e = Exp (t)
        m = MatMul (x, w)
        y = Add (m, e)""", ["Transpose Exp MatMul Add"], []),
    "copies in front of a matmul, but no arithmetic that it would repeat": (
        "float[8,40] x, float[8,40] w => float[40,40] y", """
        t = Transpose (x)
        a = Relu (w)
        y = MatMul (t, a)""", ["Relu", "Transpose MatMul"], []),
    "a reduction reads each element once": (
        "float[400,80] x => float[400,1] y", """
        a = Exp (x)
        axis = Constant <value_ints = [1]> ()
        y = ReduceSum (a, axis)""", ["Exp ReduceSum"], []),
    "a cheap small value is computed anew for each row": (
        "float[80] b, float[40,80] x => float[40,80] y", """
        c = Add (b, b)
        y = Mul (x, c)""", ["Add Mul"], []),
    "a costly or large one is not": (
        "float[80] b, float[400,80] x => float[400,80] y", """
        c = Exp (b)
        y = Mul (x, c)""", ["Exp", "Mul"], []),
    "a value that two kernels read is computed once": (
        "float[40,80] x => float[40,80] y, float[40,80] z", """
        a = Relu (x)
        y = Exp (a)
        z = Sqrt (a)""", ["Relu", "Exp", "Sqrt"], []),
    "unless both are in the same kernel": (
        "float[40,80] x => float[40,80] y", """
        a = Relu (x)
        b = Exp (a)
        c = Sqrt (a)
        y = Add (b, c)""", ["Relu Exp Sqrt Add"], []),
    "halves of one value": (
        "float[40,80] x => float[40,40] y", """
        zero = Constant <value_ints = [0]> ()
        half = Constant <value_ints = [40]> ()
        end = Constant <value_ints = [80]> ()
        axis = Constant <value_ints = [1]> ()
        a = Exp (x)
        b = Slice (a, zero, half, axis)
        c = Slice (a, half, end, axis)
        y = Add (b, c)""", ["Exp Slice Slice Add"], []),
    "shifted sums are not repeated again and again": (
        "float[9000] x => float[8996] y", """
        zero = Constant <value_ints = [0]> ()
        one = Constant <value_ints = [1]> ()
        end = Constant <value_ints = [9000]> ()
        back = Constant <value_ints = [-1]> ()
        a0 = Slice (x, zero, back)
        a1 = Slice (x, one, end)
        a = Mul (a0, a1)
        b0 = Slice (a, zero, back)
        b1 = Slice (a, one, end)
        b = Mul (b0, b1)
        c0 = Slice (b, zero, back)
        c1 = Slice (b, one, end)
        c = Mul (c0, c1)
        d0 = Slice (c, zero, back)
        d1 = Slice (c, one, end)
        y = Mul (d0, d1)""", ["Slice Slice Mul", "Slice Slice Mul Slice Slice Mul Slice Slice Mul"], []),
    "parts are computed where they go, and what follows with them": (
        "float[4,8] x, float[4,8] z => float[4,24] y", """
        a = Exp (x)
        b = Relu (z)
        c = Concat <axis = 1> (a, b, x)
        d = Sigmoid (c)
        y = Neg (d)""", ["Exp Relu Concat Sigmoid Neg"], []),
    "a view is memory under another shape": (
        "float[4,8] x, float[8,8] w => float[32] y, float[8,4] z", """
        m = MatMul (x, w)
        n = Constant <value_ints = [32]> ()
        v = Reshape (m, n)
        y = Exp (v)
        k = Constant <value_ints = [8, 4]> ()
        u = Reshape (m, k)
        z = Softmax (u)""", ["MatMul", "Exp", "Softmax"], ["v", "u"]),
    "of an input, too, but an output has its own": (
        "float[4,8] x => float[32] y, float[8,4] z", """
        n = Constant <value_ints = [32]> ()
        y = Reshape (x, n)
        k = Constant <value_ints = [8, 4]> ()
        u = Reshape (x, k)
        z = Softmax (u)""", ["Reshape", "Softmax"], ["u"]),
    "two results, no epilogue": (
        "float[4,8] x => float[4,3] y, int64[4,3] i", """
        k = Constant <value_ints = [3]> ()
        v, i = TopK (x, k)
        y = Relu (v)""", ["TopK", "Relu"], []),
    "what nobody needs is left out": (
        "float[4,8] x, float[8,8] w => float[4,8] y", """
        m = MatMul (x, w)
        dead = Exp (m)
        y = Relu (m)""", ["MatMul Relu"], []),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_groups(name):
    signature, body, groups, aliases = GRAPHS[name]
    inputs, outputs = signature.split(" => ")
    text = f'<ir_version: 10, opset_import: ["" : 23]> g ({inputs}) => ({outputs}) {{ {body} }}'
    model = ir.from_proto(onnx.shape_inference.infer_shapes(parser.parse_model(text), data_prop=True))
    LiftConstants()(model)
    parts = partition(model)
    assert [" ".join(n.op_type for n in g.nodes) for g in parts.groups] == groups
    assert [v.name for v in parts.aliases] == aliases
    made = set(model.graph.inputs)
    for g in parts.groups:      # in an order in which they can run
        assert all(parts.region(v).root in made or v.const_value is not None for v in g.inputs)
        made.update(parts.region(v).root for v in g.outputs)
    assert set(model.graph.outputs) <= made
