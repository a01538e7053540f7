"""Matrix products against numpy's broadcasting and onnxruntime."""

import numpy as np
import onnx_ir as ir
import pytest
from burnish.compiler.lower.registry import LOWERINGS, Context

from .harness import Group, check, const, node_model

rng = np.random.default_rng(0)
SHAPES = [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)),
          ((2, 1, 3, 4), (6, 4, 5)), ((4,), (2, 4, 5)), ((3, 2, 4, 5), (5,)), ((2, 3, 4), (1, 4, 5)), ((1, 4), (3, 4, 1)),
          ((3, 4), (2, 2, 4, 5)), ((2, 0, 4), (4, 5)), ((2, 3, 0), (0, 5))]


def normal(*shape, dtype="f4"):
    return rng.standard_normal(shape).astype(dtype) if dtype[0] == "f" else rng.integers(-9, 9, shape).astype(dtype)


def anchor(op, inputs, **attributes):
    node = ir.from_proto(node_model(op, inputs, attributes)[0]).graph.node(0)
    group = Group(node, [np.asarray(getattr(a, "value", a)) for a in inputs])
    return LOWERINGS["", op].function(Context(node, [group.tensor(n) for n in range(len(inputs))], group))


@pytest.mark.parametrize("a, b", SHAPES, ids=str)
def test_matmul(a, b):
    check("MatMul", normal(*a), normal(*b))
    check("MatMul", normal(*a), const(normal(*b)))


@pytest.mark.parametrize("dtype", ["i4", "i8", "f8", "f2"])
def test_other_types(dtype):
    check("MatMul", normal(2, 3, 4, dtype=dtype), normal(4, 5, dtype=dtype), by="onnx", tolerance=1e-2 if dtype == "f2" else 1e-9)


@pytest.mark.parametrize("c", [None, (3, 5), (5,), (3, 1), ()])
@pytest.mark.parametrize("trans_a, trans_b", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_gemm(trans_a, trans_b, c):
    a, b = normal(*((4, 3) if trans_a else (3, 4))), normal(*((5, 4) if trans_b else (4, 5)))
    bias = [] if c is None else [normal(*c)]
    for known in (const, lambda w: w):
        check("Gemm", a, known(b), *bias, alpha=0.5, beta=2.0, transA=trans_a, transB=trans_b)


def test_families():
    """Constant weights are packed and A's batch joins its rows; computed ones are an operand; one column is a row-wise sum."""
    known = anchor("MatMul", [normal(2, 3, 4), const(normal(4, 5))])
    assert known.family == "gemm" and known.params["m"] == 6 and set(known.operands) == {"x"}
    computed = anchor("MatMul", [normal(2, 3, 4), normal(2, 4, 5)])
    assert computed.params["batch"] == 2 and set(computed.operands) == {"x", "w"}
    assert anchor("MatMul", [normal(2, 3, 4), normal(4, 1)]).params["lanes_on"] == "reduce"


