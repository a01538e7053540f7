"""Calibrators against onnxruntime's; float models against what they become, in onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from burnish import models, passes
from burnish.compiler import importer
from burnish.compiler.compress.calibrators import Grid, Histogram, least_error, method
from burnish.compiler.compress.evaluate import Fidelity, predictor
from burnish.compiler.compress.quantize import Way, quantize
from burnish.compiler.driver import LOWERINGS
from burnish.models.data import mnist
from burnish.passes.base import constant
from burnish.passes.compress.layers import layers
from burnish.passes.compress.treatment import Treatment
from onnxruntime.quantization.calibrate import HistogramCollector

# ---- Ranges --------------------------------------------------------------------------------------------------------------

SPREADS = {"normal": lambda r: r.standard_normal(4000) * 3 + 1, "relu": lambda r: np.maximum(0, r.standard_normal(4000)),
           "heavy": lambda r: r.standard_t(2, 4000), "relu6": lambda r: np.clip(r.standard_normal(4000) * 5, 0, 6),
           "negative": lambda r: -r.gamma(2, 2, 4000)}


def seen(arrays):
    h = Histogram()
    for a in arrays:
        h.update(a)
    return h


def arrays(kind, count=6):
    rng = np.random.default_rng(3)
    return [(SPREADS[kind](rng) * (1 + n)).astype(np.float32) for n in range(count)]


@pytest.mark.parametrize("kind", SPREADS)
def test_a_histogram_that_grew_is_that_of_all_at_once(kind):
    parts = arrays(kind)
    h, x = seen(parts), np.concatenate(parts)
    assert (h.low, h.high) == (x.min(), x.max()) and h.counts.sum() == x.size
    edges = (h.first + np.arange(h.counts.size + 1)) * h.width
    np.testing.assert_array_equal(h.counts, np.histogram(x, edges)[0])
    assert 1000 < h.counts.size <= 4097


def test_a_histogram_takes_nothing_zeros_and_giants():
    h = seen([np.zeros(0, np.float32), np.zeros(5, np.float32), np.float32([1e-30]), np.float32([-3e38, 3e38])])
    assert h.counts.sum() == 8 and (h.low, h.high) == (-np.float32(3e38), np.float32(3e38))
    for name in ("min-max", "percentile", "entropy", "error"):
        low, high = method(name)(h, 255, False)
        assert np.isfinite([low, high]).all()
        assert Grid.of((low, high)).scale > 0


@pytest.mark.parametrize("kind", SPREADS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("share", [99.0, 99.9])
def test_percentiles_are_onnxruntimes(kind, symmetric, share):
    parts = arrays(kind)
    theirs = HistogramCollector("percentile", symmetric, 8192, 128, share, None)
    for a in parts:
        theirs.collect({"x": a})
    low, high = (float(v) for v in theirs.compute_percentile()["x"][:2])
    ours, x = method(f"percentile:{share}")(seen(parts), 255, symmetric), np.concatenate(parts)
    for mine, other in zip(ours, (low, high), strict=True):     # as near as bins are wide, or as elements are apart
        assert abs(mine - other) < 2 * np.ptp(x) / 4096 or abs((x > mine).mean() - (x > other).mean()) < 2e-3 * (100 - share)


def test_entropy_is_onnxruntimes():
    parts = arrays("normal", 2)
    theirs = HistogramCollector("entropy", True, 1024, 128, 99.99, None)
    for a in parts:
        theirs.collect({"x": a})
    low, high = (float(v) for v in theirs.compute_entropy()["x"][:2])
    ours = method("entropy")(seen(parts), 255, True)
    reach = float(np.abs(np.concatenate(parts)).max())
    assert ours == pytest.approx((low, high), abs=0.15 * reach)


@pytest.mark.parametrize("kind", SPREADS)
@pytest.mark.parametrize("top", [127, 255])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_least_error_is_no_more_than_of_all_that_was_seen(kind, top, symmetric):
    parts = arrays(kind)
    h, x = seen(parts), np.concatenate(parts).astype(np.float64)
    best, all_of_it = (Grid.of(r, top, symmetric) for r in (least_error(h, top, symmetric), (h.low, h.high)))
    errors = [((x - g.round(x)) ** 2).mean() for g in (best, all_of_it)]
    assert errors[0] <= errors[1] * 1.01
    if kind == "heavy":
        assert errors[0] < 0.96 * errors[1]


@pytest.mark.parametrize("found", [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0), (-1e-45, 1e-45)])
@pytest.mark.parametrize("top", [127, 255])
@pytest.mark.parametrize("symmetric", [False, True])
def test_zero_is_an_integer_and_the_range_is_covered(found, top, symmetric):
    g = Grid.of(found, top, symmetric)
    assert 0 <= g.zero <= top and g.round(np.zeros(1)) == 0
    x = np.linspace(min(found[0], 0), max(found[1], 0), 1001)
    assert np.abs(g.round(x) - x).max() <= g.scale * 1.001


def test_a_calibrator_that_does_not_exist_is_named():
    for name in ("best", "percentile:20", "min-max:3"):
        with pytest.raises(ValueError, match="there are min-max"):
            method(name)


# ---- Models --------------------------------------------------------------------------------------------------------------


def canonical(name):
    model = importer.load(models.build(name), models.ZOO[name].inputs)
    passes.canonicalize(model, frozenset(LOWERINGS))
    return model


@pytest.fixture(scope="module")
def digits():
    images, _ = mnist.test_set()
    feeds = [{"image": x[None]} for x in images[:400]]
    return feeds[:40], feeds[40:]


@pytest.fixture(scope="module")
def lenet5():
    return canonical("lenet5")


def close(before, after, data):
    found = Fidelity()
    p, q = predictor(before, 1), predictor(after, 1)
    for feed in data:
        found.update(p(feed), q(feed))
    return found


@pytest.mark.parametrize("precision, top, way, error", [
    ("int8", 255, Way(), 0.02), ("int8", 127, Way(), 0.03), ("int8", 255, Way(symmetric=True), 0.03),
    ("int8", 255, Way("percentile:99.99"), 0.02), ("int8", 255, Way(calibrator="error", migration=None), 0.02),
    ("w8", 255, Way(), 0.01), ("w4", 255, Way(), 0.1)])
def test_lenet5_stays_itself(lenet5, digits, precision, top, way, error):
    seen, unseen = digits
    model = lenet5.clone()
    reports = quantize(model, {x.name: Treatment(precision) for x in layers(model)}, seen, top=top, way=way)
    found = close(lenet5, model, unseen)
    assert found.error < error and found.agreement > 0.99
    assert [r.layer for r in reports] == [x.name for x in layers(lenet5)]
    assert all(r.after < r.before * (0.3 if precision == "w4" else 0.35) and r.error < error for r in reports if r.before > 2000)
    kinds = [n.op_type for n in model.graph]
    assert ("QuantizeLinear" in kinds) == (precision == "int8") and kinds.count("DequantizeLinear") >= len(reports)
    clips = [n for n in model.graph if n.op_type == "Clip" and n.outputs[0].dtype == ir.DataType.UINT8]
    assert bool(clips) == (top == 127)


def test_layers_without_a_treatment_are_left_alone(lenet5, digits):
    seen, unseen = digits
    first, *rest = layers(lenet5)
    model = lenet5.clone()
    assert not quantize(model, {first.name: Treatment()}, seen)
    assert len(model.graph) == len(lenet5.graph)
    report, = quantize(model, {first.name: Treatment("int8")}, seen)
    assert report.layer == first.name and [x.name for x in layers(model)] == [x.name for x in rest]
    for now, was in zip(layers(model), rest, strict=True):
        np.testing.assert_array_equal(now.weight, was.weight)
    assert close(lenet5, model, unseen).error < 0.02


def test_zeros_stay_zeros(lenet5, digits):
    model = lenet5.clone()
    kept = {}
    for layer in layers(model):
        kept[layer.name] = np.random.default_rng(0).random(layer.matrix.shape) < 0.3
        layer.replaced(model, layer.matrix * kept[layer.name])
    quantize(model, {x.name: Treatment("int8") for x in layers(model)}, digits[0])
    for node in model.graph:
        if node.name in kept:
            codes = constant(node.inputs[1].producer().inputs[0])
            assert np.count_nonzero(codes) <= kept[node.name].sum()


def test_what_is_not_tolerated_stays_in_float(lenet5, digits):
    model = lenet5.clone()
    treatments = {x.name: Treatment("int8") for x in layers(model)}
    errors = {r.layer: r.error for r in quantize(lenet5.clone(), treatments, digits[0], top=127)}
    limit = sorted(errors.values())[1]
    reports = quantize(model, treatments, digits[0], top=127, way=Way(tolerance=limit))
    assert {r.layer for r in reports if r.step == "int8"} == {n for n, e in errors.items() if e <= limit}
    assert all("stays in float" in r.note and r.after == r.before for r in reports if r.step == "float")
    assert len(layers(model)) == len(errors) - 2
    assert close(lenet5, model, digits[1]).error < 0.02


def test_outliers_and_a_shifted_mean_are_made_good():
    """A layer behind channels of very different sizes: rounding them together loses most of the small ones."""
    from onnx import parser

    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-0.8, 0.8, 32)
    w, m = rng.standard_normal((16, 32)) * sizes, rng.standard_normal((32, 8)) / sizes[:, None]

    def text(name, a):
        return f"float[{','.join(map(str, a.shape))}] {name} = {{{','.join(map(str, a.ravel()))}}}"
    model = ir.from_proto(parser.parse_model(f"""<ir_version: 10, opset_import: ["": 22]>
        agraph (float[1,5,16] x) => (float[1,5,8] z) <{text('w', w)}, {text('m', m)}, {text('b', rng.standard_normal(8))}> {{
        y = MatMul(x, w)  r = Relu(y)  s = MatMul(r, m)  z = Add(s, b) }}"""))
    passes.canonicalize(model, frozenset(LOWERINGS))
    data = [{"x": x} for x in rng.standard_normal((64, 1, 5, 16)).astype(np.float32)]
    errors = []
    for migration in (None, 0.5):
        rounded = model.clone()
        quantize(rounded, {x.name: Treatment("int8") for x in layers(rounded)}, data[:32], way=Way(migration=migration))
        errors.append(close(model, rounded, data[32:]).error)
    assert errors[1] < 0.4 * errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("top", [255, 127])
def test_efficientnet_lite0_agrees_with_itself_on_photos_it_was_not_calibrated_on(top):
    from itertools import islice

    from burnish.models.data import grocery, imagenet

    def feeds(half, count):
        return [{"image": imagenet.preprocess(p)} for p in islice(grocery.photos(half), 0, None, 1027 // count)]
    before = canonical("efficientnet_lite0")
    model = before.clone()
    reports = quantize(model, {x.name: Treatment("int8") for x in layers(model)}, feeds("calibration", 64), top=top)
    assert sum(r.after for r in reports) < 0.26 * sum(r.before for r in reports)
    assert close(before, model, feeds("held out", 1027)).agreement >= 0.95
