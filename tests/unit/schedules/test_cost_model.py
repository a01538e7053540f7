"""Features, the cost model, and the measurements it is shipped with, on which its worth is tested."""

from dataclasses import replace

import numpy as np
import pytest
from burnish.schedules import cost_model, features
from burnish.schedules.candidate import default, options
from burnish.schedules.cost_model import PRETRAINED, CostModel, Group, ModelFileError
from burnish.schedules.evaluate import Trial
from burnish.schedules.features import COMMON, NAMES, SHARED
from burnish.schedules.templates import TEMPLATES
from burnish.tools.cost_data import JOURNAL, Store
from burnish.tools.cost_report import mean, regret
from burnish.tools.workloads import random

from .harness import AVX2, NEON, WASM, ZEN5

TASKS = [random(n) for n in range(40)]


@pytest.fixture(scope="module")
def measured():
    """Everything that was measured on the development machine's full instruction set, tasks in a random order."""
    found = [m for m in Store(PRETRAINED).measured() if m.device.lanes == 16 and not m.validates]
    np.random.default_rng(3).shuffle(found)
    return found


# ---- Features


@pytest.mark.parametrize("device", [ZEN5, AVX2, NEON, WASM], ids=lambda d: d.name)
def test_features_are_numbers_and_only_a_template_s_own_may_be_missing(device):
    seen = set()
    for task in TASKS:
        candidates = options(task, device)[::7]
        x = features.matrix(task, candidates, device)
        assert x.shape == (len(candidates), len(NAMES)) and x.dtype == np.float32
        assert not np.isinf(x).any()
        assert np.isfinite(x[:, [NAMES.index(name) for name in (*SHARED, *COMMON)]]).all()
        for name in ("accumulators", "reduction", "tiles", "waste_rows", "waste_columns", "epilogue"):
            assert np.isfinite(x[:, NAMES.index(name)]).all(), (name, task.family)
        seen |= {c.template for c in candidates}
    assert len(seen) >= 6       # gemm of both kinds, two or three forms of conv, depthwise, attention


def test_features_by_name():
    task = TASKS[0]
    found = features.features(task, default(task, ZEN5), ZEN5)
    assert found["excess"] == pytest.approx(found["log_cost"] - features.costs(task, ZEN5).least, abs=1e-5)
    assert found["lanes"] == 16 and found["registers"] <= 1 and found["waste_rows"] >= 1


def test_no_two_candidates_look_the_same():
    """But for attention, where some knobs come to the same layout."""
    for task in TASKS:
        if task.family != "attention":
            candidates = options(task, ZEN5)
            assert len({row.tobytes() for row in features.matrix(task, candidates, ZEN5)}) == len(candidates), task


def test_costs_are_computed_once(monkeypatch):
    task = random(1000)
    calls = []
    for template in {c.maker for c in options(task, ZEN5)}:
        real = type(template).cost
        monkeypatch.setattr(type(template), "cost", lambda self, *a, real=real: calls.append(a) or real(self, *a))
    for _ in range(3):
        features.matrix(task, options(task, ZEN5), ZEN5)
    assert len(calls) == len(options(task, ZEN5))


def test_a_feature_that_is_not_in_the_list_is_an_error(monkeypatch):
    task = TASKS[0]
    made = default(task, ZEN5)
    monkeypatch.setattr(type(made.maker), "features", lambda *a: {"something": 1.0})
    with pytest.raises(KeyError, match="something"):
        features.matrix(task, [made], ZEN5)


# ---- The model


def small(measured, count=20):
    return [m.group for m in measured[:count]]


def test_without_training_it_ranks_by_cost():
    for task in TASKS[:8]:
        candidates = options(task, AVX2)
        scores = CostModel().scores(task, candidates, AVX2)
        order = features.costs(task, AVX2).ordered
        assert features.costs(task, AVX2).of[candidates[int(scores.argmax())]] == order[0]
    assert CostModel().scores(TASKS[0], [], AVX2).shape == (0,)


def test_round_trip_and_the_same_bytes_again(measured, tmp_path):
    groups = small(measured)
    path, other = tmp_path / "m.json", tmp_path / "n.json"
    for p in (path, other):
        cost_model.save(cost_model.train(groups, 20, seed=5), p, ["f32-gemm-packed"])
    assert path.read_bytes() == other.read_bytes()
    task, candidates, device = groups[0].task, options(groups[0].task, groups[0].device), groups[0].device
    np.testing.assert_array_equal(CostModel(cost_model.load(path)).scores(task, candidates, device),
                                  CostModel(cost_model.train(groups, 20, seed=5)).scores(task, candidates, device))


def test_update_is_deterministic_and_begins_from_the_shipped_model(measured):
    models = [CostModel.pretrained(ZEN5, seed=9) for _ in range(2)]
    task, candidates = measured[0].task, measured[0].group.candidates
    before = models[0].scores(task, candidates, ZEN5)
    models[0].update(small(measured, 3))        # forgotten by the next one, which is given everything
    for m in models:
        m.update(small(measured, 6))
    np.testing.assert_array_equal(*(m.scores(task, candidates, ZEN5) for m in models))
    assert (models[0].scores(task, candidates, ZEN5) != before).any()
    models[0].update([])
    np.testing.assert_array_equal(models[0].scores(task, candidates, ZEN5), before)


def test_failed_candidates_teach_nothing(measured):
    g = measured[0].group
    failed = Group(g.task, g.device, g.candidates, tuple(float("inf") for _ in g.seconds))
    model = CostModel()
    model.update([failed])
    by_cost = CostModel().scores(g.task, g.candidates, g.device)
    np.testing.assert_array_equal(model.scores(g.task, g.candidates, g.device), by_cost)
    with pytest.raises(ValueError, match="nothing to learn"):
        cost_model.train([failed], 5)


def test_an_unknown_kind_of_device_has_no_model():
    assert CostModel.pretrained(replace(ZEN5, arch="cuda")) is None


@pytest.mark.parametrize("device", [ZEN5, AVX2, NEON, WASM], ids=lambda d: d.name)
def test_the_shipped_model_ranks_every_task_of_every_cpu(device):
    model = CostModel.pretrained(device)
    for task in TASKS[:10]:
        candidates = options(task, device)
        scores = model.scores(task, candidates, device)
        assert scores.shape == (len(candidates),) and np.isfinite(scores).all()
    assert (PRETRAINED / "cpu.json").stat().st_size < 1.5e6


def test_a_file_that_is_no_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cost_model, "PRETRAINED", tmp_path)
    path, sums = tmp_path / "cpu.json", tmp_path / "cpu.sha256"
    with pytest.raises(ModelFileError, match=r"cpu\.json cannot be read \(No such file.*: reinstall"):
        CostModel.pretrained(ZEN5)
    shipped = (PRETRAINED / "cpu.json").read_bytes()
    path.write_bytes(shipped)
    with pytest.raises(ModelFileError, match=r"cpu\.sha256 cannot be read"):
        CostModel.pretrained(ZEN5)
    sums.write_bytes((PRETRAINED / "cpu.sha256").read_bytes())
    CostModel.pretrained(ZEN5)
    for damaged in (b"", b"not json", shipped[:1000], b"{}", shipped[:5000] + b"0" + shipped[5001:]):
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"cpu\.json is damaged"):
            CostModel.pretrained(ZEN5)
    other = cost_model.load(PRETRAINED / "cpu.json")
    other.feature_names = [f"{name}_of_another_version" for name in NAMES]
    cost_model.save(other, path, [])
    with pytest.raises(ModelFileError, match="other features"):
        CostModel.pretrained(ZEN5)


# ---- What it is worth, on real measurements


def test_on_tasks_it_has_not_seen_it_beats_the_analytic_cost(measured):
    held, rest = measured[::5], [m.group for n, m in enumerate(measured) if n % 5]
    model = CostModel(cost_model.train(rest, 60, max_depth=6, eta=0.2))
    regrets = [regret(m, model) for m in held]
    assert mean(regrets, "model") < min(mean(regrets, "default"), mean(regrets, "cost"))
    assert mean(regrets, "model") < 1.1
    assert mean(regrets, "model", few=True) < 1.02


def test_measurements_of_a_session_improve_its_order_on_a_new_device():
    """Trained on the wide device only; on the narrow ones, twelve tasks a session, six of each task that the model likes best and
    two others are measured, and the rest is then in better order than before."""
    every = [m for m in Store(PRETRAINED).measured() if not m.validates]
    base = cost_model.train([m.group for m in every if m.device.lanes == 16], 60, max_depth=6, eta=0.2)
    narrow = [m.group for m in every if m.device.lanes < 16 and len(m.group.seconds) >= 14]
    np.random.default_rng(5).shuffle(narrow)
    before, after = [], []
    for start in range(0, len(narrow), 12):
        session, model = narrow[start:start + 12], CostModel(base)
        splits = [np.argsort(-model.scores(g.task, g.candidates, g.device), kind="stable") for g in session]
        for order in splits:
            np.random.default_rng(0).shuffle(order[6:])
        rest = [part(g, order[8:]) for g, order in zip(session, splits, strict=True)]
        before += [agreement(model, g) for g in rest]
        model.update([part(g, order[:8]) for g, order in zip(session, splits, strict=True)])
        after += [agreement(model, g) for g in rest]
    assert np.mean(after) > np.mean(before) + 0.01, (np.mean(before), np.mean(after))


def part(g, places):
    return Group(g.task, g.device, tuple(g.candidates[n] for n in places), tuple(g.seconds[n] for n in places))


def agreement(model, g):
    """The share of pairs, those apart by 5 % at least, that the model puts in the right order."""
    scores, seconds = model.scores(g.task, g.candidates, g.device), np.array(g.seconds)
    a, b = np.triu_indices(len(seconds), 1)
    apart = np.abs(np.log(seconds[a] / seconds[b])) > 0.05
    right = (scores[a] > scores[b]) == (seconds[a] < seconds[b])
    return right[apart].mean() if apart.any() else 1.0


# ---- The measurements


def test_measurements_survive_a_torn_journal(tmp_path):
    task, device = TASKS[0], ZEN5
    trials = [Trial(c, "ok", (2.1e-3, 2e-3, 2.2e-3), 1e-3) for c in options(task, device)[:3]]
    dead = Store(tmp_path).__enter__()
    dead.append(task, {"net": 2}, device, trials)
    whole = (tmp_path / JOURNAL).read_text()
    (tmp_path / JOURNAL).write_text(whole + whole[:50])     # killed while it wrote the next line
    assert len(Store(tmp_path).rows) == 3
    with Store(tmp_path) as again:
        again.append(TASKS[1], {}, device, [Trial(c, "ok", (1.0,), 1.0) for c in options(TASKS[1], device)[:2]])
    assert not (tmp_path / JOURNAL).exists()
    (tmp_path / JOURNAL).write_text(whole)          # it died after writing the files, before forgetting the journal
    found = Store(tmp_path)
    assert len(found.rows) == 5 and found.done() == {(t.key, device.name) for t in TASKS[:2]}
    m, = (m for m in found.measured() if m.task == task)
    assert m.device == device and m.networks == {"net": 2} and m.group.seconds == pytest.approx((2.0, 2.0, 2.0))
    assert m.group.candidates == tuple(t.candidate for t in trials)


def test_what_other_work_disturbed_is_left_out(tmp_path):
    quiet, busy = (1e-3, 1.01e-3, 1.02e-3), (1e-3, 2e-3, 3e-3)
    with Store(tmp_path) as store:
        for task, samples in ((TASKS[0], (quiet, quiet, quiet, busy)), (TASKS[1], (quiet, busy, busy, busy))):
            store.append(task, {}, ZEN5, [Trial(c, "ok", s, 1e-3) for c, s in zip(options(task, ZEN5), samples, strict=False)])
    found, = Store(tmp_path).measured()
    assert found.task == TASKS[0] and len(found.group.candidates) == 3


def test_every_template_in_the_measurements_exists(measured):
    names = {t.name for t in TEMPLATES}
    assert {c.template for m in measured for c in m.group.candidates} <= names
