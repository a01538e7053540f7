"""Weights of powers of two: every code, the nearest, better with data than without, and onnxruntime decodes them."""

import numpy as np
import onnx_ir as ir
import pytest
from burnish import passes
from burnish.compiler import lower  # noqa: F401
from burnish.compiler.compress.shift import shift
from burnish.compiler.lower.registry import LOWERINGS
from burnish.compiler.sample import reference
from burnish.passes.compress import shift as shifts
from burnish.passes.compress.layers import layers
from burnish.passes.compress.treatment import Treatment
from test_factorize import BIASED, CONV, feeds, model

RNG = np.random.default_rng(4)
DEPTHWISE = """g (float[1,7,9,9] x) => (float[1,5,h,v] y) {
    t = Conv<kernel_shape=[3,3], group=7>(x, w, b)
    y = Conv<kernel_shape=[1,1]>(t, u) }"""


def test_codes_and_their_packing():
    one, two = shifts.grid(1), shifts.grid(2)
    assert len(one.values) == 15 and 0 in one.values and one.values[-1] == 1 and two.values[-1] == 2
    for g, terms in ((one, 1), (two, 2)):
        assert g.codes.shape == (len(g.values), terms)
        np.testing.assert_array_equal(shifts.TABLE[g.codes].sum(axis=1), g.values)
        x = RNG.standard_normal(500)
        np.testing.assert_allclose(np.abs(g.values[g.nearest(x)] - x), np.abs(g.values[:, None] - x).min(axis=0))
    codes = RNG.integers(0, 16, (2, 3, 5, 1)).astype("u1")
    assert shifts.pack(codes).shape == (2, 8)
    np.testing.assert_array_equal(shifts.unpack(shifts.pack(codes), (3, 5, 1)), codes)


@pytest.mark.parametrize("terms", [1, 2])
def test_weights_that_are_codes_stay_what_they_are(terms):
    codes, scale = RNG.integers(0, 16, (terms, 40, 12)), RNG.uniform(0.1, 3, 12)
    codes[:, 0] = 7     # the largest, so that the scale can be seen
    w = shifts.TABLE[codes].sum(axis=0) * scale
    x = RNG.standard_normal((200, 40))
    for found in (shifts.rounded(w[None], terms), shifts.swept(w[None], terms, (x.T @ x)[None])):
        np.testing.assert_allclose(found.matrix[0], w, rtol=2e-2 if terms == 2 else 1e-5, atol=0.02)
    zero = shifts.rounded(np.zeros((1, 4, 3)), terms)
    assert not zero.matrix.any()


def test_two_terms_and_the_data_lower_the_error():
    w = RNG.standard_normal((96, 32))
    x = RNG.standard_normal((4000, 20)) @ RNG.standard_normal((20, 96)) + 0.1 * RNG.standard_normal((4000, 96))
    h = x.T @ x
    errors = [float(np.linalg.norm(x @ (found.matrix[0] - w)) / np.linalg.norm(x @ w)) for terms in (1, 2)
              for found in (shifts.rounded(w[None], terms), shifts.swept(w[None], terms, h[None]))]
    assert errors[1] < 0.7 * errors[0] and errors[3] < 0.7 * errors[2] and errors[3] < 0.3 * errors[1]
    assert errors[2] < 0.06


def test_many_groups_at_once_are_each_like_one_alone():
    w, x = RNG.standard_normal((5, 9, 2)), RNG.standard_normal((5, 300, 9)) * (np.arange(9, 0, -1) + 1)**2
    h = np.swapaxes(x, 1, 2) @ x
    together = shifts.swept(w, 1, h)
    for g in range(5):
        np.testing.assert_allclose(together.matrix[g], shifts.swept(w[g:g + 1], 1, h[g:g + 1]).matrix[0], atol=1e-6)


@pytest.mark.parametrize("terms", [1, 2])
def test_models_in_onnxruntime(terms):
    for text, x, weights in ((BIASED, [2, 5, 96], {"w": (96, 80), "b": (80,)}),
                             (CONV, [2, 96, 7, 6], {"w": (80, 96, 3, 3), "b": (80,)}),
                             (DEPTHWISE, [1, 7, 9, 9], {"w": (7, 1, 3, 3), "b": (7,), "u": (5, 7, 1, 1)})):
        made = model(text, **{name: RNG.standard_normal(s) / s[-1] for name, s in weights.items()})
        data, count = feeds(x, 60 if x[0] == 2 else 20), len(layers(made))
        before = np.stack([reference(made, d)[0] for d in data])
        reports = shift(made, {layer.name: Treatment(shift=terms) for layer in layers(made)}, data)
        depthwise = sum(x.depthwise for x in layers(made))
        assert len(reports) == count and len(layers(made)) == depthwise
        after = np.stack([reference(made, d)[0] for d in data])
        error = np.linalg.norm(after - before) / np.linalg.norm(before)
        assert 1e-4 < error < (0.25 if terms == 1 else 0.06)
        assert reports[-1].error == pytest.approx(error, rel=0.5)
        assert all(r.after <= r.before * (terms / 8 + 0.2) or r.step == "dense" for r in reports)
        lowered = ir.from_proto(ir.to_proto(made))
        passes.run(lowered, frozenset(LOWERINGS))
        assert sum(n.op_type == "ShiftWeights" for n in lowered.graph) == count - depthwise
        np.testing.assert_allclose(reference(lowered, data[0])[0], after[0], atol=1e-5 * np.abs(after[0]).max())


def test_without_data_and_without_treatment():
    made = model(BIASED, w=RNG.standard_normal((96, 80)), b=np.zeros(80))
    assert shift(made, {}, None) == [] and len(layers(made)) == 1
    (report,) = shift(made, {x.name: Treatment(shift=1) for x in layers(made)}, None)
    assert "no data" in report.note and 0.05 < report.error < 0.25 and report.before / report.after > 7
