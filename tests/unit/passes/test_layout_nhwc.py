"""Channels-last layout: the same outputs, and no Transpose but those that a change of layout really needs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from burnish.passes.fuse.silu import FuseSiLU
from burnish.passes.layout.absorb_flatten import AbsorbFlatten
from burnish.passes.layout.nhwc import ChannelsLast
from burnish.passes.layout.perms import through_reshape
from harness import check, load, ops
from onnx import numpy_helper, parser

Weight = tuple[int, ...] | list[int] | np.ndarray | np.float32


def net(body: str, x: str, y: str, **weights: Weight) -> ir.Model:
    """A model from `body` with constants: random float32 of a shape (a tuple), int64 (a list), or the array given."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 26]>\ng ({x}) => ({y}) {{ {body} }}')
    for name, w in weights.items():
        if isinstance(w, tuple):
            w = rng.normal(size=w, scale=0.3).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(w), name))
    return load(model)


def transposes(model: ir.Model) -> int:
    return ops(model).count("Transpose")


SAME = "pads = [1, 1, 1, 1]"


def test_convolution_of_run_time_weight() -> None:
    m = check(net("y = Conv<strides = [2, 2], pads = [1, 0, 2, 1]>(x, w)",
                  "float[2,3,9,7] x, float[8,3,3,2] w", "float[2,8,5,4] y"), ChannelsLast())
    assert ops(m) == ["Transpose", "NhwcConv", "Transpose"]


def test_residual_depthwise_and_squeeze_excite() -> None:
    """An inverted residual with SE: one Transpose in, none inside, none out (pooled to a vector, through Flatten, to a Gemm)."""
    m = check(net(f"""
        a = Conv<strides = [2, 2], {SAME}>(x, stem)
        e = Conv(a, expand)
        s = Add(e, shift)
        r = Clip(s, zero, six)
        d = Conv<group = 12, {SAME}>(r, dw)
        g = GlobalAveragePool(d)
        g1 = Conv(g, se1)
        g2 = HardSigmoid(g1)
        m = Mul(d, g2)
        p = Conv(m, project)
        q = Add(a, p)
        v = ReduceMean<keepdims = 0>(q, hw)
        y = Gemm(v, fc)""",
        "float[2,3,11,9] x", "float[2,5] y", stem=(6, 3, 3, 3), expand=(12, 6, 1, 1), shift=(12, 1, 1), dw=(12, 1, 3, 3),
        se1=(12, 12, 1, 1), project=(6, 12, 1, 1), fc=(6, 5), zero=np.float32(0), six=np.float32(6), hw=[2, 3]), ChannelsLast())
    assert transposes(m) == 1 and ops(m)[0] == "Transpose"
    assert "ReduceMean" in ops(m) and "GlobalAveragePool" not in ops(m)
    assert (6,) not in {tuple(v.shape.numpy()) for v in m.graph.initializers.values() if v.name == "shift"}
    assert any(tuple(v.shape.numpy()) == (12,) for v in m.graph.initializers.values()), "[C,1,1] becomes [C]"


def test_concat_split_upsample_slice_pad() -> None:
    """A U-net in miniature, with every op that has axes."""
    m = check(net(f"""
        a = Conv<{SAME}>(x, w1)
        b = MaxPool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>(a)
        c = Conv<{SAME}>(b, w2)
        u = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(c, , , sizes)
        t = Concat<axis = 1>(u, a)
        p, q = Split<axis = -3, num_outputs = 2>(t)
        q1 = Slice(q, zero, seven, last)
        q2 = Pad(q1, pads)
        l = PRelu(p, slope)
        z = Mul(l, q2)
        k = Softmax<axis = 1>(z)
        d = DepthToSpace<blocksize = 2, mode = "CRD">(k)
        y = ArgMax<axis = 1, keepdims = 0>(d)""",
        "float[1,3,11,9] x", "int64[1,22,18] y", w1=(8, 3, 3, 3), w2=(8, 8, 3, 3), slope=(8, 1, 1),
        sizes=[1, 8, 11, 9], zero=[0], seven=[7], last=[3], pads=[0, 0, 0, 1, 0, 0, 0, 1]), ChannelsLast())
    assert transposes(m) == 1
    assert {"NhwcMaxPool", "NhwcDepthToSpace", "Resize", "Softmax"} <= set(ops(m))


def test_convnext_block_has_no_inner_transpose() -> None:
    m = check(net("""
        a = Conv<strides = [4, 4]>(x, stem)
        d = Conv<group = 8, pads = [3, 3, 3, 3]>(a, dw)
        l = Transpose<perm = [0, 2, 3, 1]>(d)
        n = LayerNormalization<axis = -1>(l, gamma, beta)
        f = MatMul(n, up)
        r = Relu(f)
        h = MatMul(r, down)
        b = Transpose<perm = [0, 3, 1, 2]>(h)
        s = Mul(b, scale)
        o = Add(s, a)
        y = ReduceMean<keepdims = 0>(o, hw)""",
        "float[1,3,20,24] x", "float[1,8] y", stem=(8, 3, 4, 4), dw=(8, 1, 7, 7), gamma=(8,), beta=(8,),
        up=(8, 32), down=(32, 8), scale=(8, 1, 1), hw=[-2, -1]), ChannelsLast())
    assert transposes(m) == 1


def test_patch_embedding_and_detection_head() -> None:
    """[N,C,H,W] -> [N,C,HW] -> [N,HW,C] is a view; heads joined along HW leave one Transpose, on the output."""
    m = check(net("""
        a = Conv<strides = [4, 4]>(x, w)
        f = Reshape(a, flat)
        t = Transpose<perm = [0, 2, 1]>(f)
        y = MatMul(t, m)""",
        "float[1,3,16,12] x", "float[1,12,5] y", w=(8, 3, 4, 4), flat=[0, 8, -1], m=(8, 5)), ChannelsLast())
    assert transposes(m) == 1
    m = check(net("""
        a = Conv<strides = [2, 2]>(x, w)
        b = Conv<strides = [2, 2]>(a, v)
        p = Reshape(a, flat)
        q = Reshape(b, flat)
        c = Concat<axis = 2>(p, q)
        y = Sigmoid(c)""",
        "float[1,3,17,13] x", "float[1,6,60] y", w=(6, 3, 2, 2), v=(6, 6, 2, 2), flat=[1, 6, -1]), ChannelsLast())
    assert transposes(m) == 2


def test_channel_shuffle_costs_one_transpose() -> None:
    m = check(net(f"""
        a = Conv<group = 2, {SAME}>(x, w)
        g = Reshape(a, grouped)
        t = Transpose<perm = [0, 2, 1, 3, 4]>(g)
        b = Reshape(t, back)
        c = Conv<group = 8, {SAME}>(b, v)
        y = GlobalMaxPool(c)""",
        "float[1,4,5,7] x", "float[1,8,1,1] y", w=(8, 2, 3, 3), v=(8, 1, 3, 3), grouped=[1, 2, 4, 5, 7],
        back=[1, 8, 5, 7]), ChannelsLast())
    assert transposes(m) == 2       # the input's, and the shuffle's own


@pytest.mark.parametrize("dims", [(7,), (5, 6, 7)])
def test_one_and_three_dimensions(dims: tuple[int, ...]) -> None:
    n, small = len(dims), [d // 2 for d in dims]
    text = ",".join(map(str, dims))
    out = ",".join(str(2 * s) for s in small)
    m = check(net(f"""
        a = Conv<pads = {[1] * 2 * n}>(x, w, b)
        i = InstanceNormalization(a, gamma, beta)
        j = GroupNormalization<num_groups = 2>(i, gamma, beta)
        p = AveragePool<kernel_shape = {[2] * n}, strides = {[2] * n}>(j)
        l = LeakyRelu(p)
        y = ConvTranspose<strides = {[2] * n}>(l, v)""",
        f"float[2,3,{text}] x", f"float[2,4,{out}] y", w=(6, 3, *[3] * n), b=(6,), gamma=(6,),
        beta=(6,), v=(6, 4, *[2] * n)), ChannelsLast())
    assert transposes(m) == 2 and {x.overload for x in m.graph if x.domain == "burnish"} == {f"{n}d"}


def test_lone_pool_stays() -> None:
    """Two Transposes would cost more than the pool gains; the reason is given."""
    layout = ChannelsLast()
    check(net("y = MaxPool<kernel_shape = [2, 2]>(x)", "float[1,8,9,9] x", "float[1,8,8,8] y"), layout, changed=False)
    assert "cost more" in layout.misses[0].reason


def test_outputs_keep_names_and_shapes() -> None:
    """A value that is read, an output and the input of a subgraph at once."""
    m = check(net(f"""
        y = Conv<{SAME}>(x, w)
        z = Relu(y)
        t = Transpose<perm = [0, 2, 3, 1]>(y)
        t2 = Transpose<perm = [0, 3, 1, 2]>(t)
        s = Shape(y)
        """,
        "float[1,4,5,5] x",
        "float[1,4,5,5] y, float[1,4,5,5] z, float[1,5,5,4] t, float[1,4,5,5] t2, int64[4] s", w=(4, 4, 3, 3)),
        ChannelsLast())
    assert [o.name for o in m.graph.outputs] == ["y", "z", "t", "t2", "s"]
    assert transposes(m) == 2       # x in; y out, and t2 and z from it. t is how y is stored


def test_cubic_resize_and_run_time_operand_of_lower_rank() -> None:
    """Cubic Resize stays channels-first, for onnxruntime; a [H, W] operand is reshaped and transposed."""
    m = check(net(f"""
        a = Conv<{SAME}>(x, w)
        b = Mul(a, k)
        c = Resize<mode = "cubic">(b, , scales)
        y = Conv<{SAME}>(c, w)""",
        "float[1,3,6,5] x, float[6,5] k", "float[1,3,12,10] y", w=(3, 3, 3, 3),
        scales=np.array([1, 1, 2, 2], np.float32)), ChannelsLast())
    assert transposes(m) == 4 and ops(m).count("NhwcConv") == 2


def test_orders_through_reshape() -> None:
    last = (0, 2, 3, 1)
    assert through_reshape(last, (2, 6, 4, 5), (2, 6, 20)) == (0, 2, 1)
    assert through_reshape(last, (2, 6, 4, 5), (2, 2, 3, 4, 5)) == (0, 3, 4, 1, 2)
    assert through_reshape(last, (2, 6, 4, 5), (2, 120)) is None
    assert through_reshape(last, (2, 6, 1, 1), (2, 6)) == (0, 1)
    assert through_reshape((0, 1), (2, 6), (2, 6, 1, 1)) == last
    assert through_reshape((0, 2, 1), (1, 6, 20), (6, 20, 1)) is not None
    rng = np.random.default_rng(0)
    for _ in range(300):            # the stored arrays are a reshape of each other, by definition
        sizes = [int(s) for s in rng.integers(1, 4, rng.integers(1, 5))]
        target = [int(s) for s in rng.permutation([2, 3, 1, 1])[:2]]
        target = [*target, int(np.prod(sizes)) // max(1, int(np.prod(target)))]
        if np.prod(target) != np.prod(sizes):
            continue
        p = tuple(int(a) for a in rng.permutation(len(sizes)))
        q = through_reshape(p, tuple(sizes), tuple(target))
        x = rng.random(sizes)
        if q is not None:
            np.testing.assert_array_equal(x.transpose(p).ravel(), x.reshape(target).transpose(q).ravel())


def test_flatten_is_absorbed_by_the_next_weight() -> None:
    m = check(net(f"""
        a = Conv<{SAME}>(x, w)
        f = Reshape(a, flat)
        b = MatMul(f, v)
        y = Relu(b)""",
        "float[2,3,4,5] x", "float[2,7] y", w=(6, 3, 3, 3), flat=[2, 120], v=(120, 7)), ChannelsLast(), AbsorbFlatten())
    assert transposes(m) == 1
    check(net("t = Transpose<perm = [1, 0, 2]>(x) f = Reshape(t, flat) y = MatMul(f, v)",
              "float[2,3,4] x", "float[3,7] y", flat=[3, 8], v=(8, 7)), AbsorbFlatten(), changed=False)


def test_our_own_pointwise_ops_follow() -> None:
    m = check(net(f"""
        a = Conv<{SAME}>(x, w)
        s = Sigmoid(a)
        b = Mul(a, s)
        c = Conv<{SAME}>(b, v)
        y = GlobalAveragePool(c)""",
        "float[1,3,6,5] x", "float[1,4,1,1] y", w=(8, 3, 3, 3), v=(4, 8, 3, 3)), FuseSiLU(), ChannelsLast())
    assert transposes(m) == 1 and "SiLU" in ops(m)
