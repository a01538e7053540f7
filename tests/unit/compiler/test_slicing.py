"""Pre-norm transformers turned and sliced: the same at fraction 0, near by at small ones; post-norm ones are refused."""

import numpy as np
import onnx_ir as ir
import pytest
from burnish import models, passes
from burnish.compiler import lower  # noqa: F401
from burnish.compiler.compress.slicing import slice_model
from burnish.compiler.driver import lower_model
from burnish.compiler.errors import BurnishError
from burnish.compiler.importer import load
from burnish.compiler.lower.registry import LOWERINGS
from burnish.compiler.sample import reference
from burnish.models.zoo import ZOO
from burnish.passes.compress.layers import layers
from test_factorize import model

RNG = np.random.default_rng(6)
BLOCKS = """g (float[2,5,48] x) => (float[2,7] y) {
    o = Neg(x)
    n1 = LayerNormalization<axis=-1, epsilon=0.001>(o, g1, c1)
    a1 = MatMul(n1, w1)
    t1 = Tanh(a1)
    b1 = MatMul(t1, u1)
    d1 = Add(b1, v1)
    r1 = Add(o, d1)
    n2 = LayerNormalization<axis=-1>(r1, g2, c2)
    a2 = MatMul(n2, w2)
    e2 = Add(a2, f2)
    t2 = Tanh(e2)
    b2 = MatMul(t2, u2)
    r2 = Add(b2, r1)
    n3 = LayerNormalization<axis=-1>(r2, g3, c3)
    p = ReduceMean<keepdims=0>(n3, axes)
    y = MatMul(p, h)
}"""


def blocks(text=BLOCKS):
    shapes = {"g1": (48,), "c1": (48,), "w1": (48, 30), "u1": (30, 48), "v1": (48,), "g2": (48,), "c2": (48,), "w2": (48, 64),
              "f2": (64,), "u2": (64, 48), "g3": (48,), "c3": (48,), "h": (48, 7)}
    text = text.replace("o = Neg(x)", "axes = Constant<value_ints=[1]>()\n    o = Neg(x)")
    return model(text, **{name: RNG.standard_normal(s) / s[0]**0.5 for name, s in shapes.items() if f"{name})" in text
                          or f"{name}," in text})


def feeds(made, count=3):
    return [{v.name: RNG.standard_normal(tuple(v.shape.numpy())).astype("f4") for v in made.graph.inputs} for _ in range(count)]


def test_turned_only_the_model_is_the_same():
    made = blocks()
    data = feeds(made)
    before = reference(made, data[0])
    reports = slice_model(made, 0.0, data)
    assert len(reports) == 5 and all(r.error < 1e-6 and r.before == r.after for r in reports)
    assert not any(n.op_type == "LayerNormalization" for n in made.graph)
    np.testing.assert_allclose(reference(made, data[0])[0], before[0], atol=2e-5 * np.abs(before[0]).max())


def test_what_holds_nothing_can_be_sliced_away():
    """A stream that never leaves 30 of its 48 dimensions."""
    made = blocks()
    plane = np.linalg.qr(RNG.standard_normal((48, 30)))[0]
    for layer in layers(made):
        if layer.matrix.shape[2] == 48:
            layer.replaced(made, (layer.matrix[0] @ plane @ plane.T)[None])
    v1 = next(v for n in made.graph for v in n.inputs if v is not None and v.name == "v1")
    v1.const_value = ir.tensor((v1.const_value.numpy() @ plane @ plane.T).astype("f4"), name="v1")
    data = [{"x": (d["x"] @ plane @ plane.T).astype("f4")} for d in feeds(made, 20)]
    before = reference(made, data[0])
    reports = slice_model(made, 1 / 3, data)
    assert {r.step for r in reports} == {"slice 48 to 32"} and all(r.after == r.before * 2 // 3 for r in reports)
    np.testing.assert_allclose(reference(made, data[0])[0], before[0], atol=1e-4 * np.abs(before[0]).max())
    lower_model(ir.from_proto(ir.to_proto(made)))


def test_deit():
    """Random weights: exact at 0, and the error grows with what is sliced away."""
    errors = []
    for fraction in (0.0, 0.1, 0.3):
        made = load(models.build("deit_tiny"), ZOO["deit_tiny"].inputs)
        passes.canonicalize(made, frozenset(LOWERINGS))
        data = [{"image": np.random.default_rng(n).standard_normal((1, 3, 224, 224)).astype("f4")} for n in range(2)]
        before = reference(made, data[0])[0]
        reports = slice_model(made, fraction, data)
        assert len(reports) == 49
        errors.append(np.linalg.norm(reference(made, data[0])[0] - before) / np.linalg.norm(before))
    assert errors[0] < 1e-5 and 1e-5 < errors[1] < errors[2] < 1


def test_refusals():
    made = load(models.build("minilm"), ZOO["minilm"].inputs)
    passes.canonicalize(made, frozenset(LOWERINGS))
    with pytest.raises(BurnishError, match="post-norm"):
        slice_model(made, 0.25, [])
    with pytest.raises(BurnishError, match="something else"):
        slice_model(blocks(BLOCKS.replace("(float[2,7] y)", "(float[2,7] y, float[2,5,48] r1)")), 0.25, [])
    with pytest.raises(BurnishError, match="less than 1"):
        slice_model(blocks(), 1.5, [])
    with pytest.raises(BurnishError, match="no LayerNorm"):
        slice_model(model("g (float[2,4] x) => (float[2,4] y) { y = MatMul(x, w) }", w=np.eye(4)), 0.5, [])
