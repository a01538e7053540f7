"""The exact choice of treatments against trying every combination."""

import itertools

import numpy as np
import pytest
from burnish.compiler.compress.assign import Option, assign, total
from burnish.passes.compress.treatment import Treatment

TREATMENTS = (Treatment(), Treatment("int8"), Treatment(shift=1))


def options(seed: int, layers: int = 5) -> list[Option]:
    rng = np.random.default_rng(seed)
    return [Option(f"layer{n}", t, float(rng.uniform(1e-6, 1e-4)), float(rng.uniform(0, 1e-3)), int(rng.integers(100, 10000)))
            for n in range(layers) for t in TREATMENTS]


def by_trying(some: list[Option], least: str, limits: dict[str, float]) -> float | None:
    groups = [list(g) for _, g in itertools.groupby(some, key=lambda o: o.layer)]
    sums = [tuple(sum(getattr(o, q) for o in choice) for q in (least, *limits)) for choice in itertools.product(*groups)]
    good = [s[0] for s in sums if all(x <= limit for x, limit in zip(s[1:], limits.values(), strict=True))]
    return min(good, default=None)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("least", ["seconds", "damage", "bytes"])
def test_no_combination_is_better(seed: int, least: str) -> None:
    some = options(seed)
    others = [q for q in ("seconds", "damage", "bytes") if q != least]
    middle = {q: float(np.mean([getattr(o, q) for o in some])) * 5 for q in others}
    chosen = assign(some, least, middle)    # type: ignore[arg-type]
    best = by_trying(some, least, middle)
    assert (chosen is None) == (best is None)
    if chosen is not None:
        assert len(chosen) == 5
        assert total(chosen, least) == pytest.approx(best, rel=1e-6)     # type: ignore[arg-type]
        for q in others:
            assert total(chosen, q) <= middle[q] * (1 + 1e-6)    # type: ignore[arg-type]


def test_limits_that_nothing_holds() -> None:
    assert assign(options(0), "seconds", {"bytes": 1.0}) is None


def test_a_model_without_layers() -> None:
    assert assign([], "seconds", {}) == {}
