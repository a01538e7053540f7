"""LayerNorm, RMSNorm and softmax in the pieces that exporters write."""

from __future__ import annotations

import pytest
from burnish.passes.fuse.group_norm import FuseGroupNorm
from burnish.passes.fuse.layer_norm import FuseLayerNorm
from burnish.passes.fuse.rms_norm import FuseRMSNorm
from burnish.passes.fuse.softmax import FuseSoftmax
from harness import check, ops


def text(body: str, outputs: str = "float[2,3,4] y") -> str:
    return f"""g (float[2,3,4] x) => ({outputs}) <int64[1] last = {{-1}}, int64[2] two_axes = {{1, 2}}, int64[1] middle = {{1}},
        float two = {{2.0}}, float one = {{1.0}}, float eps = {{1e-5}}, float half = {{0.5}}, float minus = {{-0.5}},
        float[4] gamma = {{1.0, 2.0, -1.0, 0.5}}, float[1,1,4] beta = {{0.5, -2.0, 1.0, 0.25}},
        float[3,1] rows = {{1.0, 2.0, 3.0}}> {{ {body} }}"""


CENTRE = "m = ReduceMean(x, last) d = Sub(x, m) "
VARIANCE = "q = Pow(d, two) v = ReduceMean(q, last) w = Add(v, eps) "
LAYER_NORMS = [
    (CENTRE + VARIANCE + "s = Sqrt(w) n = Div(d, s) g = Mul(n, gamma) y = Add(g, beta)", 3),
    (CENTRE + "q = Mul(d, d) v = ReduceMean(q, last) w = Add(eps, v) s = Sqrt(w) r = Reciprocal(s) n = Mul(d, r) "
     "g = Mul(gamma, n) y = Add(beta, g)", 3),
    (CENTRE + VARIANCE + "s = Sqrt(w) r = Div(one, s) n = Mul(r, d) y = Mul(n, gamma)", 2),
    (CENTRE + VARIANCE + "s = Pow(w, half) y = Div(d, s)", 2),
    (CENTRE + VARIANCE + "s = Pow(w, minus) y = Mul(d, s)", 2),
    (CENTRE + "m2 = ReduceMean(x, last) d2 = Sub(x, m2) q = Mul(d2, d2) v = ReduceMean(q, last) w = Add(v, eps) s = Sqrt(w) "
     "n = Div(d, s) y = Mul(n, gamma)", 2),
    (CENTRE.replace("last", "two_axes") + VARIANCE.replace("last", "two_axes") +
     "s = Sqrt(w) n = Div(d, s) g = Mul(n, rows) y = Add(g, beta)", 3),
]


@pytest.mark.parametrize(("body", "inputs"), LAYER_NORMS)
def test_layer_norm(body: str, inputs: int) -> None:
    m = check(text(body), FuseLayerNorm())
    assert ops(m) == ["LayerNormalization"] and len(m.graph.node(0).inputs) == inputs


def test_scale_that_does_not_fit_stays_outside() -> None:
    m = check(text(LAYER_NORMS[0][0].replace("gamma", "rows")), FuseLayerNorm())
    assert ops(m) == ["LayerNormalization", "Mul", "Add"]


@pytest.mark.parametrize(("body", "reason"), [
    (LAYER_NORMS[3][0].replace("y =", "z =") + " y = Add(z, d)", "read elsewhere"),
    (LAYER_NORMS[3][0].replace("ReduceMean(x, last)", "ReduceMean(x, middle)"), "not those of one value"),
    (LAYER_NORMS[3][0].replace("last", "middle"), "not the last"),
    (LAYER_NORMS[3][0].replace("Pow(w, half)", "Pow(w, two)"), None),
    (LAYER_NORMS[3][0].replace("Pow(d, two)", "Pow(d, half)"), None),
    (LAYER_NORMS[3][0].replace("ReduceMean(q", "ReduceSum(q"), None),
])
def test_not_layer_norm(body: str, reason: str | None) -> None:
    fuse = FuseLayerNorm()
    m = text(body)
    if "Pow(d, half)" in body:      # a root of negative numbers: compare what is defined
        m = m.replace("q = Pow", "p = Abs(d) q = Pow").replace("Pow(d, half)", "Pow(p, half)")
    check(m, fuse, changed=False)
    assert reason is None or reason in fuse.misses[0].reason


def test_rms_norm() -> None:
    square = "q = Mul(x, x) v = ReduceMean(q, last) w = Add(v, eps) "
    for tail in ("s = Sqrt(w) r = Reciprocal(s) n = Mul(x, r) y = Mul(gamma, n)", "s = Sqrt(w) n = Div(x, s) y = Mul(n, gamma)",
                 "s = Pow(w, minus) y = Mul(x, s)"):
        assert ops(check(text(square + tail), FuseLayerNorm(), FuseRMSNorm())) == ["RMSNormalization"]
    check(text(square + "s = Sqrt(w) z = Exp(x) y = Div(z, s)"), FuseRMSNorm(), changed=False)
    check(text(square + "s = Sqrt(w) z = Div(x, s) y = Add(z, s)"), FuseRMSNorm(), changed=False)
    check(text(square.replace("last", "middle") + "s = Sqrt(w) y = Div(x, s)"), FuseRMSNorm(), changed=False)


def test_softmax() -> None:
    for body in ("m = ReduceMax(x, middle) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, middle) y = Div(e, s)",
                 "m = ReduceMax(x, middle) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, middle) r = Reciprocal(s) y = Mul(r, e)",
                 "e = Exp(x) s = ReduceSum(e, last) y = Div(e, s)"):
        m = check(text(body), FuseSoftmax())
        assert ops(m) == ["Softmax"]
    m = check(text("m = ReduceMax(x, last) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, middle) y = Div(e, s)"), FuseSoftmax())
    assert ops(m) == ["ReduceMax", "Sub", "Softmax"]        # a maximum along another axis is none of softmax's
    for body in ("e = Exp(x) s = ReduceSum(e, last) z = Div(e, s) y = Add(z, e)",
                 "e = Exp(x) s = ReduceSum(e, two_axes) y = Div(e, s)",
                 "e = Exp(x) s = ReduceSum(x, last) y = Div(e, s)"):
        check(text(body), FuseSoftmax(), changed=False)


def test_group_norm() -> None:
    def group(body: str, scale: float = 1.0) -> str:
        ones, zeros = ", ".join(["1.0"] * 12), ", ".join(["0.0"] * 12)
        return f"""g (float[2,4,3,5] x) => (float[2,4,3,5] y) <int64[3] grouped = {{2, 2, 30}}, int64[3] mixed = {{2, 12, -1}},
            int64[4] back = {{2, 4, 3, 5}}, float[2] one = {{1.0, {scale}}}, float[2] zero = {{0.0, 0.0}},
            float[12] ones = {{{ones}}}, float[12] zeros = {{{zeros}}},
            float[4,1,1] gamma = {{1.0, -2.0, 0.5, 3.0}}, float[1,4,1,1] beta = {{1.0, 2.0, 3.0, -1.0}},
            float[3,1] rows = {{1.0, 2.0, 3.0}}> {{
            r = Reshape(x, grouped) n = InstanceNormalization<epsilon = 0.001>(r, one, zero) {body} }}"""

    assert ops(check(group("b = Reshape(n, back) m = Mul(gamma, b) y = Add(m, beta)"), FuseGroupNorm())) == ["GroupNormalization"]
    assert ops(check(group("y = Reshape(n, back)"), FuseGroupNorm())) == ["GroupNormalization"]
    m = check(group("b = Reshape(n, back) y = Mul(b, rows)"), FuseGroupNorm())
    assert ops(m) == ["GroupNormalization", "Mul"]
    for text in (group("y = Reshape(n, back)", scale=2.0), group("b = Reshape(n, back) s = ReduceSum(n) y = Add(b, s)"),
                 group("y = Reshape(n, back)").replace("grouped)", "mixed)").replace("one, zero", "ones, zeros")):
        check(text, FuseGroupNorm(), changed=False)
