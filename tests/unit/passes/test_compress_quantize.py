"""Rounded weights, values that share scales, channels made alike: against numpy, and against onnxruntime before and after."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from burnish.passes.base import constant
from burnish.passes.compress import rounding
from burnish.passes.compress.equalize import factors, gain, scale, tied
from burnish.passes.compress.layers import Layer, layers
from burnish.passes.compress.quantize import round_weight, weight_bytes
from burnish.passes.compress.rounding import INT4, INT8
from burnish.passes.compress.smooth import loose, smooth
from burnish.passes.compress.stored import stored
from harness import assert_same, check_valid, load, random_inputs, run


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def weights(**arrays):
    """Initializers in ONNX's textual syntax."""
    def one(name, a):
        kind = "float" if a.dtype == np.float32 else "int64"
        dims = f"[{','.join(map(str, a.shape))}]" if a.ndim else ""
        return f"{kind}{dims} {name} = {{{','.join(map(repr, a.ravel().tolist()))}}}"
    return "<" + ", ".join(one(n, np.asarray(a, np.float32 if np.asarray(a).dtype.kind == "f" else np.int64))
                           for n, a in arrays.items()) + ">"


@pytest.mark.parametrize("codes", [INT8, INT4])
@pytest.mark.parametrize("shape, block", [((1, 64, 5), 0), ((3, 9, 1), 0), ((1, 96, 7), 32), ((1, 50, 4), 16), ((2, 1, 3), 0)])
@pytest.mark.parametrize("clip", ["range", "error"])
def test_the_nearest_codes_are_within_half_a_step(rng, codes, shape, block, clip):
    w = rng.standard_normal(shape).astype(np.float32)
    w[:, ::3] = 0
    scales = rounding.scales(w, codes, block, clip)
    got = rounding.nearest(w, scales, codes, block)
    wide = rounding.spread(scales, block or shape[1], shape[1])
    assert got.codes.dtype == np.int8 and got.codes.min() >= codes[0] and got.codes.max() <= codes[1]
    inside = (w >= wide * codes[0] * 1.0001) & (w <= wide * codes[1] * 1.0001)
    assert (np.abs(got.matrix - w)[inside] <= wide[inside] / 2 * 1.001).all()
    assert (got.codes[:, ::3] == 0).all()
    assert inside.all() or clip == "error"


def test_clipping_for_the_least_error_has_no_more_error(rng):
    w = rng.standard_t(3, (1, 400, 20)).astype(np.float32)
    cost = rng.uniform(0.1, 10, (1, 400)).astype(np.float32)

    def error(clip):
        got = rounding.nearest(w, rounding.scales(w, INT4, 0, clip, cost), INT4)
        return float((cost[..., None] * (got.matrix - w) ** 2).sum())
    assert error("error") < 0.8 * error("range")


def test_weights_of_zero_have_a_scale(rng):
    w = np.zeros((1, 8, 3), np.float32)
    got = rounding.nearest(w, rounding.scales(w))
    assert np.isfinite(got.scale).all() and (got.scale > 0).all() and (got.matrix == 0).all()


@pytest.mark.parametrize("groups, k, n, codes, block", [(1, 96, 12, INT4, 32), (1, 300, 8, INT4, 0), (40, 9, 1, INT8, 0),
                                                        (4, 30, 6, INT4, 10)])
def test_compensated_rounding_moves_the_output_less(rng, groups, k, n, codes, block):
    mix = rng.standard_normal((groups, k, k)) * 0.3 + np.eye(k)
    x = (np.abs(rng.standard_normal((groups, 4 * k + 50, k))) @ mix).astype(np.float32)
    w = rng.standard_normal((groups, k, n)).astype(np.float32)
    w[:, 1::4] = 0
    scales = rounding.scales(w, codes, block, "range")
    better = rounding.compensated(w, scales, list(x.transpose(0, 2, 1) @ x), codes, block)
    nearest = rounding.nearest(w, scales, codes, block)
    errors = [np.linalg.norm(x @ (r.matrix - w)) for r in (better, nearest)]
    assert errors[0] < 0.8 * errors[1]
    assert (better.codes[:, 1::4] == 0).all()
    assert better.codes.min() >= codes[0] and better.codes.max() <= codes[1]


def test_sweeps_over_groups_are_sweeps_over_each(rng):
    w = rng.standard_normal((5, 9, 2)).astype(np.float32)
    x = rng.standard_normal((5, 40, 9))
    hessians = list(x.transpose(0, 2, 1) @ x)
    scales = rounding.scales(w)
    together = rounding.compensated(w, scales, hessians).codes
    for g in range(5):
        np.testing.assert_array_equal(rounding.compensated(w[g:g + 1], scales[g:g + 1], hessians[g:g + 1]).codes[0], together[g])


CONV = """agraph (float[1,{ic},9,8] x) => (float[1,{oc},{h},{w}] y) {weights} {{
    y = Conv<group={group}, pads=[{p},{p},{p},{p}]>(x, w) }}"""


@pytest.mark.parametrize("oc, ic, group, taps, codes, block", [
    (6, 4, 1, 3, INT8, 0), (8, 8, 8, 3, INT8, 0), (6, 4, 2, 3, INT8, 0), (5, 64, 1, 1, INT4, 32), (5, 64, 1, 3, INT4, 32),
    (5, 40, 1, 1, INT4, 32)])
def test_a_rounded_convolution_is_the_convolution_with_rounded_weights(rng, oc, ic, group, taps, codes, block):
    w = rng.standard_normal((oc, ic // group, taps, taps)).astype(np.float32)
    text = CONV.format(ic=ic, oc=oc, h=9, w=8, p=taps // 2, group=group, weights=weights(w=w))
    model, plain = load(text), load(text)
    layer, = layers(model)
    rounded = rounding.nearest(layer.matrix, rounding.scales(layer.matrix, codes, block), codes, block)
    round_weight(model, layer, rounded)
    Layer(layers(plain)[0].node).replaced(plain, rounded.matrix)
    x = random_inputs(plain)
    assert_same(run(plain, x), run(model, x))
    check_valid(model)
    scales = rounded.scale.size * 4
    assert weight_bytes(layer.node) == (w.size // 2 if block else w.size) + scales


def test_a_rounded_matrix_product_is_the_product_with_rounded_weights(rng):
    w = rng.standard_normal((70, 6)).astype(np.float32)
    text = f"agraph (float[2,3,70] x) => (float[2,3,6] y) {weights(w=w)} {{ y = MatMul(x, w) }}"
    for codes, block in ((INT8, 0), (INT4, 32)):
        model = load(text)
        layer, = layers(model)
        rounded = rounding.nearest(layer.matrix, rounding.scales(layer.matrix, codes, block), codes, block)
        round_weight(model, layer, rounded)
        x = random_inputs(model)
        assert_same([x["x"] @ rounded.matrix[0]], run(model, x))


# ---- Which values are integers -------------------------------------------------------------------------------------------


def found(text, *only):
    """The stored values by name with the ops that read their integers, and the pairs of one scale."""
    model = load(text)
    places = stored(model, {x.node for x in layers(model) if not only or x.output.name in only})
    names = {v.name: sorted(node.outputs[0].name for node, _ in uses) for v, uses in places.values.items()}
    return names, {(a.name, b.name) for a, b in places.same}, {(a.name, b.name) for a, b in places.alike}


W = weights(w=np.ones((4, 4, 1, 1), "f4"), m=np.ones((8, 8), "f4"), g=np.ones(8, "f4"), six=np.float32(6).reshape(()),
            zero=np.float32(0).reshape(()), shape=np.array([1, 8, 4]))


def test_a_residual_sum_keeps_what_its_own_kernel_has_made():
    names, same, alike = found(f"""agraph (float[1,4,2,4] x) => (float[1,4,2,4] y) {W} {{
        a = Conv(x, w)  b = Clip(a, zero, six)  c = Conv(b, w)  d = Add(b, c)  e = Conv(d, w)  y = Relu(e) }}""")
    assert names == {"x": ["a"], "b": ["c", "d"], "d": ["e"]}       # neither a, in front of its Clip, nor c
    assert not same and not alike


def test_of_two_branches_one_is_stored():
    names, *_ = found(f"""agraph (float[1,4,2,4] x) => (float[1,4,2,4] y) {W} {{
        a = Conv(x, w)  b = Conv(x, w)  c = Add(a, b)  d = Relu(c)  y = Conv(d, w) }}""")
    assert names == {"x": ["a", "b"], "a": ["c"], "d": ["y"]}


def test_moved_values_share_a_scale_and_averages_do_not():
    names, same, alike = found(f"""agraph (float[1,4,4,8] x) => (float[1,4,1,2] y) {W} {{
        a = Conv(x, w)  b = Relu(a)  c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)  d = Conv(c, w)
        e = Concat<axis=3>(c, d)  f = AveragePool<kernel_shape=[2,4], strides=[2,4]>(e)  y = Conv(f, w) }}""")
    assert names == {"x": ["a"], "b": ["c"], "c": ["d", "e"], "d": ["e"], "e": ["f"], "f": ["y"]}
    assert same == {("b", "c")} and alike == {("c", "e"), ("d", "e")}


def test_what_float_ops_made_is_an_integer_for_integer_layers_only():
    names, *_ = found(f"""agraph (float[1,4,8] x) => (float[1,4,8] y) {W} {{
        a = LayerNormalization(x, g)  b = MatMul(a, m)  c = Gelu(b)  d = MatMul(c, m)  e = Add(a, d)  y = LayerNormalization(e, g)
    }}""")
    assert names == {"a": ["b"], "c": ["d"]}


def test_layers_left_in_float_and_outputs_stay_float():
    text = f"""agraph (float[1,4,2,4] x) => (float[1,4,2,4] y, float[1,4,2,4] b) {W} {{
        a = Conv(x, w)  b = Relu(a)  c = Conv(b, w)  d = Relu(c)  y = Conv(d, w) }}"""
    assert found(text, "c")[0] == {"b": ["c"]}
    assert found(text, "a")[0] == {"x": ["a"]}
    assert set(found(text)[0]) == {"x", "b", "d"}


def test_a_gate_that_is_read_twice_is_stored_once():
    names, *_ = found(f"""agraph (float[1,4,2,4] x) => (float[1,4,2,4] y) {W} {{
        a = Conv(x, w)  s = Sigmoid(a)  p = Mul(a, s)  y = Conv(p, w) }}""")
    assert names == {"x": ["a"], "a": ["p", "s"], "p": ["y"]}


# ---- Channels of alike range ---------------------------------------------------------------------------------------------


def wild(rng, *shape, axis=0):
    """Weights whose output channels differ a thousandfold."""
    a = rng.standard_normal(shape)
    sizes = 10.0 ** rng.uniform(-1.5, 1.5, shape[axis])
    return a * sizes.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def largest(model, group, x):
    values = {v.name: v for v in group.values}
    copy = model.clone()
    known = {o.name: o for n in copy.graph for o in n.outputs}
    already = [o.name for o in copy.graph.outputs]
    copy.graph.outputs.extend(known[n] for n in values if n in known and n not in already)
    out = dict(zip([o.name for o in copy.graph.outputs], run(copy, x), strict=True))
    arrays = [out.get(n, x.get(n)) for n in values]
    axis = group.axis
    return np.max([np.abs(a).max(axis=tuple(i for i in range(a.ndim) if i != axis % a.ndim)) for a in arrays], axis=0)


def test_convolutions_with_residuals_and_pools_keep_their_output(rng):
    text = f"""agraph (float[1,3,8,8] x) => (float[1,5,4,4] y)
        {weights(w=wild(rng, 6, 3, 3, 3), b=rng.standard_normal(6), d=wild(rng, 6, 1, 3, 3), p=wild(rng, 6, 6, 1, 1),
                 q=wild(rng, 6, 2, 1, 1, axis=1), o=rng.standard_normal((5, 6, 1, 1)))} {{
        a = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(a)  c = Conv<group=6, pads=[1,1,1,1]>(r, d)  l = LeakyRelu(c)
        e = Conv(l, p)  f = Conv<group=3>(e, q)  s = Add(e, f)  t = MaxPool<kernel_shape=[2,2], strides=[2,2]>(s)
        y = Conv(t, o) }}"""
    model = load(text)
    x = random_inputs(model)
    before = run(model, x)
    groups = tied(model, layers(model))
    assert sorted(sorted(v.name for v in g.values) for g in groups) == [["a", "r"], ["c", "l"], ["e", "f", "s", "t"]]
    for group in groups:
        was = largest(model, group, x)
        s = factors(group, was, 0.5)
        scale(model, group, s)
        now = largest(model, group, x)
        np.testing.assert_allclose(now, was * s, rtol=2e-4)
        assert now.max() / now.min() < was.max() / was.min() and np.isclose(now.max(), was.max(), rtol=1e-3)
    assert_same(before, run(model, x), 1e-4)


def test_a_norm_takes_the_factors_of_its_products_alone(rng):
    text = f"""agraph (float[2,7,6] x) => (float[2,7,4] y, float[2,7,5] z)
        {weights(g=wild(rng, 6), b=rng.standard_normal(6), m=rng.standard_normal((6, 4)), n=rng.standard_normal((6, 5)))} {{
        a = LayerNormalization(x, g, b)  y = MatMul(a, m)  z = MatMul(a, n) }}"""
    model = load(text)
    x = random_inputs(model)
    before = run(model, x)
    group, = tied(model, layers(model))
    assert len(group.readers) == 2 and len(group.norms) == 1
    scale(model, group, factors(group, largest(model, group, x), 0.5))
    assert_same(before, run(model, x), 1e-4)


@pytest.mark.parametrize("use", ["z = Sigmoid(a)", "z = Clip(a, zero, six)"])
def test_what_others_read_or_clip_is_no_group(rng, use):
    model = load(f"""agraph (float[1,3,4,4] x) => (float[1,3,4,4] y, float[1,3,4,4] z)
        {weights(w=wild(rng, 3, 3, 1, 1), zero=np.float32(0).reshape(()), six=np.float32(6).reshape(()))} {{
        a = Conv(x, w)  {use}  y = Conv(a, w) }}""")
    assert not tied(model, layers(model))


def test_smoothing_in_front_of_a_depthwise_convolution_is_exact_and_gains(rng):
    text = f"""agraph (float[1,6,5,5] x) => (float[1,6,5,5] y)
        {weights(m=wild(rng, 6, 1, 3, 3), n=rng.standard_normal((6, 1, 3, 3)))} {{
        a = Conv<group=6, pads=[1,1,1,1]>(x, m)  z = HardSwish(a)  y = Conv<group=6, pads=[1,1,1,1]>(z, n) }}"""
    model = load(text)
    x = random_inputs(model)
    before = run(model, x)
    group, = loose(layers(model), [])       # not the graph's input
    s = factors(group, largest(model, group, x), 0.5)
    assert gain(group, s) > 1.5 and gain(group, np.ones_like(s)) == pytest.approx(1)
    smooth(model, group, s)
    assert_same(before, run(model, x), 1e-4)
    check_valid(model)


def test_smoothing_is_exact(rng):
    text = f"""agraph (float[2,7,6] x) => (float[2,7,4] y, float[2,7,6] z)
        {weights(m=wild(rng, 6, 6), n=rng.standard_normal((6, 4)))} {{ a = MatMul(x, m)  z = Gelu(a)  y = MatMul(z, n) }}"""
    model = load(text)
    x = random_inputs(model)
    before = run(model, x)
    for group in loose(layers(model), []):
        smooth(model, group, factors(group, largest(model, group, x), 0.5))
    assert_same(before, run(model, x), 1e-4)
    check_valid(model)
    smoothing = [constant(n.inputs[1]) for n in model.graph if n.op_type == "Mul"]
    assert len(smoothing) == 2 and all(s.max() / s.min() > 1.5 for s in smoothing)
    assert isinstance(model, ir.Model)
