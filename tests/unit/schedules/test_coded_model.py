"""Models whose weights are codes, from ONNX to kernels: equal to onnxruntime, with the codes in the artifact."""

import numpy as np
import onnx_ir as ir
import pytest
from burnish.compiler import driver
from burnish.compiler.compress.shift import shift
from burnish.compiler.planner import plan
from burnish.compiler.sample import reference
from burnish.passes.compress.layers import layers
from burnish.passes.compress.treatment import Treatment
from burnish.schedules.candidate import default
from onnx import TensorProto, helper, numpy_helper

from .harness import WASM, ZEN5, interpreted, run  # noqa: F401

RNG = np.random.default_rng(17)


def model(nodes, x, y, **constants):
    values = [numpy_helper.from_array(v, name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)], values)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ir.from_proto(made)


def outputs(made, feeds, device):
    """What the kernels compute, one after another, and the bytes of the artifact's weights."""
    lowered = driver.lower_model(made.clone())
    choices = driver.decide((g.task for g in lowered.groups), device, "test", {})
    size = plan("test", lowered.model, lowered.groups, choices, device)[1].nbytes
    memory = {v.name: feeds[v.name] for v in lowered.model.graph.inputs}
    for low in lowered.groups:
        given = {n: b if isinstance(b, np.ndarray) else memory[b.root.name] for n, b in enumerate(low.bindings)
                 if low.task.buffers[n].role != "output"}
        given = {n: a.reshape(low.task.buffers[n].shape) for n, a in given.items()}
        c = default(low.task, device)
        results = run(c.maker, low.task, given, device, c.knobs)
        for n, result in zip(low.task.outputs, results, strict=True):
            root = low.bindings[n].root
            memory[root.name] = result.reshape(tuple(root.shape.numpy()))
    return [memory[v.name] for v in lowered.model.graph.outputs], size, [g.task for g in lowered.groups]


def quantized(weight, axis, bits, block=0):
    """int8 codes and scales of a weight: per channel, or in blocks along the other axis of a matrix."""
    top = 7 if bits == 4 else 127
    if block:
        k = weight.shape[0]
        scale = np.abs(np.pad(weight, [(0, -k % block), (0, 0)]).reshape(-1, block, weight.shape[1])).max(axis=1) / top
        wide = np.repeat(scale, block, axis=0)[:k]
    else:
        scale = np.abs(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)).max(axis=1) / top
        wide = scale.reshape([-1 if a == axis else 1 for a in range(weight.ndim)])
    return np.round(weight / wide).astype("i1"), scale.astype("f4")


def dequantize(axis, block=0):
    attributes = {"block_size": block} if block else {}
    return helper.make_node("DequantizeLinear", ["codes", "scale"], ["w"], name="decode", axis=axis, **attributes)


def check(made, x, family):
    """One kernel, of codes, that equals onnxruntime; the bytes of the artifact's weights."""
    feed = {"x": RNG.standard_normal(x).astype("f4")}
    (want,) = reference(made, feed, optimize=False)     # optimised, it rounds what meets bytes to bytes
    (got,), size, tasks = outputs(made, feed, ZEN5)
    assert [(t.family, "code" in t.params) for t in tasks if t.family != "generic"] == [(family, True)]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
    return size


@pytest.mark.parametrize("bits, block", [(8, 0), (4, 0), (4, 32), (8, 16)])
@pytest.mark.parametrize("m", [1, 40])
def test_matmul_of_integers(bits, block, m):
    w = RNG.standard_normal((100, 144)).astype("f4")
    codes, scale = quantized(w, 1, bits, block)
    made = model([dequantize(0 if block else 1, block), helper.make_node("MatMul", ["x", "w"], ["t"], name="product"),
                  helper.make_node("Add", ["t", "b"], ["s"], name="bias"), helper.make_node("Relu", ["s"], ["y"], name="relu")],
                 [1, m, 100], [1, m, 144], codes=codes, scale=scale, b=RNG.standard_normal(144).astype("f4"))
    size = check(made, [1, m, 100], "gemm")
    assert size <= (100 * 144 * bits / 8 + scale.nbytes) * 192 / 144 + 144 * 4 + 256      # panels are padded


CONVS = {"pointwise": ((32, 24, 1, 1), {}), "window": ((32, 24, 3, 3), {"pads": [1, 1, 1, 1]}),
         "strided": ((33, 24, 3, 2), {"strides": [2, 2]}), "depthwise": ((24, 1, 3, 3), {"group": 24}),
         "grouped": ((36, 12, 3, 3), {"group": 2})}


@pytest.mark.parametrize("form", CONVS)
@pytest.mark.parametrize("bits", [8, 4])
def test_convolutions_of_integers(form, bits):
    shape, attributes = CONVS[form]
    codes, scale = quantized(RNG.standard_normal(shape).astype("f4"), 0, bits)
    conv = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv", kernel_shape=shape[2:], **attributes)
    b = RNG.standard_normal(shape[0]).astype("f4")
    made = model([dequantize(0), conv], [1, 24, 9, 10], None, codes=codes, scale=scale, b=b)
    family = {"pointwise": "gemm", "depthwise": "depthwise"}.get(form, "conv")
    size = check(made, [1, 24, 9, 10], family)
    assert size <= 2 * codes.size * bits / 8 + 2 * 4 * shape[0] + 256     # panels are padded


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("device", [ZEN5, WASM], ids=lambda d: d.name)
def test_powers_of_two(terms, device):
    """A 3x3 convolution, a depthwise one, a 1x1 one and a matrix product, all but the depthwise one of codes."""
    nodes = [helper.make_node("Conv", ["x", "a", "d"], ["t1"], name="first", kernel_shape=[3, 3]),
             helper.make_node("Relu", ["t1"], ["t2"], name="relu"),
             helper.make_node("Conv", ["t2", "b"], ["t3"], name="second", kernel_shape=[3, 3], group=16),
             helper.make_node("Conv", ["t3", "c"], ["t4"], name="third", kernel_shape=[1, 1]),
             helper.make_node("GlobalAveragePool", ["t4"], ["t5"], name="pool"),
             helper.make_node("Flatten", ["t5"], ["t6"], name="flat"),
             helper.make_node("MatMul", ["t6", "e"], ["y"], name="head")]
    shapes = {"a": (16, 3, 3, 3), "d": (16,), "b": (16, 1, 3, 3), "c": (40, 16, 1, 1), "e": (40, 50)}
    made = model(nodes, [1, 3, 12, 11], [1, 50], **{n: RNG.standard_normal(s).astype("f4") for n, s in shapes.items()})
    driver.passes.canonicalize(made, frozenset(driver.LOWERINGS))
    shift(made, {x.name: Treatment(shift=terms) for x in layers(made)}, None)
    made = ir.from_proto(ir.to_proto(made))
    feed = {"x": RNG.standard_normal((1, 3, 12, 11)).astype("f4")}
    (want,) = reference(made, feed, optimize=False)     # optimised, it rounds what meets bytes to bytes
    (got,), _, tasks = outputs(made, feed, device)
    assert sorted(t.family for t in tasks if "code" in t.params) == ["conv", "gemm", "gemm"]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("nodes, x, shape", [
    ([helper.make_node("MatMul", ["x", "w"], ["y"], name="column")], [3, 30], (30, 1)),
    ([helper.make_node("Conv", ["x", "w"], ["y"], name="conv", kernel_shape=[2, 3, 2])], [1, 3, 4, 5, 6], (5, 3, 2, 3, 2)),
    ([helper.make_node("MatMul", ["x", "w"], ["t"], name="once"), helper.make_node("MatMul", ["t", "w"], ["y"], name="twice")],
     [3, 20], (20, 20))])
def test_what_has_no_kernel_for_codes_reads_them_decoded(nodes, x, shape):
    """A single column, three dimensions; and codes that two products read."""
    made = model(nodes, x, None, w=RNG.standard_normal(shape).astype("f4"))
    driver.passes.canonicalize(made, frozenset(driver.LOWERINGS))
    first = layers(made)[0]
    old = first.node.inputs[1]
    shift(made, {first.name: Treatment(shift=2)}, None)
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, first.node.inputs[1])
    made = ir.from_proto(ir.to_proto(made))
    feed = {"x": RNG.standard_normal(x).astype("f4")}
    (want,) = reference(made, feed, optimize=False)
    (got,), _, _ = outputs(made, feed, ZEN5)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
