"""The lowerings of the integer ops against their numpy references, to the last bit; none of their expressions is a float."""

import numpy as np
import onnx
import pytest
from burnish.compiler.lower.registry import LOWERINGS, Anchor, Context
from burnish.passes.compress import integer_math
from burnish.schedules.expr import FLOATS, indices, post_order
from onnx import helper

from .forms import with_results
from .harness import Group, assert_close, const, node_model, run

rng = np.random.default_rng(0)
INT32 = np.iinfo(np.int32)


def check(op, *inputs, expected, **attributes):
    tensors = {k: onnx.numpy_helper.from_array(v) if isinstance(v, np.ndarray) else int(v) for k, v in attributes.items()}
    proto, given = node_model(op, inputs, tensors, len(expected), domain="burnish")
    model = with_results(proto, expected)
    assert_close(run(model, given), expected)
    node = model.graph.node(0)
    arrays = [v.const_value.numpy() if v.const_value is not None else given[v.name] for v in node.inputs]
    group = Group(node, arrays)
    result = LOWERINGS["burnish", op].function(Context(node, [group.tensor(n) for n in range(len(arrays))], group))
    if isinstance(result, Anchor):
        roots = [s.value for s in result.stages] + [o.value for o in result.outputs]
    else:
        roots = [result.at(indices(len(result.shape)))]
    assert not [e for e in post_order(roots) if e.dtype in FLOATS]


@pytest.mark.parametrize("ratio", [1e-12, 3e-5, 0.1, 1.0, 5.0, 1e12])
@pytest.mark.parametrize("zero, low, high, dtype", [(3, 0, 127, "u1"), (-7, -128, 127, "i1"), (0, INT32.min, INT32.max, "i4")])
def test_requantize(ratio, zero, low, high, dtype):
    x = rng.integers(INT32.min, INT32.max, (20, 5), np.int32, endpoint=True)
    x[0], x[1] = np.arange(5) - 2, (INT32.min, INT32.max, 0, 1, -1)
    for factor in (ratio, ratio * np.array([1, -0.3, 0.01, 0, 0.5])):
        multiplier, shift = integer_math.fixed_point(factor)
        want = integer_math.requantize(x, multiplier, shift, zero, low, high).astype(dtype)
        check("Requantize", x, const(multiplier), shift=shift, zero=zero, low=low, high=high,
              to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), expected=[want])


def test_requantize_by_row():
    """Multipliers that are computed, and bytes in place of sums."""
    x, multiplier = rng.integers(0, 256, (4, 6), np.uint8), rng.integers(0, INT32.max, (4, 1), np.int32)
    want = integer_math.requantize(x, multiplier, 31, 0, 0, 255).astype("u1")
    check("Requantize", x, multiplier, shift=31, zero=0, low=0, high=255, to=2, expected=[want])


@pytest.mark.parametrize("dtype", ["u1", "i4"])
def test_lookup(dtype):
    table, x = rng.integers(0, 256, 100, np.uint8), rng.integers(0, 130, (3, 40)).astype(dtype)
    check("Lookup", x, table=table, expected=[table[np.minimum(x, 99)]])


@pytest.mark.parametrize("shape", [(3, 197), (2, 5, 8), (4, 1)])
def test_softmax(shape):
    table = integer_math.exponentials(1 / 128, 128 * 128 - 1, 2048)
    x = rng.integers(-2000, 2000, shape).astype(np.int32)
    want = integer_math.softmax(x, table, 128, 1 << 44)
    check("IntegerSoftmax", x, table=table, radix=128, numerator=1 << 44, expected=want)


@pytest.mark.parametrize("shape, size", [((3, 192), 1000), ((2, 5, 7), 30000), ((4, 384), 1), ((2, 8), 0)])
def test_layer_norm(shape, size):
    x = np.clip(rng.standard_normal(shape) * size + 300, -65535, 65535).astype(np.int32)
    check("IntegerLayerNorm", x, count=shape[-1], root=integer_math.layer_norm_root(shape[-1]), epsilon=5,
          expected=[integer_math.layer_norm(x, 5).astype(np.int32)])


@pytest.mark.parametrize("scale", [0.004, 0.03, 0.1])
def test_gelu(scale):
    x = np.rint(rng.uniform(-25, 25, 300) / scale).astype(np.int32)
    one, bits = integer_math.gelu_constants(scale)
    check("IntegerGelu", x, one=one, bits=bits, expected=[integer_math.gelu(x, one, bits).astype(np.int32)])
