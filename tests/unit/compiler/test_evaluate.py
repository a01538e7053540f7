"""Fidelity and scores, against numpy on whole arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from burnish.compiler.compress.evaluate import Fidelity, Score, drop, fidelity, judge
from burnish.compiler.errors import DataRefused
from burnish.targets.plan import Signature
from PIL import Image

X = (Signature("x", (1, 10), "float32"),)
IMAGE = (Signature("image", (1, 3, 2, 2), "float32"),)


def noisy(amount, seed=0):
    rng = np.random.default_rng(seed)
    return lambda feed: [feed["x"] + amount * rng.standard_normal((1, 10)).astype(np.float32), 2 * feed["x"].reshape(2, 5)]


def feeds(count, seed=1):
    return [{"x": x[None]} for x in np.random.default_rng(seed).standard_normal((count, 10)).astype(np.float32)]


def test_fidelity_is_that_of_all_outputs_at_once():
    data = feeds(50)
    found = fidelity(noisy(0), noisy(0.7), data)
    a, b = ([np.concatenate([o.ravel() for o in call(f)]).astype(np.float64) for f in data] for call in (noisy(0), noisy(0.7)))
    assert found.error == pytest.approx(np.linalg.norm(np.ravel(a) - np.ravel(b)) / np.linalg.norm(a))
    assert found.cosine == pytest.approx(
        np.mean([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]))
    assert found.snr == pytest.approx(-20 * math.log10(found.error))
    assert found.agreement == np.mean([x[:10].argmax() == y[:10].argmax() for x, y in zip(a, b, strict=True)])
    assert 0 < found.agreement < 1 and found.scores[0].name == "agreement"


def test_equal_outputs_are_perfect_and_broken_ones_are_not():
    same = fidelity(noisy(0), noisy(0), feeds(3))
    assert (same.error, same.agreement, same.cosine, same.snr) == (0, 1, pytest.approx(1), math.inf)
    broken = Fidelity()
    broken.update([np.ones((2, 3), "f4")], [np.full((2, 3), np.nan, "f4")])
    assert broken.error == math.inf and broken.agreement is None and broken.scores[0].value == -math.inf
    silence = Fidelity()
    silence.update([np.zeros(3)], [np.zeros(3)])
    assert silence.error == 0 and silence.cosine == 1


def test_a_drop_is_a_loss_in_the_scores_own_unit():
    assert drop(Score("a", 0.8), Score("a", 0.75)) == pytest.approx(0.05)
    assert drop(Score("cer", 0.1, False), Score("cer", 0.3, False)) == pytest.approx(0.2)


@pytest.mark.parametrize("where", ["{label}/{n}.png", "cat{n}_{label:04}.png"])
def test_labels_are_in_the_names_of_folders_or_files(tmp_path, where):
    labels = [3, 0, 3, 1]
    for n, label in enumerate(labels):
        path = tmp_path / where.format(n=n, label=label)
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((2, 2, 3), 10 * n, np.uint8)).save(path)

    def predict(feed):      # sees which picture it is, and is wrong about the last
        n = round(float(feed["image"][0, 0, 0, 0]) * 25.5)
        return [np.eye(4, dtype=np.float32)[labels[n] if n != 3 else 2][None]]
    assert judge(tmp_path, IMAGE)(predict) == Score("top-1", 0.75)
    with pytest.raises(DataRefused, match="is of class 3, the model's first output has 2"):
        judge(tmp_path, IMAGE)(lambda feed: [np.ones((1, 2), "f4")])


def test_a_function_judges(tmp_path, monkeypatch):
    (tmp_path / "judges_for_test.py").write_text("def score(predict):\n    return predict({'x': 4})[0]\n"
                                                 "def broken(predict):\n    return 1 / 0\ndef nothing(predict): pass\n")
    monkeypatch.chdir(tmp_path)
    assert judge("judges_for_test:score", X)(lambda feed: [feed["x"] / 8]) == Score("judges_for_test:score", 0.5)
    for name, words in {"broken": "ZeroDivisionError", "nothing": "must return a number", "score": "finite"}.items():
        with pytest.raises(DataRefused, match=words):
            judge(f"judges_for_test:{name}", X)(lambda feed: [math.nan])


def test_data_without_labels_are_refused(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "cat.png")
    with pytest.raises(DataRefused, match=r"cat.png has no class.*cat_281.png"):
        judge(tmp_path, IMAGE)
    with pytest.raises(DataRefused, match="there is no folder"):
        judge(tmp_path / "nowhere", IMAGE)
