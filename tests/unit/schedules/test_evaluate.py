"""Candidates that fail, each in its own way, among others that do not: real kernels, a real runner, sabotage in C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
from burnish.schedules import evaluate
from burnish.schedules import expr as x
from burnish.schedules.board import Board, parts, symbol
from burnish.schedules.candidate import Candidate, default, options
from burnish.schedules.evaluate import EDGES, Batch, Evaluator, Trial, tolerance, values
from burnish.schedules.task import Buffer, Store, Task
from burnish.targets.cpu import profile
from burnish.targets.cpu.runner import LocalRunner

from .sabotage import Order, Saboteur
from .test_conv import conv
from .trials import task as gemm

DEVICE = profile.detect()
GEMM = gemm(0)
CONV = conv(1, 14, 14, 16, 16, 1, (3, 3), (1, 1), (1, 1), (1, 1), (14, 14))[0]
Make = Callable[[Mapping[Candidate, Order]], Evaluator]


@pytest.fixture(scope="module")
def builder() -> Iterator[Saboteur]:
    with Saboteur() as b:
        yield b


@pytest.fixture
def make(builder: Saboteur) -> Iterator[Make]:
    """An Evaluator whose candidates do as ordered."""
    runners: list[LocalRunner] = []

    def made(orders: Mapping[Candidate, Order]) -> Evaluator:
        builder.plan = lambda task, candidate: orders.get(candidate)
        runners.append(LocalRunner(DEVICE, limit=1.0))
        return Evaluator(DEVICE, builder, runners[-1])

    yield made
    for r in runners:
        r.close()


def untuned(task: Task) -> Candidate:
    found = default(task, DEVICE)
    assert found is not None
    return found


def others(task: Task, count: int) -> list[Candidate]:
    return [c for c in options(task, DEVICE) if c != untuned(task)][:count]


def doubled(kind: str) -> Task:
    """y = x + x, of which the generic template has two forms."""
    shape, i = (64, 100), x.indices(2)
    return Task("generic", (Buffer(shape, kind, "input"), Buffer(shape, kind, "output")),
                (Store(1, shape, i, x.load(0, i, kind) + x.load(0, i, kind)),))


def measured(trial: Trial) -> None:
    assert trial.status == "ok" and not trial.message and trial.guilty, trial
    assert len(trial.samples) >= 3 and min(trial.samples) > 0 and trial.baseline > 0 and 0 <= trial.error <= 2e-5


FAULTS = {      # order -> status, and what the message says
    "crash": ("crash", "the runner died with SIGSEGV (in k_"), "late crash": ("crash", "SIG"),
    "hang": ("timeout", "the runner did not answer within 1 s (in k_"), "late hang": ("timeout", "did not answer within"),
    "wrong": ("wrong", "of the scale, 2e-05 is allowed"), "a little wrong": ("wrong", "kernel's by 5.0e-05 of the scale"),
    "nan": ("wrong", "by inf of the scale"), "beside": ("wrong", "it writes beside its outputs"),
    "before": ("wrong", "it writes beside its outputs"), "spoil": ("wrong", "it writes into its inputs"),
    "missing": ("build", "it cannot be loaded: the runner refuses: the library cannot be loaded: "),
}


def test_every_fault_is_its_candidates_own(make: Make) -> None:
    """All in one batch, a good candidate behind each."""
    chosen = others(GEMM, 2 * len(FAULTS))
    bad = dict(zip(chosen[::2], FAULTS, strict=True))
    (trials,) = make(bad).evaluate([Batch(GEMM, (untuned(GEMM), *chosen))])
    assert [t.candidate for t in trials] == [untuned(GEMM), *chosen]
    assert trials[0].ratio == pytest.approx(1)
    for t in trials:
        if t.candidate not in bad:
            measured(t)
            continue
        status, why = FAULTS[bad[t.candidate]]
        assert (t.status, t.samples, t.guilty, t.ratio) == (status, (), True, float("inf")) and why in t.message, (bad, t)


def test_times_are_told_apart_and_the_slow_are_given_up(make: Make) -> None:
    fast, middle, slow, last = others(GEMM, 4)
    e = make({fast: 1e-3, middle: 2e-3, slow: 9e-3, untuned(GEMM): 2e-3, last: 0.2})
    (trials,) = e.evaluate([Batch(GEMM, (fast, middle, slow))])
    for t in trials:
        measured(t)
        assert t.baseline >= 2e-3
    assert trials[0].ratio < 0.8 < trials[1].ratio < 2 < trials[2].ratio      # 0.5, 1 and 4.5 on a quiet machine
    assert [len(t.samples) for t in trials[1:]] == [evaluate.SAMPLES, 3]
    (trial, _), = e.evaluate([Batch(GEMM, (last, fast))], seconds=0.01)      # one call takes longer than the time for all
    assert trial.ratio > 10 and trial.samples      # 100


def test_a_runner_killed_from_outside_costs_no_candidate(make: Make) -> None:
    """Before, while a candidate is run, and while all are timed."""
    chosen = others(GEMM, 3)
    e = make({chosen[1]: 0.3, untuned(GEMM): 5e-3})
    e.build([(GEMM, c) for c in (untuned(GEMM), *chosen)])
    for delay in (0.0, 0.2, 0.5, 0.9):
        timer = threading.Timer(delay, os.kill, (e.runner._channel._process.pid, signal.SIGKILL))    # type: ignore[attr-defined]
        timer.start()
        (trials,) = e.evaluate([Batch(GEMM, tuple(chosen))])
        timer.join()
        assert [t.status for t in trials] == ["ok"] * 3, (delay, trials)


@pytest.mark.parametrize("order, status, why", [("late crash", "crash", "the untuned kernel: the runner died with SIG"),
                                                ("missing", "build", "the untuned kernel could not be built: it cannot"),
                                                ("beside", "wrong", "the untuned kernel writes beside its outputs")])
def test_where_the_untuned_kernel_fails_nobody_is_judged(make: Make, order: str, status: str, why: str) -> None:
    e = make({untuned(GEMM): order})
    first, second = e.evaluate([Batch(GEMM, tuple(others(GEMM, 2))), Batch(CONV, (untuned(CONV), *others(CONV, 1)))])
    for t in first:
        assert (t.status, t.guilty) == (status, False) and t.message.startswith(why)
    for t in second:
        measured(t)


def test_integers_must_be_equal(make: Make) -> None:
    task = doubled("int32")
    other, = others(task, 1)
    (trial,), = make({}).evaluate([Batch(task, (other,))])
    assert (trial.status, trial.error) == ("ok", 0)
    (trial,), = make({other: "one more"}).evaluate([Batch(task, (other,))])
    assert trial.status == "wrong" and "0e+00 is allowed" in trial.message


def test_winograd_is_admitted_within_its_own_tolerance(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are prepared by a kernel of their own. The same error is too much for what only sums in another order."""
    ways = [c for c in options(CONV, DEVICE) if not c.maker.exact]
    direct, = others(CONV, 1)
    assert direct.maker.exact and len({c.knobs.m for c in ways}) == 2
    small, large = (next(c for c in ways if c.knobs.m == m) for m in (2, 4))
    assert all(len(parts(CONV, c, DEVICE)) == 2 for c in (small, large)), "prepared constants"
    (trials,) = make({}).evaluate([Batch(CONV, (small, large, direct))])
    for t in trials:
        measured(t)
    assert trials[0].error > 0 and trials[1].error > 0, "they round differently"
    (admitted, refused) = make({large: "a little wrong", direct: "a little wrong"}).evaluate([Batch(CONV, (large, direct))])[0]
    assert admitted.status == "ok" and admitted.error == pytest.approx(5e-5, rel=0.1)
    assert refused.status == "wrong" and "2e-05 is allowed" in refused.message
    monkeypatch.setattr(evaluate, "ALGORITHM_TOLERANCE", evaluate.TOLERANCE)
    (refused,) = make({large: "a little wrong"}).evaluate([Batch(CONV, (large,))])[0]
    assert refused.status == "wrong" and "2e-05 is allowed" in refused.message


def test_what_is_compared_how() -> None:
    direct = untuned(CONV)
    winograd = next(c for c in options(CONV, DEVICE) if not c.maker.exact)
    allowed = {kind: (tolerance(direct, Buffer((1,), kind, "output")), tolerance(winograd, Buffer((1,), kind, "output")))
               for kind in ("float32", "float64", "float16", "int8", "int64", "bool")}
    assert allowed["int8"] == allowed["int64"] == allowed["bool"] == (0, 0)
    assert allowed["float32"] == allowed["float64"] == (evaluate.TOLERANCE, evaluate.ALGORITHM_TOLERANCE)
    assert allowed["float16"][0] >= 1e-3


def test_values_have_edges_and_follow_the_seed() -> None:
    def made(kind: str, seed: int = 0) -> np.ndarray:
        return values(Buffer((100, 100), kind, "input"), np.random.default_rng(seed))

    a = made("float32")
    assert a.dtype == np.float32 and np.array_equal(a, made("float32")) and not np.array_equal(a, made("float32", 1))
    assert set(EDGES.tolist()) <= set(a.reshape(-1).tolist()) and abs(np.median(a)) < 0.1
    assert set(made("int64").reshape(-1).tolist()) == set(made("bool").reshape(-1).tolist()) == {0, 1}
    assert values(Buffer((), "float32", "input"), np.random.default_rng(0)).shape == ()
    assert values(Buffer((0, 3), "float32", "input"), np.random.default_rng(0)).shape == (0, 3)
    weights = values(Buffer((3, 3, 64, 64), "float32", "constant"), np.random.default_rng(0))
    assert 0.5 / 24 < weights.std() < 2 / 24, "a sum over them stays in scale"


def test_a_board_holds_equal_constants_once() -> None:
    board = Board(DEVICE, [(GEMM, untuned(GEMM))])
    a = np.arange(20, dtype=np.float32)
    before = board.size
    assert board.constant(a) == board.constant(a.reshape(4, 5).copy()) != board.constant(a + 1)
    assert board.size == before + 2 * 128 and board.size % 64 == 0 and len(board.data) == 2


def test_a_build_worker_that_dies_fails_one_candidate(make: Make, builder: Saboteur) -> None:
    good, *bad = others(GEMM, 3)
    e = make({})
    e.evaluate([Batch(GEMM, (good,))])
    with builder.dying():
        trials = e.evaluate([Batch(GEMM, (good, *bad))])[0]
    measured(trials[0])
    for t in trials[1:]:
        assert (t.status, t.guilty) == ("build", True) and "the worker died with status -9" in t.message
    with builder.dying():       # the untuned kernel is built once more: without it nothing could be judged
        (trial,), = e.evaluate([Batch(CONV, (untuned(CONV),))])
    measured(trial)


def test_a_build_that_takes_too_long(make: Make, builder: Saboteur, monkeypatch: pytest.MonkeyPatch) -> None:
    e = make({})
    e.build([(GEMM, untuned(GEMM))])
    for w in builder.workers:
        monkeypatch.setattr(w, "timeout", 0.2)
    for w in builder.workers:
        assert w.process is not None
        w.process.send_signal(signal.SIGSTOP)
    (trial,), = e.evaluate([Batch(GEMM, tuple(others(GEMM, 1)))])
    assert trial.status == "timeout" and "no answer within 0 s" in trial.message


# ---- Building ahead


def test_what_is_prepared_is_waited_for_batch_by_batch(make: Make, builder: Saboteur) -> None:
    """A batch is measured while the next is still being built; `close` gives up the rest."""
    e, gate = make({}), threading.Event()
    batches = [Batch(GEMM, tuple(others(GEMM, 2))), Batch(CONV, tuple(others(CONV, 2))), Batch(CONV, tuple(others(CONV, 4)[2:]))]

    def plan(task: Task, candidate: Candidate) -> None:
        if candidate in batches[1].candidates:
            assert gate.wait(60)

    builder.plan = plan
    e.prepare(batches)
    found = e.trials(batches[:2])
    assert [t.status for t in next(found)[1]] == ["ok", "ok"] and not gate.is_set()
    closing = threading.Thread(target=e.close)      # the third is cancelled, the second is at work
    closing.start()
    gate.set()
    assert [t.status for t in next(found)[1]] == ["ok", "ok"]
    closing.join(60)
    assert all(e._begun[symbol(CONV, c)].cancelled() for c in batches[2].candidates)
