"""Densities at equal slopes: the budget is met, and no other choice of the same cost is cheaper."""

import numpy as np
import pytest
from burnish.passes.compress.prune_allocate import Curve, allocate


def curve(scale: float, macs: float, power: float = 2.0) -> Curve:
    densities = tuple(np.linspace(0.05, 1, 39))
    return Curve(densities, tuple(scale * (1 - d) ** power for d in densities), macs)


@pytest.mark.parametrize("share", (0.3, 0.5, 0.9))
def test_the_budget_is_met_and_the_sensitive_stay_denser(share: float) -> None:
    curves = {"sturdy": curve(1, 100), "tender": curve(9, 100), "small": curve(1, 10)}
    found = allocate(curves, share)
    assert sum(found[n] * c.macs for n, c in curves.items()) == pytest.approx(share * 210, rel=0.01)
    assert found["sturdy"] < found["tender"] and found["sturdy"] < found["small"]


def test_no_random_choice_of_the_same_cost_is_cheaper() -> None:
    rng = np.random.default_rng(0)
    curves = {str(i): curve(rng.uniform(0.1, 10), rng.uniform(1, 100), rng.uniform(1.2, 4)) for i in range(6)}
    found, macs = allocate(curves, 0.5), np.array([c.macs for c in curves.values()])
    least = sum(c.cost(found[n]) for n, c in curves.items())
    tried = 0
    for d in rng.uniform(0.05, 1, (20_000, 6)):
        if d @ macs <= 0.5 * macs.sum():
            tried += 1
            assert sum(c.cost(x) for c, x in zip(curves.values(), d, strict=True)) >= least - 1e-9
    assert tried > 1000


def test_a_curve_with_dents_is_read_as_its_hull() -> None:
    dented = Curve((0.1, 0.4, 0.5, 0.6, 1.0), (1.0, 0.6, 0.7, 0.2, 0.0), 10)
    xs, ys = dented.hull()
    assert list(xs) == [0.1, 0.6, 1.0] and list(ys) == [1.0, 0.2, 0.0]
    assert allocate({"only": dented}, 0.5)["only"] == pytest.approx(0.5)


def test_what_cannot_be_met_is_as_near_as_can_be() -> None:
    assert allocate({"a": curve(1, 5), "b": curve(2, 5)}, 0.01) == {"a": 0.05, "b": 0.05}
    full = allocate({"a": curve(1, 5), "b": curve(2, 5)}, 1.0)
    assert full == {"a": pytest.approx(1), "b": pytest.approx(1)}
