"""The optimal brain surgeon: its closed forms against each other, and against what no compensation loses."""

import numpy as np
import pytest
from burnish.passes.compress import obs


@pytest.fixture
def layer() -> tuple[np.ndarray, np.ndarray]:
    """W [40,6] and H of 300 correlated samples."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 8)) @ rng.standard_normal((8, 40)) + 0.3 * rng.standard_normal((300, 40))
    return rng.standard_normal((40, 6)), obs.damped(x.T @ x)


def test_damping_counts_dead_inputs_as_the_mean() -> None:
    assert np.allclose(obs.damped(np.diag([0.0, 2.0, 4.0]), damping=0.5), np.diag([4.5, 3.5, 5.5]))
    assert np.allclose(obs.damped(np.zeros((2, 2)), damping=0.5), np.eye(2) * 1.5)


@pytest.mark.parametrize("step", (1, 4, 3))
def test_elimination_ends_at_the_least_squares_of_what_it_keeps_and_knows_its_error(layer: tuple, step: int) -> None:
    w, h = layer
    first = last = None
    for last in obs.eliminate(w, obs.inverse(h), step, 10**9, kept=7, pace=0.2):
        first = last.error if first is None else first
    assert first == 0 and last is not None
    assert len(np.unique(last.left // step)) == 7
    kept = np.isin(np.arange(40), last.left)
    best = obs.least_squares(w, h, kept)
    assert np.allclose(last.w, best[kept], atol=1e-8)
    assert last.error == pytest.approx(obs.error(best - w, h))


@pytest.mark.parametrize(("step", "period", "kept"), ((1, 4, 2), (1, 7, 3), (4, 4, 1), (3, 5, 2)))
def test_elimination_keeps_as_many_units_of_every_period(layer: tuple, step: int, period: int, kept: int) -> None:
    w, h = layer
    *_, last = obs.eliminate(w, obs.inverse(h), step, period, kept)
    units = np.unique(last.left // step)
    count = -(-40 // step)
    for first in range(0, count, period):
        assert ((units >= first) & (units < first + period)).sum() == min(kept, count - first)


def test_one_unit_at_a_time_removes_the_cheapest_first(layer: tuple) -> None:
    w, h = layer
    states = obs.eliminate(w, obs.inverse(h), 1, 10**9, kept=39, pace=1e-9)
    next(states)
    costs = [obs.error(obs.least_squares(w, h, np.arange(40) != i) - w, h) for i in range(40)]
    assert next(states).error == pytest.approx(min(costs))


def test_elimination_loses_less_than_a_choice_made_at_once(layer: tuple) -> None:
    w, h = layer
    *_, last = obs.eliminate(w, obs.inverse(h), 1, 10**9, kept=12, pace=0.1)
    magnitude = np.isin(np.arange(40), np.argsort(-(w**2).sum(1))[:12])
    assert last.error < 0.9 * obs.error(obs.least_squares(w, h, magnitude) - w, h)


def test_a_sweep_whose_fixed_rows_come_first_is_least_squares(layer: tuple) -> None:
    w, h = layer
    kept = np.arange(40) >= 15
    factor = obs.factor_of(obs.inverse(h))
    for span in (7, 128):
        swept = obs.sweep(w, factor, lambda i, row: row * kept[i], span=span)
        assert np.allclose(swept, obs.least_squares(w, h, kept), atol=1e-8)


def test_a_sweep_shows_each_row_once_as_earlier_ones_left_it(layer: tuple) -> None:
    w, h = layer
    factor = obs.factor_of(obs.inverse(h))
    seen: list[tuple[int, int]] = []

    def enter(first: int, rows: np.ndarray, d: np.ndarray) -> None:
        seen.append((first, len(rows)))
        assert np.allclose(d, np.diag(factor)[first:first + len(rows)])
        assert first == 0 or not np.allclose(rows, w[first:first + len(rows)])

    obs.sweep(w, factor, lambda i, row: 0 * row, enter, span=16)
    assert seen == [(0, 16), (16, 16), (32, 8)]


def test_rounding_by_a_sweep_errs_less_than_rounding_to_the_nearest(layer: tuple) -> None:
    w, h = layer
    swept = obs.sweep(w, obs.factor_of(obs.inverse(h)), lambda _, row: np.round(row * 2) / 2)
    assert np.array_equal(swept * 2, np.round(swept * 2))
    assert obs.error(swept - w, h) < 0.7 * obs.error(np.round(w * 2) / 2 - w, h)
