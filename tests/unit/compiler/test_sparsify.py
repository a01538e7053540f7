"""Pruned models: the zeros that were asked for, where they were, and outputs that stay near."""

import numpy as np
import onnx_ir as ir
import pytest
from burnish.compiler.compress.allocation import spread
from burnish.compiler.compress.calibration import probe
from burnish.compiler.compress.hessian import gather, not_padding, stages
from burnish.compiler.compress.sparsify import _pruned, regroup, sparsify
from burnish.passes.compress.layers import Layer, layers
from burnish.passes.compress.prune_units import prune
from burnish.passes.compress.treatment import Sparsity, Treatment
from small_models import matmul, network, samples


def treatments(model: ir.Model, text: str, precision: str = "float") -> dict[str, Treatment]:
    return {x.name: Treatment(precision=precision, sparsity=Sparsity.parse(text)) for x in layers(model)}       # type: ignore[arg-type]


def named(model: ir.Model) -> dict[str, Layer]:
    return {x.name: x for x in layers(model)}


def away(model: ir.Model, original: ir.Model, unseen: list) -> float:
    show, true = probe(model, ("y",)), probe(original, ("y",))
    pairs = [(show(f)["y"], true(f)["y"]) for f in unseen]
    return float(np.sqrt(sum(((a - b) ** 2).sum() for a, b in pairs) / sum((b**2).sum() for _, b in pairs)))


def kept_units(matrix: np.ndarray, sparsity: Sparsity) -> list[np.ndarray]:
    """For each group of channels, which units are not zero; all weights of a unit are zero, or it is kept."""
    return [np.array([np.any(matrix[i:i + sparsity.step, c:c + sparsity.group]) for i in range(0, len(matrix), sparsity.step)])
            for c in range(0, matrix.shape[1], sparsity.group)]


@pytest.mark.parametrize("criterion", ("magnitude", "wanda", "sparsegpt", "obs"))
@pytest.mark.parametrize(("text", "precision"),
                         (("block:60%", "float"), ("2:4", "float"), ("1:4", "int8"), ("block:75%/8", "int8")))
def test_layers_have_the_zeros_that_were_asked_for(criterion: str, text: str, precision: str) -> None:
    model = network()
    wanted = treatments(model, text, precision)
    reports = {r.layer: r for r in sparsify(model, wanted, samples(12), criterion=criterion)}        # type: ignore[arg-type]
    for name in ("first", "pointwise", "last"):
        units = wanted[name].units
        assert units is not None
        matrix = named(model)[name].matrix[0]
        for kept in kept_units(matrix, units):
            assert kept.sum() == units.units(len(matrix))
            for i in range(0, len(kept) - units.period + 1 if units.period else 0, units.period or 1):
                assert kept[i:i + units.period].sum() == units.kept
        assert 0 < reports[name].error < 1 and reports[name].after < reports[name].before
    assert reports["depthwise"].after == reports["depthwise"].before and "depthwise" in reports["depthwise"].note
    assert np.count_nonzero(named(model)["depthwise"].matrix) == 32 * 9


def test_data_and_the_surgeon_lose_less() -> None:
    data, unseen, lost = samples(400), samples(50, seed=5), {}
    for criterion in ("magnitude", "wanda", "sparsegpt", "obs"):
        model = network()
        sparsify(model, treatments(model, "block:60%"), data, criterion=criterion)      # type: ignore[arg-type]
        lost[criterion] = away(model, network(), unseen)
    assert lost["obs"] < 0.9 * lost["sparsegpt"] < 0.6 * lost["wanda"] < 0.6 * lost["magnitude"]


def test_what_earlier_layers_have_become_is_made_good() -> None:
    data, unseen, lost = samples(400), samples(50, seed=5), []
    for passes in (1, 8):
        model = network()
        sparsify(model, treatments(model, "block:60%"), data, passes=passes)
        lost.append(away(model, network(), unseen))
    assert lost[1] < 0.95 * lost[0]


def test_the_reported_error_is_that_of_the_layer() -> None:
    data, original, model = samples(7), network(), network()      # too few to hold some back
    report = next(r for r in sparsify(model, treatments(model, "block:50%"), data, passes=1) if r.layer == "first")
    show, true = probe(model, ("c0",)), probe(original, ("c0",))
    off = sum(((show(f)["c0"] - true(f)["c0"]) ** 2).sum() for f in data)
    assert report.error == pytest.approx(np.sqrt(off / sum((true(f)["c0"] ** 2).sum() for f in data)), rel=1e-3)


def test_without_data_there_is_only_magnitude() -> None:
    model = network()
    with pytest.raises(ValueError, match="needs calibration data"):
        sparsify(model, treatments(model, "2:4"), None)
    reports = sparsify(model, treatments(model, "2:4"), None, criterion="magnitude")
    assert {r.layer for r in reports} == {"first", "depthwise", "pointwise", "last"}


def test_moments_are_those_of_the_rows() -> None:
    model, data = network(), samples(5)
    x = named(model)["pointwise"]
    found = gather(model, [x], data)[0]["pointwise"]
    show = probe(model, ("c1", "c2"))
    rows = np.concatenate([x.rows(show(f)["c1"])[0] for f in data]).astype(np.float64)
    made = np.concatenate([x.outputs(show(f)["c2"])[0] for f in data]).astype(np.float64)
    assert found.centred and found.inputs.count == len(rows)
    assert np.allclose(found.hessian(0), np.cov(rows.T) * (len(rows) - 1), rtol=1e-3, atol=1e-2)
    w = x.matrix + 0.01
    off = rows @ w[0] - made
    assert found.error(w) == pytest.approx(np.linalg.norm(off - off.mean(axis=0)) / np.linalg.norm(made), rel=1e-3)
    assert np.allclose(found.bias(w), -off.mean(axis=0), atol=1e-4)


def test_every_third_sample_is_kept_apart() -> None:
    model, data = network(), samples(7)
    seen, held = gather(model, layers(model), data, held=3)
    assert held["last"].inputs.count == 2 and seen["last"].inputs.count == 5
    few, same = gather(model, layers(model), data[:2], held=3)
    assert few is same and few["last"].inputs.count == 2


def test_stages_hold_all_layers_in_order_and_little_memory() -> None:
    every = layers(network())
    assert [x.name for s in stages(every, 2) for x in s] == [x.name for x in every] and len(list(stages(every, 2))) == 2
    assert len(list(stages(every, 1, memory=100))) == len(every)


def test_nothing_is_learnt_from_padding() -> None:
    text = {"ids": np.zeros((1, 4), np.int64), "attention_mask": np.array([[1, 1, 0, 0]])}
    assert np.array_equal(not_padding(text), [True, True, False, False])
    assert not_padding({"ids": text["ids"]}) is None and not_padding({"mask": np.ones((1, 3, 8, 8), np.int64)}) is None
    model, rng = matmul(4), np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((1, 4, 16)).astype(np.float32), "mask": text["attention_mask"]} for _ in range(3)]
    found = gather(model, layers(model), feeds)[0]["m"]
    rows = np.concatenate([f["x"][0, :2] for f in feeds]).astype(np.float64)
    assert found.inputs.count == 6 and np.allclose(found.inputs.square[0], rows.T @ rows, rtol=1e-4)


@pytest.mark.parametrize("by", ("macs", "weights"))
def test_zeros_are_spread_so_that_the_model_loses_less(by: str) -> None:
    data, unseen, lost = samples(200), samples(50, seed=5), []
    own = spread(network(), Sparsity.parse("block:70%"), data, by=by)
    assert set(own) == {"first", "pointwise", "last"}
    able = {n: named(network())[n] for n in own}
    cost = {n: x.macs if by == "macs" else x.matrix.size for n, x in able.items()}
    assert sum(own[n].share * c for n, c in cost.items()) == pytest.approx(0.3 * sum(cost.values()), rel=0.01)
    for wanted in (own, dict.fromkeys(own, Sparsity.parse("block:70%"))):
        model = network()
        sparsify(model, {n: Treatment(sparsity=s) for n, s in wanted.items()}, data)
        kept = sum(c * np.count_nonzero(named(model)[n].matrix) / able[n].matrix.size for n, c in cost.items())
        assert kept <= 0.33 * sum(cost.values())
        lost.append(away(model, network(), unseen))
    assert lost[0] < lost[1]


def test_n_of_m_leaves_nothing_to_spread() -> None:
    with pytest.raises(ValueError, match="same everywhere"):
        spread(network(), Sparsity.parse("2:4"), samples(2))


def test_regrouped_channels_keep_more_and_change_nothing() -> None:
    model, data = network(), samples(60)
    found = regroup(model, treatments(model, "block:60%"), data)
    assert set(found) == {"first", "pointwise"} and sum(b for _, b in found.values()) > sum(a for a, _ in found.values())
    assert away(model, network(), data[:10]) < 1e-5
    lost = []
    for start in (network(), model):
        reports = sparsify(start, treatments(start, "block:60%"), data, criterion="wanda", passes=1)
        lost.append(sum(r.error for r in reports if r.layer in found))
    assert lost[1] < lost[0]


def test_corrections_from_few_samples_go_no_further_than_they_help() -> None:
    """The last layer sees a row of each sample: 35 for its 40 inputs."""
    few, unseen, lost = samples(40), samples(50, seed=5), []
    for passes in (1, 8):
        model = network()
        sparsify(model, treatments(model, "block:50%"), few, passes=passes)
        lost.append(away(model, network(), unseen))
    assert lost[1] < 0.95 * lost[0]


def test_with_few_rows_what_is_left_makes_up_for_less() -> None:
    model, few, unseen = network(), samples(24), samples(50, seed=5)
    x = named(model)["last"]
    seen, held = (m["last"] for m in gather(model, [x], few, held=4))
    truth = gather(model, [x], unseen)[0]["last"]
    start, half = x.matrix.astype(np.float64), Sparsity(share=0.5)
    chosen = _pruned(start, half, "obs", seen, held)
    plain = prune(start[0], half, "obs", seen.damped(0))
    assert truth.error(chosen) < truth.error(plain[None])
