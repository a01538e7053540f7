"""What compression has taken is made good as far as what is left allows: nearer to the float model on samples never seen."""

import numpy as np
import onnx_ir as ir
import pytest
from burnish.compiler.compress.quantize import quantize
from burnish.compiler.compress.recover import Coded, recover, recoverable
from burnish.compiler.compress.sparsify import sparsify
from burnish.passes.compress import bias
from burnish.passes.compress.treatment import Treatment
from small_models import network, samples
from test_sparsify import away, named, treatments


def codes(model: ir.Model) -> dict[str, np.ndarray]:
    return {x.name: x.codes for x in recoverable(model) if isinstance(x, Coded)}


def test_remaining_weights_make_up_for_the_others() -> None:
    model, original = network(), network()
    sparsify(model, treatments(model, "block:60%"), None, criterion="magnitude")
    zeros = {name: x.matrix == 0 for name, x in named(model).items()}
    before, unseen = away(model, original, samples(50, seed=5)), samples(50, seed=5)
    reports = recover(original, model, samples(300))
    assert away(model, original, unseen) < 0.6 * before
    assert {r.layer for r in reports} == set(zeros)
    for name, x in named(model).items():
        assert np.array_equal(x.matrix == 0, zeros[name])


@pytest.mark.parametrize("sparsity", ("", "block:50%"))
def test_integers_stay_integers_and_zeros_zero(sparsity: str) -> None:
    model, data, unseen = network(), samples(200), samples(50, seed=5)
    wanted = treatments(model, sparsity, "int8") if sparsity else {n: Treatment("int8") for n in named(model)}
    if sparsity:
        sparsify(model, wanted, data)
    original = model.clone()
    quantize(model, wanted, data)
    old = codes(model)
    assert set(old) == {"first", "depthwise", "pointwise", "last"}
    rough = np.random.default_rng(0)
    for x in recoverable(model):        # as if it had been rounded without care: some codes and all biases are off
        assert isinstance(x, Coded)
        off = rough.choice([-1, 0, 1], x.matrix.shape, p=[0.05, 0.9, 0.05]) * ((np.abs(x.matrix / x.grid) - 60) ** 2 < 58**2)
        x.replaced(model, x.matrix + off * x.grid)
        bias.write(model, x, bias.read(x) + 0.02 * np.abs(bias.read(x)).max())
    before, old = away(model, original, unseen), codes(model)
    recover(original, model, data)
    new = codes(model)
    assert away(model, original, unseen) < 0.6 * before
    assert any(not np.array_equal(new[n], old[n]) for n in old)
    for x in recoverable(model):
        assert isinstance(x, Coded) and x.codes.dtype == np.int8 and x.codes.min() >= -127
        if sparsity and x.name in ("pointwise", "last"):
            dense = Coded(x.node).as_matrix(old[x.name])[0]
            assert not x.as_matrix(x.codes)[0][(dense == 0).all(axis=1)].any()
            assert np.count_nonzero(x.codes) <= 0.55 * x.codes.size


def test_scaled_channels_of_a_layer_that_differs_otherwise_are_left_alone() -> None:
    model, original, data = network(), network(), samples(100)
    wanted = treatments(model, "block:75%", "int8")
    sparsify(model, wanted, data, criterion="magnitude")
    quantize(model, wanted, data)
    old = codes(model)
    reports = {r.layer: r for r in recover(original, model, data)}
    assert "scaled" in reports["first"].note and np.array_equal(codes(model)["first"], old["first"])


def test_what_fits_only_the_samples_is_not_taken() -> None:
    """Eight samples of noise for 40 weights a channel: no correlation of theirs is to be learnt."""
    rng = np.random.default_rng(0)
    model, original = network(), network()
    sparsify(model, treatments(model, "block:60%"), samples(100))
    before = {n: x.matrix for n, x in named(model).items()}
    noise = [{"x": 3 * rng.standard_normal((1, 8, 9, 9)).astype(np.float32)} for _ in range(8)]
    reports = {r.layer: r for r in recover(original, model, noise)}
    for name, x in named(model).items():
        if reports[name].note.startswith("weights stay"):
            assert np.array_equal(x.matrix, before[name])
    assert reports["last"].note.startswith("weights stay")


def test_layers_of_other_shapes_are_left_alone() -> None:
    model, original = network(), network()
    for node in original.graph:
        if node.name == "pointwise":
            node.name = "another"
    assert {r.layer for r in recover(original, model, samples(10))} == {"first", "depthwise", "last"}


def test_codes_with_a_scale_for_each_block_are_read() -> None:
    rng = np.random.default_rng(0)
    stored, scale = rng.integers(-8, 8, (64, 5)).astype(np.int8), rng.random((2, 5)).astype(np.float32)
    values = [ir.Value(name=n, const_value=ir.tensor(a), shape=ir.Shape(a.shape)) for n, a in (("q", stored), ("s", scale))]
    weight = ir.node("DequantizeLinear", values, {"axis": 0, "block_size": 32})
    product = ir.node("MatMul", [ir.val("x", shape=(1, 64)), weight.outputs[0]], name="m")
    assert np.allclose(Coded(product).matrix[0], stored * np.repeat(scale, 32, axis=0))
