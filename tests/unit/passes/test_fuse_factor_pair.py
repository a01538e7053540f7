"""Two thin products behind each other become one op."""

from __future__ import annotations

import numpy as np
import pytest
from burnish.passes.fuse.factor_pair import FuseFactorPair
from burnish.passes.layout.nhwc import ChannelsLast
from harness import check, ops
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(5)


def model(nodes, x, **constants):
    values = [numpy_helper.from_array(np.asarray(v, "f4"), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


def linear(r=6, between=("u", "v"), extra=()):
    nodes = [helper.make_node("MatMul", ["x", "a"], ["t"], name="first"), *extra,
             helper.make_node("MatMul", ["t" if not between else "s", "b"], ["u_"], name="second"),
             helper.make_node("Add", ["u_", "d"], ["y"], name="bias")]
    if between:
        nodes.insert(1, helper.make_node("Add", ["c", "t"], ["s"], name="between"))
    return model(nodes, [2, 3, 10], a=RNG.standard_normal((10, r)), b=RNG.standard_normal((r, 9)), c=RNG.standard_normal(r),
                 d=RNG.standard_normal(9))


@pytest.mark.parametrize("between", [(), (1,)])
def test_matmuls(between) -> None:
    made = check(linear(between=between), FuseFactorPair())
    assert ops(made) == ["FactorPair", "Add"]


def convolutions(bias, **attributes):
    nodes = [helper.make_node("Conv", ["x", "a", *(["c"] if bias else [])], ["t"], name="first", kernel_shape=[1, 1]),
             helper.make_node("Conv", ["t", "b", "d"], ["y"], name="second", **attributes)]
    return model(nodes, [1, 10, 5, 4], a=RNG.standard_normal((6, 10, 1, 1)), b=RNG.standard_normal((9, 6, 1, 1)),
                 c=RNG.standard_normal(6), d=RNG.standard_normal(9))


@pytest.mark.parametrize("bias", [False, True])
def test_convolutions_of_channels_that_lie_last(bias) -> None:
    made = check(convolutions(bias), ChannelsLast(), FuseFactorPair())
    assert [op for op in ops(made) if op not in ("Transpose", "Reshape")] == ["FactorPair", "Add"]


def test_what_is_no_pair_stays() -> None:
    fuse = FuseFactorPair()
    check(linear(r=9), fuse, changed=False)
    assert "no fewer than 10 before or 9 behind" in fuse.misses[0].reason
    check(convolutions(True), fuse, changed=False)         # channels first: no matrix product of the last axis
    read_twice = linear(between=(), extra=[helper.make_node("Relu", ["t"], ["z"], name="other")])
    read_twice.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    check(read_twice, fuse, changed=False)
    strided = convolutions(True, strides=[2, 2])
    assert "FactorPair" not in ops(check(strided, ChannelsLast(), fuse))
