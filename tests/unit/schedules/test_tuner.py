"""The tuner among kernels whose times are planted: what it finds, what it spends, what it does again, what it survives."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
import pytest
from burnish.schedules.board import Board, parts
from burnish.schedules.candidate import Candidate, default, imbalance, options
from burnish.schedules.cost_model import CostModel
from burnish.schedules.evaluate import Batch, Evaluator, Trial, Unbuildable, values
from burnish.schedules.local import Local
from burnish.schedules.measure import RunnerDied
from burnish.schedules.records import RecordsError, TuningRecord
from burnish.schedules.scene import Scene, Step, situ
from burnish.schedules.task import Task
from burnish.schedules.tuner import Result, Settings, State, Tuner
from burnish.targets.cpu import profile
from burnish.targets.cpu.fingerprint import fingerprint
from burnish.targets.cpu.runner import LocalRunner

from .sabotage import Order, Saboteur
from .test_conv import conv
from .trials import task as gemm

DEVICE = profile.detect()
MARK = fingerprint(DEVICE)
TASK = gemm(0)
CONV, ARRAYS, WANT = conv(1, 8, 8, 16, 16, 1, (3, 3), (1, 1), (1, 1), (1, 1), (8, 8))
SLACK = 5.0         # seconds beyond its budget: on a busy machine a round's kernels are built so long


def untuned(task: Task) -> Candidate:
    found = default(task, DEVICE)
    assert found is not None
    return found


def scene_of(*tasks: Task) -> Scene:
    """Each task once for each time it is named, on values of its own."""
    size, inputs, steps, rng = 0, [], [], np.random.default_rng(0)
    for task in tasks:
        bindings: list[int | np.ndarray] = []
        for n, b in enumerate(task.buffers):
            content = ARRAYS[n] if task == CONV and b.role != "output" else values(b, rng)
            if b.role == "constant":
                bindings.append(content)
                continue
            bindings.append(size)
            if b.role == "input":
                inputs.append((size, content))
            size += -(-b.bytes // 64) * 64
        steps.append(Step(task, tuple(bindings)))
    return Scene(size, tuple(inputs), tuple(steps))


class Logged(Local):
    """Tells which batches came."""

    def __init__(self, evaluator: Evaluator) -> None:
        super().__init__(evaluator)
        self.batches: list[Batch] = []

    def trials(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, list[Trial]]]:
        self.batches += batches
        return super().trials(batches)


class Bench:
    """A builder for all tests, and what a tuner is made of."""

    def __init__(self, builder: Saboteur) -> None:
        self.builder = builder
        self.runners: list[LocalRunner] = []
        self.states: list[State] = []
        self.kept: list[TuningRecord] = []

    def measurer(self, plan: Callable[[Task, Candidate], Order]) -> Logged:
        self.builder.plan, self.builder.jobs = plan, []
        self.runners.append(LocalRunner(DEVICE, limit=1.0))
        return Logged(Evaluator(DEVICE, self.builder, self.runners[-1]))

    def tune(self, scene: Scene, plan: Callable[[Task, Candidate], Order], budget: float, known: Sequence[TuningRecord] = (),
             watch: Callable[[State], None] = lambda state: None, measurer: Logged | None = None, seed: int = 0,
             exact: bool = False) -> Result:
        self.states, self.kept = [], []

        def seen(state: State) -> None:
            self.states.append(state)
            watch(state)

        self.measurer_ = measurer or self.measurer(plan)
        start = time.monotonic()
        settings = Settings(budget, seed, exact)
        found = Tuner(scene, self.measurer_, CostModel(), DEVICE, MARK, {}, settings, known, self.kept.extend, seen).run()
        assert found.elapsed == pytest.approx(time.monotonic() - start, abs=1) and found.elapsed < budget + SLACK
        assert set(found.chosen) == set(found.gain) == set(scene.tasks)
        return found

    def kill(self) -> None:
        with suppress(ProcessLookupError):      # another is about to start
            os.kill(self.runners[-1]._channel._process.pid, signal.SIGKILL)

    def trials(self) -> list[TuningRecord]:
        return [r for r in self.kept if not r.situ]


@pytest.fixture(scope="module")
def builder() -> Iterator[Saboteur]:
    with Saboteur() as b:
        b.build([])
        yield b


@pytest.fixture
def bench(builder: Saboteur) -> Iterator[Bench]:
    made = Bench(builder)
    yield made
    for r in made.runners:
        r.close()


def known(task: Task, times: Mapping[Candidate, float], baseline: float) -> list[TuningRecord]:
    """Records of an earlier run."""
    return [TuningRecord(task, c, MARK, {}, "ok", (t,) * 12, baseline, verified=True, created="2026-11-20T12:00:00+00:00")
            for c, t in times.items()]


# ---- In the model


def test_situ_sums_over_occurrences_and_computes_what_it_should(bench: Bench) -> None:
    """TASK occurs three times, CONV once with a form whose weights are prepared: the values are those of the kernels alone."""
    winograd = next(c for c in options(CONV, DEVICE) if not c.maker.exact)
    slow, fast, *_ = (c for c in options(TASK, DEVICE) if c != untuned(TASK))
    scene = scene_of(TASK, CONV, TASK, TASK)
    finalists = {TASK.key: [slow, fast, untuned(TASK)], CONV.key: [winograd]}
    local = bench.measurer(lambda task, c: {slow: 2e-4, fast: 1e-4}.get(c))
    found = situ(scene, finalists, local.evaluator, 40, 5.0)
    assert {k: list(v) for k, v in found.items()} == finalists
    assert {len(s) for s in found[TASK.key].values()} == {40} and len(found[CONV.key][winograd]) >= 40
    assert min(found[TASK.key][slow]) == pytest.approx(6e-4, rel=0.15)
    assert min(found[TASK.key][fast]) == pytest.approx(3e-4, rel=0.15)

    base = Board(DEVICE, [p for t, c in ((TASK, slow), (CONV, winograd)) for p in parts(t, c, DEVICE)]).size
    for step in scene.steps:
        out = step.task.outputs[0]
        at, b = step.bindings[out], step.task.buffers[out]
        assert isinstance(at, int)
        got = local.evaluator.runner.read(base + at, b.shape, b.dtype)
        want = reference(step, dict(scene.inputs))
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())


def reference(step: Step, inputs: Mapping[int, np.ndarray]) -> np.ndarray:
    """By numpy."""
    a = [inputs[b] if isinstance(b, int) and b in inputs else b for b in step.bindings]
    if step.task == CONV:
        return WANT
    y = np.asarray(a[0], np.float64)[0] @ np.asarray(a[1], np.float64)
    return np.where(y > 0, y + a[2], 0)[None]


def test_situ_without_a_kernel_says_which(bench: Bench) -> None:
    local = bench.measurer(lambda task, c: "missing" if task == CONV else None)
    with pytest.raises(Unbuildable, match=r"^conv 3x3 16→16 @8x8: it cannot be loaded"):
        local.situ(scene_of(TASK, CONV), {t.key: [untuned(t)] for t in (TASK, CONV)}, 2, 1.0)
    bench.builder.plan = lambda task, c: None
    other = options(TASK, DEVICE)[1]
    bench.builder.plan = lambda task, c: "missing" if c == other else None
    found = local.situ(scene_of(TASK), {TASK.key: [untuned(TASK), other]}, 2, 1.0)
    assert list(found[TASK.key]) == [untuned(TASK)], "what cannot be built is left out"


# ---- What it finds, and what it spends


def test_the_planted_fastest_is_found(bench: Bench) -> None:
    """The one that the cost model thinks least of."""
    scores = CostModel().scores(TASK, choices := options(TASK, DEVICE), DEVICE)
    fastest = choices[int(np.argmin(scores))]
    found = bench.tune(scene_of(TASK, TASK), lambda task, c: 2e-4 if c == fastest else 5e-4, 20.0)
    assert found.chosen == {TASK.key: fastest} and found.gain[TASK.key] == pytest.approx(0.4, rel=0.1)
    assert found.first == pytest.approx(1e-3, rel=0.1) and found.latency == pytest.approx(4e-4, rel=0.1)
    assert found.trials == len(choices) and not found.notes and not found.failures
    assert found.elapsed < 19, "where nothing is left to try it ends"
    trials = bench.trials()
    assert len(trials) == len({r.candidate for r in trials}) == len(choices), "each is tried and recorded once"
    assert all(r.verified and r.baseline == pytest.approx(5e-4, rel=0.1) for r in trials)
    finals = {r.candidate: r for r in bench.kept if r.situ}
    assert {fastest, untuned(TASK)} <= set(finals)
    assert min(finals[fastest].situ) == pytest.approx(2e-4, rel=0.1), "of one call"

    phases = [s.phase for s in bench.states]
    assert phases[0] == "start" and phases[-2:] == ["finals", "done"] and set(phases[1:-2]) == {"trials"}
    assert [s.elapsed for s in bench.states] == sorted(s.elapsed for s in bench.states)
    assert [s.trials for s in bench.states] == sorted(s.trials for s in bench.states)
    during = [s for s in bench.states if s.phase == "trials"]
    assert all(0.35e-3 < s.latency <= s.first for s in during) and bench.states[-1].latency == found.latency


def test_trials_go_where_the_time_is(bench: Bench) -> None:
    large, *small = (gemm(n) for n in range(9))
    found = bench.tune(scene_of(large, *small), lambda task, c: 4e-3 if task == large else 4e-4, 7.0)
    tried = {g.task.key: len(g.tried) for g in found.goals}
    rest = [tried[t.key] for t in small]
    assert tried[large.key] >= 1.5 * sorted(rest)[len(rest) // 2] and tried[large.key] >= max(rest), tried
    assert bench.measurer_.batches[0].task == large


def test_exact_leaves_other_algorithms_alone(bench: Bench) -> None:
    def plan(task: Task, c: Candidate) -> Order:
        return 1e-3 if c.maker.exact else 3e-4

    found = bench.tune(scene_of(CONV), plan, 2.0)
    assert not found.chosen[CONV.key].maker.exact and found.gain[CONV.key] < 0.5
    found = bench.tune(scene_of(CONV), plan, 2.0, exact=True, known=bench.kept)
    assert found.chosen[CONV.key].maker.exact
    assert all(Candidate(j.template, j.knobs).maker.exact for j in bench.builder.jobs), "not even built"


def test_what_is_recorded_is_not_measured_again(bench: Bench) -> None:
    scene = scene_of(TASK)
    bench.tune(scene, lambda task, c: 5e-4, 2.0)
    first = bench.kept[:6]      # a quiet machine may have tried everything that promises a gain
    before = {r.candidate for r in first}
    assert len(before) >= 4
    found = bench.tune(scene, lambda task, c: 5e-4, 2.0, first)
    assert not before & {r.candidate for r in bench.trials()} and bench.trials()
    built = {Candidate(j.template, j.knobs) for j in bench.builder.jobs}
    assert len(built & before) <= 4, "only the untuned kernel and those that are in the finals"
    assert found.trials == len(before) + len(bench.trials())
    for r in bench.kept:        # what the finals add to a known record leaves its samples as they were
        for old in first:
            assert r.candidate != old.candidate or r.samples == old.samples


def test_nothing_is_left_to_try(bench: Bench) -> None:
    times = dict.fromkeys(options(TASK, DEVICE), 1e-3)
    found = bench.tune(scene_of(TASK), lambda task, c: 1e-3, 20.0, known(TASK, times, 1e-3))
    assert not bench.trials() and found.elapsed < 10 and found.chosen[TASK.key] == untuned(TASK)


def test_the_same_seed_tries_the_same(bench: Bench) -> None:
    def first(seed: int) -> list[Batch]:
        bench.tune(scene_of(TASK, CONV), lambda task, c: None, 0.8, seed=seed)
        return bench.measurer_.batches[:2]

    one = first(3)
    assert len(one) == 2 and all(untuned(b.task) in b.candidates for b in one)
    assert one == first(3) != first(4)


def test_a_kernel_that_one_core_must_make_alone_has_to_be_that_much_faster(bench: Bench) -> None:
    choices = [c for c in options(TASK, DEVICE) if c != untuned(TASK)]
    weights = {c: imbalance(TASK, c, DEVICE) for c in choices}
    if DEVICE.cores < 2 or len(set(weights.values())) < 2:
        pytest.skip("on one core all are equal")
    alone, shared = max(choices, key=weights.__getitem__), min(choices, key=weights.__getitem__)
    assert weights[alone] > 1.1 * weights[shared]
    slow = known(TASK, {c: 3e-3 for c in choices if c not in (alone, shared)} | {untuned(TASK): 2e-3}, 2e-3)

    def tuned(time: float) -> Candidate:
        return bench.tune(scene_of(TASK), lambda task, c: {alone: time, shared: 1e-3}.get(c, 2e-3), 3.0, slow).chosen[TASK.key]

    assert tuned(0.99e-3) == shared and tuned(0.9e-3 / weights[alone]) == alone


# ---- What it survives


def test_all_kinds_of_failure(bench: Bench) -> None:
    """Half of all candidates fail, in every way; the fastest of them would be the fastest of all."""
    faults = ("crash", "late crash", "hang", "wrong", "nan", "beside", "spoil", "missing")
    choices = [c for c in options(TASK, DEVICE) if c != untuned(TASK)]
    bad = {c: (faults[n // 3 % len(faults)], 1e-5) for n, c in enumerate(choices) if n % 3 == 0}
    good = next(c for c in choices if c not in bad)
    found = bench.tune(scene_of(TASK), lambda task, c: bad.get(c, 2e-4 if c == good else 5e-4), 25.0)
    assert found.chosen == {TASK.key: good} and not found.notes
    assert sum(found.failures.values()) == len(bad) and set(found.failures) == {"crash", "timeout", "wrong", "build"}
    assert {r.candidate for r in bench.kept if r.status != "ok"} == set(bad) and all(
        r.message and not r.samples for r in bench.kept if r.status != "ok")
    assert bench.states[-1].failures == len(bad)


def test_a_candidate_that_crashes_inside_the_model_is_left_out(bench: Bench) -> None:
    choices = [c for c in options(TASK, DEVICE) if c != untuned(TASK)]
    deadly, second = choices[:2]
    rest = known(TASK, dict.fromkeys(choices[2:], 0.009) | {untuned(TASK): 3e-3}, 3e-3)
    times: dict[Candidate, Order] = {deadly: ("crash in the finals", 1e-3), second: 2e-3}
    found = bench.tune(scene_of(TASK), lambda task, c: times.get(c, 3e-3), 4.0, rest)
    assert found.chosen == {TASK.key: second} and found.failures == {"crash": 1}
    (note,) = found.notes
    assert note.startswith("inside the model, the runner died with SIG") and note.endswith("it was timed again")
    last = [r for r in bench.kept if r.candidate == deadly][-1]
    assert last.status == "crash" and last.message.startswith("inside the model: the runner died")


@pytest.mark.parametrize("phase, delay", [("start", 0.0), ("trials", 0.1), ("finals", 0.15)])
def test_a_runner_that_is_killed_from_outside(bench: Bench, phase: str, delay: float) -> None:
    choices = [c for c in options(TASK, DEVICE) if c != untuned(TASK)]
    rest = known(TASK, dict.fromkeys(choices[2:], 0.05) | {untuned(TASK): 1e-2}, 1e-2)
    killed: list[str] = []

    def watch(state: State) -> None:
        if state.phase == phase and not killed:
            killed.append(phase)
            threading.Timer(delay, bench.kill).start() if delay else bench.kill()

    found = bench.tune(scene_of(TASK), lambda task, c: 5e-3 if c == choices[0] else 1e-2, 5.0, rest, watch)
    assert killed and found.chosen == {TASK.key: choices[0]} and not found.failures
    assert list(found.notes) == ["inside the model, the runner died with SIGKILL; it was timed again"] * (phase != "trials")


def test_a_runner_that_dies_of_the_finals_again_and_again(bench: Bench) -> None:
    """Then it is the trials' times that choose."""
    choices = [c for c in options(TASK, DEVICE) if c != untuned(TASK)]
    rest = known(TASK, dict.fromkeys(choices[2:], 0.05) | {untuned(TASK): 1e-2}, 1e-2)
    over = threading.Event()

    def assassin() -> None:
        while not over.wait(0.05):
            bench.kill()

    def watch(state: State) -> None:
        if state.phase == "finals":
            threading.Thread(target=assassin, daemon=True).start()
        if state.phase == "done":
            over.set()

    found = bench.tune(scene_of(TASK), lambda task, c: 5e-3 if c == choices[0] else 1e-2, 5.0, rest, watch)
    assert found.chosen == {TASK.key: choices[0]} and found.gain[TASK.key] == pytest.approx(0.5, rel=0.1)
    assert found.notes[-1] == "the finals inside the model were given up: the runner died with SIGKILL"


def test_where_the_untuned_model_cannot_run_there_is_no_result(bench: Bench) -> None:
    with pytest.raises(RunnerDied, match="SIGSEGV"):
        bench.tune(scene_of(TASK), lambda task, c: "crash", 5.0)
    with pytest.raises(Unbuildable, match="gemm 5x32x64: it cannot be loaded"):
        bench.tune(scene_of(TASK), lambda task, c: "missing", 5.0)


def test_where_the_untuned_kernel_fails_by_itself_nobody_is_recorded(bench: Bench) -> None:
    """It survives the model, and no comparison."""
    scene = scene_of(TASK)
    measurer = bench.measurer(lambda task, c: "beside" if c == untuned(task) else None)
    found = bench.tune(scene, lambda task, c: None, 2.0, measurer=measurer)
    assert found.chosen == {TASK.key: untuned(TASK)} and found.failures["wrong"] == found.trials > 0 and not bench.kept


# ---- Records that cannot be stored


class Store:
    """A database that fails so many times."""

    def __init__(self, failures: int) -> None:
        self.failures, self.asked, self.there = failures, 0, list[TuningRecord]()

    def add(self, records: Sequence[TuningRecord]) -> None:
        self.asked += 1
        if self.asked <= self.failures:
            raise RecordsError("x.sqlite: has been locked")
        self.there += records


@pytest.mark.parametrize("failures, note", [(99, r"^\d+ records are not kept: x.sqlite: has been locked$"),
                                            (1, "^records could not be kept for a while, but all are now: x.sqlite: has been")])
def test_records_that_cannot_be_stored(bench: Bench, failures: int, note: str) -> None:
    """Storing is tried again now and then, for it may take seconds to fail, and once more at the end."""
    store = Store(failures)
    scene = scene_of(TASK)
    measurer = bench.measurer(lambda task, c: 1e-3)
    found = Tuner(scene, measurer, CostModel(), DEVICE, MARK, {}, Settings(2.0), keep=store.add).run()
    assert len(found.notes) == 1 and re.search(note, found.notes[0]), found.notes
    tried = {t.candidate for g in found.goals for t in g.tried.values()}
    assert {r.candidate for r in store.there} == (tried if failures == 1 else set()) and len(tried) >= 4
    assert store.asked <= 7 or failures == 1
