"""Which variants a package gets: the heavy kernels' most promising others, for the same packed constants."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from burnish.compiler import importer, variants
from burnish.compiler.driver import Lowered, lower_model
from burnish.compiler.tune import choose
from burnish.models import zoo
from burnish.schedules.candidate import Candidate, default, why_not
from burnish.schedules.device import Device
from burnish.schedules.records import TuningRecord
from burnish.schedules.select import Pick
from burnish.targets.web.target import WebTarget

DEVICE = WebTarget().devices[0]


@pytest.fixture(scope="module")
def model() -> Lowered:
    return lower_model(importer.load(zoo.build("mobilenetv2")))


@pytest.fixture(scope="module")
def picks(model: Lowered) -> dict[str, Pick]:
    return choose(model, WebTarget())


def constants(candidate: Candidate, low: Lowered, key: str, device: Device) -> list[bytes]:
    """As the candidate has them packed."""
    group = next(g for g in low.groups if g.task.key == key)
    packs = candidate.maker.pack(group.task, candidate.knobs, device)
    return [np.asarray(packs[n](b)).tobytes() for n, b in enumerate(group.bindings) if n in packs and isinstance(b, np.ndarray)]


def test_variants_of_heavy_kernels(model: Lowered, picks: dict[str, Pick]) -> None:
    found = variants.alternatives(model.groups, DEVICE, picks, 4, {})
    tasks = {g.task.key: g.task for g in model.groups}
    assert 10 < len(found) < len(tasks) and all(1 <= len(v) <= 3 for v in found.values())
    for key, others in found.items():
        first, task = picks[key].candidate, tasks[key]
        candidates = [first, *(p.candidate for p in others)]
        assert len(set(candidates)) == len(candidates)
        for c in candidates:
            assert any(why_not(c, task, d) is None for d in variants.both(DEVICE))
            assert constants(c, model, key, DEVICE) == constants(first, model, key, DEVICE)
            assert c.maker.prepare(task, c.knobs, DEVICE) == first.maker.prepare(task, first.knobs, DEVICE)
    # Some for devices with more vector registers, some for this one.
    fits = Counter(why_not(p.candidate, tasks[key], DEVICE) is None for key, others in found.items() for p in others)
    assert fits[True] > 10 and fits[False] > 10


def test_the_untuned_choice_is_among_them(model: Lowered, picks: dict[str, Pick]) -> None:
    """Where its constants are packed in the same way, and it is not just another name for the first."""
    tasks = {g.task.key: g.task for g in model.groups}
    found = variants.alternatives(model.groups, DEVICE, picks, 2, {})
    untuned = {key: default(tasks[key], DEVICE) for key in found}
    assert any(others[0].candidate == untuned[key] for key, others in found.items())


def test_fewer_ways_are_the_first_of_more(model: Lowered, picks: dict[str, Pick]) -> None:
    two, four = (variants.alternatives(model.groups, DEVICE, picks, n, {}) for n in (2, 4))
    assert {key: v[:1] for key, v in four.items()} == two
    assert variants.alternatives(model.groups, DEVICE, picks, 1, {}) == {}


def test_records_come_first(model: Lowered, picks: dict[str, Pick]) -> None:
    """Those that were verified and ran, in the order in which they are known."""
    found = variants.alternatives(model.groups, DEVICE, picks, 4, {})
    key, others = next((k, v) for k, v in found.items() if len(v) == 3)
    task, mark = next(g.task for g in model.groups if g.task.key == key), WebTarget().fingerprint()
    last, bad, doubtful = (p.candidate for p in reversed(others))

    def record(candidate: Candidate, verified: bool = True, ok: bool = True) -> TuningRecord:
        return TuningRecord(task, candidate, mark, {}, "ok" if ok else "wrong", (1e-3,), 1e-3, verified=verified)

    known = {key: [(0, record(doubtful, verified=False)), (0, record(bad, ok=False)), (1, record(last))]}
    assert variants.alternatives(model.groups, DEVICE, picks, 2, known)[key][0].candidate == last
