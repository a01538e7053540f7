"""Channels in another order: the same function, and groups that keep more of what matters."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from burnish.passes.compress.layers import layers
from burnish.passes.compress.permute import Pattern, best_order, permute, ties
from burnish.passes.compress.treatment import Sparsity
from harness import assert_same, check_valid, load, random_inputs, run
from onnx import numpy_helper

HALF = Sparsity(share=0.5, group=8)


def model(text: str, **shapes: tuple[int, ...]) -> ir.Model:
    """A graph in ONNX's textual syntax with random float constants of these shapes."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]>\n{text}')
    rng = np.random.default_rng(7)
    for name, dims in shapes.items():
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(dims).astype(np.float32), name))
    for i, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}{i}"
    return load(proto)


def moved(graph: ir.Model, sparsity: Sparsity = HALF) -> set[str]:
    """Permutes what can be, checks that nothing else has changed, and returns the layers whose channels have another order."""
    inputs, before = random_inputs(graph), {x.name: x.matrix for x in layers(graph)}
    outputs = run(graph, inputs)
    found = permute(graph, {x.name: sparsity for x in layers(graph)})
    check_valid(graph)
    assert_same(outputs, run(graph, inputs), 2e-5)
    assert not found or sum(b for _, b in found.values()) > sum(a for a, _ in found.values())
    after = {x.name: x.matrix for x in layers(graph)}
    return {n for n in found if not np.array_equal(before[n], after[n])}


def test_through_activations_depthwise_pools_and_flattening() -> None:
    graph = model("""g (float[1,3,12,12] x) => (float[1,10] y) <int64[2] to = {1, 288}> {
        a = Conv <pads = [1,1,1,1]> (x, w0, b0)
        r = Relu (a)
        d = Conv <group = 32, pads = [1,1,1,1], strides = [2,2]> (r, w1, b1)
        s = HardSwish (d)
        p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (s)
        f = Reshape (p, to)
        m = MatMul (f, w2)
        n = Add (m, b2)
        q = Gelu (n)
        y = MatMul (q, w3)
    }""", w0=(32, 3, 3, 3), b0=(32,), w1=(32, 1, 3, 3), b1=(32,), w2=(288, 40), b2=(40,), w3=(40, 10))
    assert moved(graph) == {"Conv0", "MatMul6"}


def test_a_residual_sum_ties_all_that_it_adds_up() -> None:
    graph = model("""g (float[1,6,8,8] x) => (float[1,5,8,8] y) {
        a = Conv (x, w0)
        b = Conv <pads = [1,1,1,1]> (a, w1, b1)
        c = Relu (b)
        d = Conv (c, w2)
        e = Add (a, d)
        f = Mul (e, scale)
        g = GlobalAveragePool (f)
        h = Conv (g, w3)
        i = Sigmoid (h)
        j = Mul (f, i)
        y = Conv (j, w4)
    }""", w0=(24, 6, 1, 1), w1=(32, 24, 3, 3), b1=(32,), w2=(24, 32, 1, 1), scale=(1, 24, 1, 1), w3=(24, 24, 1, 1),
                  w4=(5, 24, 1, 1))
    tied = {frozenset(x.name for x in t.makers) for t in ties(graph)}
    assert tied == {frozenset({"Conv0", "Conv3", "Conv7"}), frozenset({"Conv1"})}
    assert moved(graph) == {"Conv0", "Conv1", "Conv3", "Conv7"}


def test_a_transformers_stream_has_one_order_and_heads_keep_theirs() -> None:
    graph = model("""g (float[1,6,16] x) => (float[1,6,4] y) <int64[4] heads = {1,6,4,8}, int64[3] back = {1,6,32}> {
        a = MatMul (x, w0)
        n = LayerNormalization (a, scale, shift)
        v = MatMul (n, w1)
        h = Reshape (v, heads)
        t = Transpose <perm = [0,2,1,3]> (h)
        s = Softmax (t)
        u = Transpose <perm = [0,2,1,3]> (s)
        k = Reshape (u, back)
        o = MatMul (k, w2)
        r = Add (a, o)
        z = MatMul (r, w3)
        c = Add (z, b3)
        g = Gelu (c)
        y = MatMul (g, w4)
    }""", w0=(16, 32), scale=(32,), shift=(32,), w1=(32, 32), w2=(32, 32), w3=(32, 48), b3=(48,), w4=(48, 4))
    assert moved(graph) == {"MatMul0", "MatMul8", "MatMul10"}      # not what is split into heads


@pytest.mark.parametrize(("channels", "tail"), (
    (16, "y = Softmax (r)"), (8, "c = Concat <axis = 1> (r, r)\n y = Conv (c, w2)"), (16, "y = Identity (r)"),
    (8, "g = Conv <group = 2> (r, w3)\n y = Relu (g)"), (16, "t = Transpose <perm = [0,1,3,2]> (r)\n y = MatMul (t, t2)"),
    (8, "c = CumSum (r, one)\n y = Conv (c, w4)")))
def test_channels_whose_order_matters_stay(channels: int, tail: str) -> None:
    graph = model(f"""g (float[1,4,16,16] x) => (float[1,{channels},16,16] y) <int64 one = {{1}}> {{
        a = Conv (x, w0)
        r = Relu (a)
        {tail}
    }}""", w0=(16, 4, 1, 1), w2=(8, 32, 1, 1), w3=(8, 8, 1, 1), w4=(8, 16, 1, 1), t2=(16, 16))
    assert not moved(graph)


def test_a_clear_order_is_found() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 4, 64)
    scores = np.where(np.arange(40)[:, None] // 10 == kinds, 1.0, 0.01) + 1e-3 * rng.random((40, 64))
    pattern = Pattern(scores, Sparsity(share=0.25, group=8), 10)
    order = best_order([pattern], rng)
    assert sorted(order) == list(range(64))
    best = scores.sum() * 0.9
    assert pattern.retained(np.arange(64)) < 0.6 * best < pattern.retained(order)


@pytest.mark.parametrize("sparsity",
                         (Sparsity(2, 4, group=16), Sparsity(share=0.3, group=8, step=4), Sparsity(share=0.5, group=12)))
def test_groups_that_do_not_divide_the_channels(sparsity: Sparsity) -> None:
    graph = model("""g (float[3,27] x) => (float[3,5] y) {
        a = MatMul (x, w0)
        r = Relu (a)
        y = MatMul (r, w1)
    }""", w0=(27, 41), w1=(41, 5))
    assert moved(graph, sparsity) == {"MatMul0"}


def test_what_a_row_counts_for_follows_its_channel() -> None:
    graph = model("""g (float[3,20] x) => (float[3,5] y) {
        a = MatMul (x, w0)
        r = Relu (a)
        b = MatMul (r, w1)
        s = Relu (b)
        y = MatMul (s, w2)
    }""", w0=(20, 32), w1=(32, 32), w2=(32, 5))
    importance = {"MatMul2": np.where(np.arange(32) < 16, 1.0, 1e-6)}
    live = layers(graph)[1].matrix[0][:16]
    found = permute(graph, {"MatMul0": HALF, "MatMul2": HALF}, importance)
    new = layers(graph)[1].matrix[0]
    rows = {tuple(np.sort(r)) for r in live}
    where = np.array([tuple(np.sort(r)) in rows for r in new])
    weights = np.where(where, 1.0, 1e-6)
    pattern = Pattern.of(layers(graph)[1], HALF, weights)
    assert pattern.retained(np.arange(32)) == pytest.approx(found["MatMul2"][1])
