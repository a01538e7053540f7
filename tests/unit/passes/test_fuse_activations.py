"""GELU, SiLU, hard sigmoid and hard swish in the pieces that exporters write."""

from __future__ import annotations

import pytest
from burnish.passes.fuse.gelu import FuseGelu
from burnish.passes.fuse.hard_swish import FuseHardSigmoid, FuseHardSwish
from burnish.passes.fuse.silu import FuseSiLU
from harness import check, ops


def text(body: str, **constants: float) -> str:
    """A graph x -> y on [2, 3, 5] with scalar constants."""
    given = ", ".join(f"float {name} = {{{value!r}}}" for name, value in constants.items())
    return f"g (float[2,3,5] x) => (float[2,3,5] y) <{given}> {{ {body} }}"


ERF = {"r": 1.4142135623730951, "i": 0.7071067811865476, "one": 1.0, "half": 0.5, "two": 2.0}
GELUS = [
    "a = Div(x, r) e = Erf(a) s = Add(e, one) m = Mul(x, s) y = Mul(m, half)",              # torch, dynamo=False
    "h = Mul(x, half) a = Mul(x, i) e = Erf(a) s = Add(one, e) y = Mul(h, s)",              # torch, dynamo=True; JAX
    "a = Div(x, r) e = Erf(a) s = Add(e, one) h = Mul(half, s) y = Mul(x, h)",              # Keras
    "a = Mul(i, x) e = Erf(a) s = Add(e, one) m = Mul(s, x) y = Div(m, two)",
    "a = Div(x, r) e = Erf(a) d = Mul(e, half) s = Add(d, half) y = Mul(s, x)",             # the half inside the sum
    "n = Neg(x) a = Div(n, r) e = Erf(a) s = Sub(one, e) h = Mul(x, half) y = Mul(h, s)",   # 1 - erf(-x)
]


@pytest.mark.parametrize("body", GELUS[:-1])
def test_gelu(body: str) -> None:
    assert ops(check(text(body, **ERF), FuseGelu())) == ["Gelu"]


def test_gelu_of_negated_argument() -> None:
    """erf is odd: 1 - erf(-x / sqrt 2) is the same gate; but the argument is read as a polynomial of x, so its sign must fit."""
    fuse = FuseGelu()
    check(text(GELUS[-1], **ERF), fuse, changed=False)
    assert "not that of GELU" in fuse.misses[0].reason


TANH = {"c": 0.044715, "k": 0.7978845608028654, "k2": 1.5957691216057308, "one": 1.0, "half": 0.5, "three": 3.0}
TANHS = [
    "p = Pow(x, three) q = Mul(p, c) a = Add(x, q) b = Mul(a, k) t = Tanh(b) s = Add(t, one) h = Mul(x, half) y = Mul(h, s)",
    "u = Mul(x, x) p = Mul(u, x) q = Mul(c, p) a = Add(q, x) b = Mul(k, a) t = Tanh(b) s = Add(one, t) m = Mul(x, s) "
    "y = Mul(half, m)",
    "u = Mul(x, x) q = Mul(c, u) w = Add(q, one) v = Mul(x, w) b = Mul(v, k) t = Tanh(b) s = Add(t, one) m = Mul(x, s) "
    "y = Mul(m, half)",
    "p = Pow(x, three) q = Mul(p, c) a = Add(x, q) b = Mul(a, k2) t = Sigmoid(b) y = Mul(x, t)",
]


@pytest.mark.parametrize("body", TANHS)
def test_tanh_gelu(body: str) -> None:
    m = check(text(body, **TANH), FuseGelu())
    assert ops(m) == ["Gelu"] and m.graph.node(0).attributes["approximate"].as_string() == "tanh"


def test_gelu_that_is_part_of_a_product() -> None:
    """A gated unit: gelu(x) z."""
    m = check("""g (float[2,3] x, float[2,3] z) => (float[2,3] y) <float half = {0.5}, float one = {1.0}, float r = {1.4142135}> {
        a = Div(x, r) e = Erf(a) s = Add(e, one) h = Mul(x, half) m = Mul(h, s) y = Mul(m, z) }""", FuseGelu())
    assert ops(m) == ["Gelu", "Mul"]


@pytest.mark.parametrize("body", [
    GELUS[0].replace("Div(x, r)", "Div(x, two)"),                       # a wrong constant inside
    GELUS[0].replace("Mul(m, half)", "Mul(m, two)"),                    # … outside
    GELUS[0].replace("Add(e, one)", "Add(e, half)"),
    GELUS[0].replace("y =", "z =") + " w = Add(z, e) y = Mul(w, one)",  # erf is read elsewhere
    "n = Exp(x) a = Div(n, r) e = Erf(a) s = Add(e, one) m = Mul(x, s) y = Mul(m, half)",
])
def test_not_gelu(body: str) -> None:
    check(text(body, **ERF), FuseGelu(), changed=False)


def test_silu() -> None:
    for body in ("s = Sigmoid(x) y = Mul(x, s)", "s = Sigmoid(x) y = Mul(s, x)",
                 "n = Neg(x) e = Exp(n) d = Add(one, e) y = Div(x, d)"):
        m = check(text(body, one=1.0), FuseSiLU())
        assert ops(m) == ["SiLU"] and m.graph.node(0).domain == "burnish"


@pytest.mark.parametrize("body", ["e = Exp(x) s = Sigmoid(e) y = Mul(x, s)", "s = Sigmoid(x) m = Mul(x, s) y = Add(m, s)",
                                  "n = Neg(x) e = Exp(n) d = Add(half, e) y = Div(x, d)"])
def test_not_silu(body: str) -> None:
    check(text(body, half=0.5), FuseSiLU(), changed=False)


HARD = {"three": 3.0, "six": 6.0, "zero": 0.0, "sixth": 1 / 6, "one": 1.0, "half": 0.5, "two": 2.0}
HARD_SWISHES = [
    "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
    "a = Add(three, x) c = Clip(a, zero, six) d = Div(c, six) y = Mul(x, d)",
    "a = Add(x, three) c = Clip(a, zero, six) d = Mul(c, sixth) y = Mul(d, x)",
    "a = Add(x, three) r = Relu(a) c = Min(r, six) m = Mul(x, c) y = Mul(m, sixth)",
    "a = Add(x, three) r = Max(a, zero) c = Min(six, r) m = Mul(x, c) y = Mul(m, sixth)",
    "b = Mul(x, sixth) a = Add(b, half) c = Clip(a, zero, one) y = Mul(x, c)",
    "c = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(c, x)",
]


@pytest.mark.parametrize("body", HARD_SWISHES)
def test_hard_swish(body: str) -> None:
    assert ops(check(text(body, **HARD), FuseHardSwish())) == ["HardSwish"]
    assert ops(check(text(body, **HARD), FuseHardSigmoid(), FuseHardSwish())) == ["HardSwish"]


@pytest.mark.parametrize("body", [HARD_SWISHES[0].replace("Add(x, three)", "Add(x, two)"),
                                  HARD_SWISHES[0].replace("Div(m, six)", "Div(m, two)"),
                                  HARD_SWISHES[0].replace("zero, six", "one, six"), "c = HardSigmoid(x) y = Mul(x, c)",
                                  HARD_SWISHES[0].replace("y =", "z =") + " y = Add(z, c)"])
def test_not_hard_swish(body: str) -> None:
    check(text(body, **HARD), FuseHardSwish(), changed=False)


def test_hard_sigmoid() -> None:
    for body in ("a = Add(x, three) c = Clip(a, zero, six) y = Div(c, six)",
                 "a = Add(x, three) r = Relu(a) c = Min(r, six) y = Mul(c, sixth)"):
        assert ops(check(text(body, **HARD), FuseHardSigmoid())) == ["HardSigmoid"]
    for body in ("a = Add(x, three) c = Clip(a, zero, six) y = Div(c, three)",
                 "a = Add(x, three) c = Clip(a, one, six) y = Div(c, six)"):
        check(text(body, **HARD), FuseHardSigmoid(), changed=False)
