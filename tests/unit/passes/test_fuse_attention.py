"""Scaled dot-product attention in the pieces that exporters write."""

from __future__ import annotations

import numpy as np
import pytest
from burnish.passes.fuse.attention import FuseAttention
from harness import check, ops, random_inputs

Q, K, V = "float[2,3,5,4] q", "float[2,3,7,4] k", "float[2,3,7,6] v"


def text(body: str, inputs: str = "", y: str = "float[2,3,5,6]", q: str = Q, k: str = K, v: str = V) -> str:
    return f"""g ({q}, {k}, {v}{inputs and ", "}{inputs}) => ({y} y) <float c = {{0.5}}, float root = {{0.7071067811865476}},
        float two = {{2.0}}, float low = {{-1e9}}, float small = {{-3.0}}, float zero = {{0.0}}> {{ {body} }}"""


T = "t = Transpose<perm = [0, 1, 3, 2]>(k) "
END = "p = Softmax<axis = -1>(s) y = MatMul(p, v)"
FORMS = [
    T + "a = MatMul(q, t) s = Mul(a, c) " + END,
    T + "a = MatMul(q, t) s = Div(a, two) " + END,
    T + "r = Mul(c, q) s = MatMul(r, t) " + END,
    T + "r = Mul(q, root) u = Mul(t, root) s = MatMul(r, u) p = Softmax<axis = 3>(s) y = MatMul(p, v)",     # torch's SDPA
    T + "s = MatMul(q, t) " + END,
    T + "r = Div(q, two) s = MatMul(r, t) p = Softmax<axis = -1>(s) n = IsNaN(p) w = Where(n, zero, p) y = MatMul(w, v)",
]


@pytest.mark.parametrize("body", FORMS)
def test_forms(body: str) -> None:
    m = check(text(body), FuseAttention())
    assert [o for o in ops(m) if o != "Transpose"] == ["Attention"]
    assert m.graph.outputs[0].producer().inputs[1] is m.graph.inputs[1], "k is read untransposed"


@pytest.mark.parametrize("mask", ["float[5,7]", "float[2,1,1,7]", "float[1,3,5,7]", "float[7]", "float[3,5,7]", "float[2,1,5,1]"])
def test_added_mask(mask: str) -> None:
    m = check(text(FORMS[0].replace("s = Mul(a, c)", "b = Mul(a, c) s = Add(b, mask)"), mask + " mask"), FuseAttention())
    assert "Attention" in ops(m) and "Softmax" not in ops(m)


def test_two_masks_and_a_bool_mask() -> None:
    m = check(text(FORMS[0].replace("s = Mul(a, c)", "b = Mul(a, c) d = Add(bias, b) s = Add(d, mask)"),
                   "float[1,3,5,7] bias, float[2,1,1,7] mask"), FuseAttention())
    assert ops(m).count("Add") == 1 and "Softmax" not in ops(m)
    masked = text(FORMS[0].replace("s = Mul(a, c)", "b = Mul(a, c) s = Where(keep, b, low)"), "bool[2,1,5,7] keep")
    inputs = random_inputs(masked)
    inputs["keep"][..., 0] = True       # no row without a key
    m = check(masked, FuseAttention(), inputs=inputs)
    assert "Attention" in ops(m)


def test_rank_3_and_merged_transposes() -> None:
    """Heads in the batch axis; and [B, N, H, D] values whose head split and key transposition became one Transpose."""
    m = check(text("t = Transpose<perm = [0, 2, 1]>(k) a = MatMul(q, t) s = Mul(a, c) " + END,
                   q="float[6,5,4] q", k="float[6,7,4] k", v="float[6,7,3] v", y="float[6,5,3]"), FuseAttention())
    assert ops(m) == ["Reshape", "Reshape", "Reshape", "Attention", "Reshape"]
    m = check(text("h = Transpose<perm = [0, 2, 1, 3]>(q) t = Transpose<perm = [0, 2, 3, 1]>(k) "
                   "w = Transpose<perm = [0, 2, 1, 3]>(v) a = MatMul(h, t) s = Mul(a, c) "
                   "p = Softmax<axis = -1>(s) z = MatMul(p, w) y = Transpose<perm = [0, 2, 1, 3]>(z)",
                   q="float[2,5,3,4] q", k="float[2,7,3,4] k", v="float[2,7,3,6] v", y="float[2,5,3,6]"), FuseAttention())
    keys = m.graph.outputs[0].producer().inputs[0].producer().inputs[1].producer()
    assert "Attention" in ops(m) and list(keys.attributes["perm"].as_ints()) == [0, 2, 1, 3]
    body = "r = Reshape(k, flat) u = Transpose<perm = [0, 2, 1]>(r) t = Reshape(u, split) s = MatMul(q, t) " + END
    m = check(text(body).replace("float c", "int64[3] flat = {6, 7, 4}, int64[4] split = {2, 3, 4, 7}, float c"), FuseAttention())
    assert ops(m) == ["Reshape", "Reshape", "Attention"]       # torch's dynamo exporter; two Reshapes merge to none
    m = check(text("s = MatMul(q, k) " + END, k="float[2,3,4,7] k"), FuseAttention())    # k comes transposed
    assert ops(m) == ["Transpose", "Attention"]


@pytest.mark.parametrize(("body", "more", "reason"), [
    (FORMS[0].replace("axis = -1", "axis = 2"), {}, "along the keys"),
    (FORMS[0].replace("y =", "z =") + " s2 = ReduceSum(p) y = Add(z, s2)", {}, None),  # p is read elsewhere
    (FORMS[0].replace("s = Mul(a, c)", "b = Add(a, mask) s = Mul(b, c)"), {"inputs": "float[5,7] mask"}, "scores"),
    (FORMS[0].replace("s = Mul(a, c)", "s = Exp(a)"), {}, "scores"),
    (FORMS[0].replace("s = Mul(a, c)", "s = Where(keep, a, small)"), {"inputs": "bool[5,7] keep"}, "scores"),
    (FORMS[0], {"k": "float[1,3,7,4] k"}, "broadcast"),
    (FORMS[0], {"v": "float[7,6] v"}, "rank"),
])
def test_not_attention(body: str, more: dict[str, str], reason: str | None) -> None:
    fuse = FuseAttention()
    check(text(body, **more), fuse, changed=False)
    assert reason is None or reason in fuse.misses[0].reason


def test_windows() -> None:
    """Shifted windows: the mask is added between Reshapes to [1, windows, heads, N, N] and back."""
    body = (T + "a = MatMul(q, t) c1 = Mul(a, c) b = Add(c1, bias) r = Reshape(b, five) d = Add(r, mask) s = Reshape(d, four) "
            + END)
    m = check(text(body, "float[1,3,5,7] bias, float[1,2,1,5,7] mask").replace(
        "float c", "int64[5] five = {1, 2, 3, 5, 7}, int64[4] four = {2, 3, 5, 7}, float c"), FuseAttention())
    assert "Attention" in ops(m) and ops(m).count("Add") == 1
    m = check(text(body, "float[1,3,5,7] bias, float[2,1,1,5,7] mask", q=Q.replace("2,", "4,"), k=K.replace("2,", "4,"),
                   v=V.replace("2,", "4,"), y="float[4,3,5,6]").replace(
        "float c", "int64[5] five = {2, 2, 3, 5, 7}, int64[4] four = {4, 3, 5, 7}, float c"), FuseAttention(), changed=False)


def test_constant_masks_are_expanded_now() -> None:
    model = text(FORMS[0].replace("s = Mul(a, c)", "b = Mul(a, c) s = Add(b, mask)")).replace(
        "float c =", "float[1,7] mask = {0.0, 1.0, 2.0, -1.0, 0.5, 0.0, -2.0}, float c =")
    m = check(model, FuseAttention())
    assert "Expand" not in ops(m)
    mask = m.graph.outputs[0].producer().inputs[3]
    assert mask.const_value is not None and np.shape(mask.const_value.numpy())[-2:] == (5, 7)
