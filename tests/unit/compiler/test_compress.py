"""From a float model to a compressed one: budgets hold on unseen data, refusals and misses say why, nothing is half-written."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from burnish import compress
from burnish.compiler.compress.account import AccountRefused, recipe_of
from burnish.compiler.compress.compress import Compressed, NothingToCompress
from burnish.compiler.compress.guard import refusals
from burnish.compiler.compress.prices import Prices
from burnish.compiler.compress.report import LayerReport
from burnish.compiler.compress.request import RequestRefused
from burnish.compiler.compress.search import BudgetMissed
from burnish.compiler.errors import DataRefused
from burnish.passes.compress.treatment import Treatment
from tune_model import CHANNELS, SIZE, save

MODELLED = "linux-arm64"        # nothing here measures it: prices are analytic, and quick


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((48, 1, CHANNELS, SIZE, SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "small.onnx")


def run(model: Path, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": one})[0] for one in x])


def shrink(model: Path, to: Path, data: np.ndarray, **asked: object) -> Compressed:
    np.save(to.with_suffix(".npy"), data[:, 0])
    return compress(model, to, calibration_data=to.with_suffix(".npy"), target=MODELLED, recover=False, records="none", **asked)


def test_one_method(model: Path, samples: np.ndarray, tmp_path: Path) -> None:
    done = shrink(model, tmp_path / "c.onnx", samples, quantize="int8", prefer="size")
    assert done.after.bytes < 0.35 * done.before.bytes
    expected, got = run(model, samples), run(tmp_path / "c.onnx", samples)
    assert 0 < np.linalg.norm(got - expected) / np.linalg.norm(expected) < 0.05
    data = json.loads((tmp_path / "c.json").read_text())
    assert data["loss"]["scores"]["agreement"] == 1 - done.loss.value
    assert {x["layer"] for x in data["layers"]} == set(done.before.seconds)
    assert recipe_of(tmp_path / "c.json") == done.recipe


def test_a_budget_holds_on_data_the_search_never_saw(model: Path, samples: np.ndarray, tmp_path: Path) -> None:
    done = shrink(model, tmp_path / "c.onnx", samples, max_drop="20%")
    assert done.after.total < done.before.total
    assert {p.name for p in done.points} > {"float", "int8", "block:75%", "int8 + block:50%"}
    assert done.after.total == min(p.prices.total for p in done.points if p.loss.safe <= 0.2)
    unseen = np.random.default_rng(2).standard_normal((200, 1, CHANNELS, SIZE, SIZE)).astype(np.float32)
    agree = np.mean(run(model, unseen).argmax(1) == run(tmp_path / "c.onnx", unseen).argmax(1))
    assert 1 - agree <= 0.2
    assert (tmp_path / "c.svg").read_text().count("<svg") == 1


def test_limits_of_size_and_time(model: Path, samples: np.ndarray, tmp_path: Path) -> None:
    done = shrink(model, tmp_path / "c.onnx", samples, max_size="40KB")
    assert done.after.bytes <= 40_000 < done.before.bytes
    faster = shrink(model, tmp_path / "d.onnx", samples, max_latency=f"{done.before.total * 0.6 * 1e6:.4f}us")
    assert faster.after.total <= done.before.total * 0.6


def test_a_budget_that_cannot_be_met_names_the_nearest_point(model: Path, samples: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(BudgetMissed, match=r"a loss of 0\.10% and 1\.0 KB; the nearest is .*: .*, .*KB, loses .*%"):
        shrink(model, tmp_path / "c.onnx", samples, max_drop="0.1%", max_size="1KB")
    assert [p.name for p in tmp_path.iterdir()] == ["c.npy"]


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda x: x[:0], "no samples"), (lambda x: np.where(x > 3, np.nan, x), "NaN|finite"), (lambda x: x[..., :5], "shape")])
def test_broken_samples(model: Path, samples: np.ndarray, tmp_path: Path, spoil: Callable[[np.ndarray], np.ndarray],
                        says: str) -> None:
    with pytest.raises(DataRefused, match=says):
        shrink(model, tmp_path / "c.onnx", spoil(samples), quantize="int8")
    assert not (tmp_path / "c.onnx").exists()


def test_one_sample_only(model: Path, samples: np.ndarray, tmp_path: Path) -> None:
    done = shrink(model, tmp_path / "c.onnx", samples[:1], quantize="int8", prefer="size")
    assert any("one sample only" in note for note in done.notes)


def test_what_cannot_be_compressed_and_what_was_not_asked_for(model: Path, samples: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(RequestRefused, match="nothing was asked for"):
        shrink(model, tmp_path / "c.onnx", samples)
    with pytest.raises(RequestRefused, match=r"\.onnx"):
        shrink(model, tmp_path / "c.model", samples, quantize="int8")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "none",
        [onnx.helper.make_tensor_value_info("x", 1, [1, CHANNELS, SIZE, SIZE])],
        [onnx.helper.make_tensor_value_info("y", 1, [1, CHANNELS, SIZE, SIZE])])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10), tmp_path / "r.onnx")
    with pytest.raises(NothingToCompress, match="no convolution"):
        shrink(tmp_path / "r.onnx", tmp_path / "c.onnx", samples, quantize="int8")
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(AccountRefused, match="no account"):
        recipe_of(tmp_path / "c.json")


def test_the_guard_refuses_what_gains_nothing() -> None:
    dense, treated = Prices({"a": 2.0, "b": 1.0, "c": 1.0}, 0, 0, True), Prices({"a": 1.0, "b": 1.5, "c": 3.0}, 0, 0, True)
    reports = [*(LayerReport(n, "int8", 0, 8, 2) for n in "ab"), LayerReport("c", "dense", 0, 8, 8, "too thin")]
    treatments = dict.fromkeys("abc", Treatment("int8"))
    assert refusals(dense, treated, treatments, reports, "speed") == {"b": "int8 refused: 1.50 s instead of 1.00 s"}
    assert refusals(dense, treated, treatments, reports, "size") == {}
