"""Attention against onnx's reference: heads in either form, grouped heads, masks, causal and sliding windows, caches."""

import numpy as np
import pytest
from burnish.compiler.lower.registry import Refuse

from .forms import with_results
from .harness import assert_close, node_model, reference, run

rng = np.random.default_rng(0)
B, HQ, HK, NQ, NK, D, DV = 2, 4, 2, 5, 7, 6, 3


def normal(*shape, dtype="f4"):
    return rng.standard_normal(shape).astype(dtype)


def operands(heads=HK, nk=NK, dtype="f4"):
    return [normal(B, HQ, NQ, D, dtype=dtype), normal(B, heads, nk, D, dtype=dtype), normal(B, heads, nk, DV, dtype=dtype)]


def check(*inputs, tolerance=1e-5, **attributes):
    proto, given = node_model("Attention", inputs, attributes)
    want = reference(proto, given, "onnx")[:1]
    (got,) = run(with_results(proto, want), given)
    assert_close([got], want, tolerance)


@pytest.mark.parametrize("heads", [HQ, HK, 1])
@pytest.mark.parametrize("attributes", [{}, {"is_causal": 1}, {"scale": 0.3}], ids=str)
def test_heads(heads, attributes):
    check(*operands(heads), **attributes)


def test_heads_side_by_side():
    q, k, v = operands()
    flat = [a.transpose(0, 2, 1, 3).reshape(B, a.shape[2], -1) for a in (q, k, v)]
    check(*flat, q_num_heads=HQ, kv_num_heads=HK)


@pytest.mark.parametrize("shape", [(NQ, NK), (1, NK), (B, 1, NQ, NK), (HQ, NQ, NK), (B, HQ, NQ, NK), (NQ, NK - 2)])
@pytest.mark.parametrize("causal", [0, 1])
def test_masks(shape, causal):
    if causal and shape == (1, NK):
        pytest.skip("the reference takes the mask's single row for the only query")
    check(*operands(), normal(*shape), is_causal=causal)
    allowed = rng.random(shape) < 0.7
    allowed[..., 0] = True
    check(*operands(), allowed, is_causal=causal)


def test_a_query_that_may_look_nowhere_gets_zeros():
    allowed = np.ones((NQ, NK), bool)
    allowed[2] = False
    check(*operands(), allowed)


def test_caches():
    past = [normal(B, HK, 3, D), normal(B, HK, 3, DV)]
    for causal in (0, 1):
        check(*operands(), None, *past, is_causal=causal)


def test_half_precision():
    check(*operands(dtype="f2"), tolerance=3e-3)


@pytest.mark.parametrize("attributes, outputs", [({"softcap": 2.0}, 1), ({}, 4)])
def test_rare_forms_are_refused(attributes, outputs):
    proto, given = node_model("Attention", operands(), attributes, outputs)
    with pytest.raises(Refuse):
        run(with_results(proto, reference(proto, given, "onnx")), given)


