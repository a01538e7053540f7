"""Which treatment for which layer: an exact choice by integer programming."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from ...passes.compress.treatment import Treatment

Quantity = Literal["seconds", "damage", "bytes"]
SECONDS = 20.0      # for the solver, which ends within milliseconds for tens of layers


@dataclass(frozen=True)
class Option:
    """A treatment that one layer may get: seconds of its kernel, bytes of its weights, and the damage that it is predicted to do:
    squared relative error of the model's outputs."""

    layer: str
    treatment: Treatment
    seconds: float
    damage: float
    bytes: int


def assign(options: Sequence[Option], least: Quantity, limits: Mapping[Quantity, float]) -> dict[str, Option] | None:
    """For each layer one of its options, such that the sum of `least` is as small as can be and no other sum is past its limit;
    None where there is no such choice. Damage, bytes and seconds of layers are taken to add up."""
    names = list(dict.fromkeys(o.layer for o in options))
    if not names:
        return {}
    row = {name: n for n, name in enumerate(names)}
    one_each = np.zeros((len(names), len(options)))
    for n, o in enumerate(options):
        one_each[row[o.layer], n] = 1
    constraints = [LinearConstraint(one_each, 1, 1)]
    for quantity, limit in limits.items():
        values = amounts(options, quantity)
        scale = max(values.max(), 1e-30)        # the solver's tolerances are absolute
        constraints.append(LinearConstraint(values[None] / scale, -np.inf, limit / scale))
    cost = amounts(options, least)
    found = milp(cost / max(cost.max(), 1e-30), constraints=constraints, integrality=np.ones(len(options)), bounds=Bounds(0, 1),
                 options={"time_limit": SECONDS})
    if found.x is None:
        return None
    return {o.layer: o for o, x in zip(options, found.x, strict=True) if x > 0.5}


def amounts(options: Sequence[Option], quantity: Quantity) -> np.ndarray:
    return np.array([getattr(o, quantity) for o in options], float)


def total(chosen: Mapping[str, Option], quantity: Quantity) -> float:
    return float(sum(getattr(o, quantity) for o in chosen.values()))
