"""Where buffers lie: never on each other, and not far apart."""

from itertools import pairwise

import numpy as np
import pytest
from burnish.compiler.planner import Weights, place_buffers, up
from burnish.targets.plan import ALIGNMENT

RNG = np.random.default_rng(0)


def live_at(step, births, deaths):
    return [n for n in range(len(births)) if births[n] <= step <= deaths[n]]


@pytest.mark.parametrize("count", [0, 1, 2, 10, 60])
def test_buffers_that_live_together_lie_apart(count):
    for _ in range(20):
        sizes = [int(s) * ALIGNMENT for s in RNG.integers(0, 50, count)]
        births = [int(b) for b in RNG.integers(0, 20, count)]
        deaths = [b + int(n) for b, n in zip(births, RNG.integers(0, 8, count), strict=True)]
        offsets, total = place_buffers(sizes, births, deaths)
        least = 0
        for step in range(30):
            live = sorted((offsets[n], sizes[n]) for n in live_at(step, births, deaths) if sizes[n])
            assert all(at + size <= after for (at, size), (after, _) in pairwise(live))
            assert all(at % ALIGNMENT == 0 and at + size <= total for at, size in live)
            least = max(least, sum(size for _, size in live))
        assert least <= total <= 1.6 * least


def test_a_chain_needs_its_two_largest_neighbours():
    sizes = [up(n) for n in (100, 4000, 300, 8000, 8000, 50)]
    steps = range(len(sizes))
    assert place_buffers(sizes, list(steps), [s + 1 for s in steps])[1] == 2 * up(8000)


def test_weights_are_aligned_and_equal_ones_stored_once():
    w = Weights()
    a, b = np.arange(3, dtype="f4"), np.arange(40, dtype="i8").reshape(5, 8)
    offsets = [w.add(a), w.add(b), w.add(a.copy()), w.add(b.T), w.add(np.zeros((0, 4), "f4"))]
    assert offsets[0] == offsets[2] == 0 and len({*offsets[1:4]}) == 3 and all(o % ALIGNMENT == 0 for o in offsets)
    stored = w.array()
    assert stored.size == w.size == up(12) + 2 * up(320)
    for array, at in ((a, offsets[0]), (b, offsets[1]), (b.T, offsets[3])):
        assert stored[at:at + array.nbytes].tobytes() == array.tobytes()
