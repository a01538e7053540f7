"""Low-rank factors: exact at the rank that a layer has, closer by outputs than by weights, run by onnxruntime at every stage."""

import numpy as np
import onnx_ir as ir
import pytest
from burnish import models, passes
from burnish.compiler import lower  # noqa: F401
from burnish.compiler.compress.calibration import observe
from burnish.compiler.compress.factorize import factorize
from burnish.compiler.errors import BurnishError
from burnish.compiler.importer import load
from burnish.compiler.lower.registry import LOWERINGS
from burnish.compiler.sample import reference
from burnish.models.data import imagenet, text
from burnish.models.zoo import ZOO
from burnish.passes.compress import low_rank
from burnish.passes.compress.layers import layers
from burnish.passes.compress.treatment import Treatment
from onnx import parser

RNG = np.random.default_rng(3)


def model(graph, **weights):
    """A canonical model; weights by name."""
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]>\n{graph}')
    made = ir.from_proto(proto)
    for name, array in weights.items():
        found = next(v for n in made.graph for v in n.inputs if v is not None and v.name == name)
        found.const_value = ir.tensor(np.ascontiguousarray(array, "f4"), name=name)
        found.shape, found.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.FLOAT)
        made.graph.register_initializer(found)
    passes.canonicalize(made, frozenset(LOWERINGS))
    return made


def of_rank(k, n, rank):
    return RNG.standard_normal((k, rank)) @ RNG.standard_normal((rank, n)) / rank


def everything(made, **treatment):
    return {layer.name: Treatment(**treatment) for layer in layers(made)}


def feeds(shape, count=6):
    return [{"x": RNG.standard_normal(shape).astype("f4")} for _ in range(count)]


LINEAR = "g (float[2,5,96] x) => (float[2,5,80] y) { y = MatMul(x, w) }"
BIASED = "g (float[2,5,96] x) => (float[2,5,80] y) { h = MatMul(x, w)\n y = Add(h, b) }"
CONV = """g (float[2,96,7,6] x) => (float[2,80,h,v] y) {
    y = Conv<kernel_shape=[3,3], strides=[2,1], pads=[1,0,1,2], dilations=[1,2]>(x, w, b) }"""


@pytest.mark.parametrize("method", ["svd", "afm"])
@pytest.mark.parametrize("graph", [LINEAR, BIASED, CONV])
def test_a_layer_of_that_rank_stays_what_it_is(graph, method):
    weights = {"w": of_rank(96, 80, 16)} if "MatMul" in graph else {
        "w": np.moveaxis(of_rank(3 * 3 * 96, 80, 16).reshape(3, 3, 96, 80), (2, 3), (1, 0))}
    if "b)" in graph:
        weights["b"] = RNG.standard_normal(80)
    made = model(graph, **weights)
    data = feeds([2, 5, 96] if "MatMul" in graph else [2, 96, 7, 6])
    before = reference(made, data[0])
    (report,) = factorize(made, everything(made, rank=0.2), data, method=method)
    assert report.step == f"rank 16 ({method})" and report.error < 1e-5 and report.after < report.before
    first, second = layers(made)
    assert second.name == report.layer and first.matrix.shape[-1] == 16
    np.testing.assert_allclose(reference(made, data[0])[0], before[0], atol=1e-4 * np.abs(before[0]).max())
    lowered = made.clone()
    passes.run(lowered, frozenset(LOWERINGS))
    np.testing.assert_allclose(reference(lowered, data[0])[0], before[0], atol=1e-4 * np.abs(before[0]).max())


def test_a_window_splits_into_a_column_and_a_row():
    column, row = of_rank(48 * 3, 16, 16), RNG.standard_normal((16, 3 * 64))
    w = (column @ row).reshape(48, 3, 3, 64).transpose(3, 0, 1, 2)
    made = model("""g (float[1,48,11,9] x) => (float[1,64,h,v] y) {
        y = Conv<kernel_shape=[3,3], strides=[2,2], pads=[1,2,0,1]>(x, w, b) }""", w=w, b=RNG.standard_normal(64))
    data = feeds([1, 48, 11, 9], 2)
    before = reference(made, data[0])
    (report,) = factorize(made, everything(made, rank=0.12), data, method="spatial")
    assert [list(x.weight.shape) for x in layers(made)] == [[16, 48, 3, 1], [64, 16, 1, 3]] and report.error < 1e-5
    np.testing.assert_allclose(reference(made, data[0])[0], before[0], atol=1e-4 * np.abs(before[0]).max())


def test_the_error_that_is_reported_is_the_error_that_is_there():
    for graph, shape, method, weight, rank in (
            (BIASED, [2, 5, 96], "afm", (96, 80), 0.4), (BIASED, [2, 5, 96], "svd", (96, 80), 0.4),
            (CONV, [2, 96, 7, 6], "afm", (80, 96, 3, 3), 0.4), (CONV, [2, 96, 7, 6], "spatial", (80, 96, 3, 3), 0.25)):
        made = model(graph, w=RNG.standard_normal(weight), b=RNG.standard_normal(80))
        data, bias = feeds(shape), 0 if "MatMul" not in graph else made.graph.initializers["b"].const_value.numpy()
        before = np.stack([reference(made, d)[0] for d in data])
        (report,) = factorize(made, everything(made, rank=rank), data, method=method)
        after = np.stack([reference(made, d)[0] for d in data])
        found = np.linalg.norm(after - before) / np.linalg.norm(before - bias)
        assert report.error == pytest.approx(found, rel=1e-3), method
        assert 0.05 < found < 1


def test_the_rank_may_follow_from_the_energy():
    made = model(LINEAR, w=of_rank(96, 80, 20) + 1e-3 * RNG.standard_normal((96, 80)))
    (report,) = factorize(made, everything(made, rank="auto"), feeds([2, 5, 96]))
    assert report.step == "rank 32 (afm)" and 0 < report.error < 0.1


def test_what_would_not_be_cheaper_stays():
    made = model(LINEAR, w=RNG.standard_normal((96, 80)))
    (report,) = factorize(made, everything(made, rank=0.9), method="svd")
    assert report.before == report.after and "would take" in report.note and len(layers(made)) == 1
    grouped = model("g (float[1,8,5,5] x) => (float[1,8,5,5] y) { y = Conv<group=8, pads=[1,1,1,1], kernel_shape=[3,3]>(x, w) }",
                    w=RNG.standard_normal((8, 1, 3, 3)))
    (report,) = factorize(grouped, everything(grouped, rank=0.5), method="svd")
    assert report.note == "it has groups"


def test_bad_data_is_refused():
    made = model(LINEAR, w=RNG.standard_normal((96, 80)))
    with pytest.raises(BurnishError, match="needs calibration data"):
        factorize(made, everything(made, rank=0.5), method="afm")
    with pytest.raises(BurnishError, match="not finite"):
        factorize(made, everything(made, rank=0.5), [{"x": np.full((2, 5, 96), np.nan, "f4")}])
    assert len(layers(made)) == 1


def held_out(made, chosen, seen, others):
    """For each layer at a quarter, half and three quarters of its rank: what is lost of samples never seen, by the components of
    the outputs and by the weights."""
    known, held = ({x.name: low_rank.Moments(x) for x in chosen} for _ in range(2))
    for moments, data in ((known, seen), (held, others)):
        observe(made, {x.output.name: moments[x.name] for x in chosen}, data)
    for layer in chosen:
        found, full = (low_rank.by_outputs(layer, known[layer.name]), low_rank.by_weights(layer)), min(low_rank.sides(layer))
        for rank in (low_rank.rounded(share * full) for share in (0.25, 0.5, 0.75)):
            if rank < full:
                yield layer.name, rank, *(f.lost(rank, held[layer.name].sums) for f in found)


def test_outputs_beat_weights_on_texts_never_seen():
    """MiniLM (trained), six layers, eight news summaries to learn from and eight others."""
    made = load(models.build("minilm"), ZOO["minilm"].inputs)
    passes.canonicalize(made, frozenset(LOWERINGS))
    chosen = [x for x in layers(made) if low_rank.factorable(x) is None][::6]
    data = []
    with np.errstate(invalid="ignore"):
        text.embeddings(lambda inputs: data.append(inputs) or np.zeros((1, 128, 384), "f4"), text.lee_documents()[0][:16])
    found = list(held_out(made, chosen, data[:8], data[8:]))
    assert len(chosen) == 6 and len(found) == 18
    assert all(outputs < weights for _, _, outputs, weights in found), found


@pytest.mark.slow
def test_outputs_beat_weights_on_pictures_never_seen():
    """EfficientNet-Lite0 (trained), all 34 layers, 25 pictures to learn from and 25 others; where these say too little (the head,
    49 pixels a picture), outputs are taken to be what the weights make of white inputs, and lose no more."""
    made = load(models.build("efficientnet_lite0"), ZOO["efficientnet_lite0"].inputs)
    passes.canonicalize(made, frozenset(LOWERINGS))
    data = [{"image": imagenet.preprocess(picture)} for picture, _ in imagenet.labelled()]
    order = np.random.default_rng(0).permutation(len(data))
    chosen = [x for x in layers(made) if low_rank.factorable(x) is None]
    found = list(held_out(made, chosen, [data[n] for n in order[:25]], [data[n] for n in order[25:]]))
    assert len(chosen) == 34 and all(outputs <= weights * 1.001 for _, _, outputs, weights in found), found
