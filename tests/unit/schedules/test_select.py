"""Which of the records is believed, on which device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from burnish.schedules import cost_model
from burnish.schedules.candidate import Candidate, default, makers, options
from burnish.schedules.cost_model import CostModel
from burnish.schedules.records import Fingerprint, TuningRecord
from burnish.schedules.select import ORIGINS, Pick, fastest, pick
from burnish.schedules.space import Knobs
from burnish.schedules.task import Task

from .harness import AVX2, NEON, ZEN5
from .test_conv import conv
from .trials import task as gemm

CONV = conv(1, 14, 14, 16, 16, 1, (3, 3), (1, 1), (1, 1), (1, 1), (14, 14))[0]
TASK = gemm(0)
FIRST, SECOND, THIRD, *_ = (c for c in options(TASK, ZEN5) if c != default(TASK, ZEN5))
MARK = Fingerprint.of(ZEN5, "linux")


def record(candidate: Candidate, seconds: float, task: Task = TASK, situ: float = 0.0, **changes: object) -> TuningRecord:
    made = TuningRecord(task, candidate, MARK, {}, "ok", (seconds,) * 5, 1e-3, (situ,) * 5 if situ else (), verified=True)
    return replace(made, **changes)     # type: ignore[arg-type]


def test_the_nearest_device_that_has_something_usable_wins() -> None:
    far, near, here = (2, record(FIRST, 1e-5)), (1, record(SECOND, 2e-5)), (0, record(THIRD, 3e-5))
    for known, candidate, origin in (([here, near, far], THIRD, 0), ([near, far], SECOND, 1), ([far], FIRST, 2)):
        found = pick(TASK, ZEN5, known, None, False)
        assert found == Pick(candidate, ORIGINS[origin], known[0][1])
    broken = (0, record(THIRD, 0.0, status="crash", samples=()))
    found = pick(TASK, ZEN5, [broken, near], None, False)
    assert found is not None and found.candidate == SECOND


@pytest.mark.parametrize("candidate", [
    Candidate(FIRST.template, Knobs.of(**dict(FIRST.knobs) | {"rows": 999})),
    Candidate(FIRST.template, Knobs.of(**dict(FIRST.knobs) | {"rows": 16, "vectors": 8})),      # would spill
    Candidate(FIRST.template, Knobs.of(rows=1)), Candidate("f32-conv-direct", FIRST.knobs), Candidate("/bin/sh", FIRST.knobs)],
    ids=str)
def test_what_is_not_in_this_devices_space_is_passed_over(candidate: Candidate) -> None:
    found = pick(TASK, ZEN5, [(0, record(candidate, 1e-9)), (1, record(SECOND, 1e-5))], None, False)
    assert found is not None and found.candidate == SECOND
    found = pick(TASK, ZEN5, [(0, record(candidate, 1e-9))], None, False)
    assert found == Pick(default(TASK, ZEN5), "default")    # type: ignore[arg-type]


def test_a_choice_for_more_registers_is_none_for_fewer() -> None:
    narrow = options(TASK, AVX2)
    wide = next(c for c in options(TASK, ZEN5) if c not in narrow)
    found = pick(TASK, AVX2, [(2, record(wide, 1e-9)), (2, record(narrow[0], 1e-5))], None, False)
    assert found is not None and found.candidate == narrow[0]


def test_exact_passes_other_algorithms_over() -> None:
    winograd = next(c for c in options(CONV, ZEN5) if not c.maker.exact)
    direct = next(c for c in options(CONV, ZEN5) if c.maker.exact)
    known = [(0, record(winograd, 1e-5, CONV)), (0, record(direct, 2e-5, CONV))]
    for exact, candidate in ((False, winograd), (True, direct)):
        found = pick(CONV, ZEN5, known, None, exact)
        assert found is not None and found.candidate == candidate
    for ranker in (None, CostModel()):
        found = pick(CONV, ZEN5, known[:1], ranker, True)
        assert found is not None and found.candidate.maker.exact and found.record is None


def test_the_cost_model_decides_where_nothing_is_known() -> None:
    ranker = CostModel.pretrained(ZEN5)
    assert ranker is not None
    found = pick(CONV, ZEN5, [], ranker, False)
    choices = options(CONV, ZEN5)
    assert found is not None and found.origin == "cost model"
    assert found.candidate == choices[int(np.argmax(ranker.scores(CONV, choices, ZEN5)))]
    assert pick(replace(TASK, family="telepathy"), ZEN5, [], ranker, False) is None
    assert pick(TASK, NEON, [], None, False) == Pick(default(TASK, NEON), "default")    # type: ignore[arg-type]


def test_times_inside_a_model_are_worth_more_than_those_by_itself() -> None:
    alone, inside, slower = record(FIRST, 1e-6), record(SECOND, 5e-6, situ=2e-6), record(THIRD, 4e-6, situ=4e-6)
    assert fastest([alone, slower, inside], ZEN5) == inside
    assert fastest([record(FIRST, 2e-6), alone], ZEN5) == alone


def test_a_kernel_for_one_core_has_to_be_that_much_faster() -> None:
    dual = replace(ZEN5, cores=2)
    tiles = {c: c.maker.tiles(TASK, c.knobs, dual) for c in options(TASK, dual)}
    alone, shared = (next(c for c, n in tiles.items() if n % 2 == rest) for rest in (1, 0))
    pair = [record(alone, 0.99e-5), record(shared, 1e-5)]
    assert fastest(pair, ZEN5).candidate == alone and fastest(pair, dual).candidate == shared
    pair = [record(alone, 1e-5, situ=0.99e-5), record(shared, 1e-5, situ=1e-5)]
    assert fastest(pair, ZEN5).candidate == alone and fastest(pair, dual).candidate == shared


def test_a_model_is_not_asked_of_templates_that_it_never_saw(tmp_path: Path) -> None:
    shipped = CostModel.pretrained(ZEN5)
    assert shipped is not None
    assert shipped.knows(makers(TASK, ZEN5, True)) and pick(TASK, ZEN5, [], shipped, True).origin == "cost model"    # type: ignore[union-attr]
    booster = cost_model.load(cost_model.PRETRAINED / "cpu.json")
    cost_model.save(booster, tmp_path / "other.json", ["any-rows"])
    stranger = CostModel(cost_model.load(tmp_path / "other.json"))
    assert not stranger.knows(makers(TASK, ZEN5, True))
    assert pick(TASK, ZEN5, [], stranger, True) == Pick(default(TASK, ZEN5), "default")     # type: ignore[arg-type]
