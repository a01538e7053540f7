"""What a learned cost model is told of a candidate: one fixed list of numbers for every template of CPU-like targets.

Sizes are relative to what the device has (registers, caches), so that a model learned on one machine says something of others.
A name that a template has nothing to say of is NaN, which XGBoost sends down a branch of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from .candidate import Candidate, options
from .device import Device
from .task import Task

FAMILIES = ("gemm", "conv", "depthwise", "attention", "rows")
# Of the task and the device: equal for all candidates of a task, and never NaN.
SHARED = (*(f"family_{name}" for name in FAMILIES), "log_bytes", "intensity_bytes", "constant_share",
          "lanes", "vector_registers", "l1_kib", "l2_kib", "l3_kib", "fma")
# Of the candidate, for every template: never NaN. cost: see Template.cost; excess: its logarithm over the least of the task.
COMMON = ("log_cost", "excess", "rank", "exact")
# Knobs that templates share, as they are.
KNOBS = ("rows", "vectors", "ahead", "group", "splits", "dims", "pack_v", "block", "together")
# What the templates say (Template.features).
# macs: multiply-adds, as a logarithm; reduction: steps of a register tile; panel, x, block: bytes of weights that a tile streams,
# of input that it reads, of input of an outer tile; waste: computed over needed elements; ragged: share of a narrower last panel;
# w_per_mac, x_per_mac: bytes of weights and of input that are read, once for each block and each panel;
# copied: elements copied or transformed for each multiply-add; conflicts: rows over the ways that L1 has for them;
# set_conflicts: the same of what a whole tile comes back to.
TILE = ("macs", "accumulators", "macs_per_load", "registers", "reduction", "panel_l1", "panel_l2", "conflicts", "epilogue",
        "epilogue_code", "tiles", "blocks", "waste_rows", "waste_columns", "ragged", "panels", "row_tiles", "block_l2", "x_l1",
        "w_l2", "w_per_mac", "x_per_mac", "copied", "x_step", "taps", "stride", "groups", "inner", "high", "narrow", "unrolled",
        "edge", "looped", "set_conflicts", "result_accumulators", "result_ragged", "head", "output_tile")
NAMES: tuple[str, ...] = tuple(dict.fromkeys((*SHARED, *COMMON, *KNOBS, *TILE)))
_PLACE = {name: n for n, name in enumerate(NAMES)}


def features(task: Task, candidate: Candidate, device: Device) -> dict[str, float]:
    """Those that are known, by name."""
    row = matrix(task, [candidate], device)[0]
    return {name: float(value) for name, value in zip(NAMES, row, strict=True) if not math.isnan(value)}


def matrix(task: Task, candidates: Sequence[Candidate], device: Device) -> np.ndarray:
    """float32 [candidates, len(NAMES)]. Raises KeyError where a template names a feature that is not in NAMES."""
    shared = _shared(task, device)
    known = costs(task, device)
    least, ordered = known.least, known.ordered
    result = np.full((len(candidates), len(NAMES)), np.nan, np.float32)
    for row, c in zip(result, candidates, strict=True):
        maker = c.maker
        cost = known.of.get(c)
        if cost is None:
            cost = maker.cost(task, c.knobs, device)
        knobs = {k: v for k, v in c.knobs.items_ if k in _PLACE and not isinstance(v, str)}
        found: dict[str, float] = {**shared, **knobs, **maker.features(task, c.knobs, device)}
        if "macs" in found:
            found["macs"] = math.log(found["macs"])
        found["log_cost"] = math.log(max(cost, 1e-9))
        found["excess"] = found["log_cost"] - least
        found["rank"] = np.searchsorted(ordered, cost) / max(1, len(ordered))
        found["exact"] = maker.exact
        row[[_PLACE[name] for name in found]] = list(found.values())
    return result


class Costs:
    """Analytic costs of every legal candidate of a task. least: logarithm of the least; ordered: ascending."""

    def __init__(self, task: Task, device: Device) -> None:
        self.of = {c: c.maker.cost(task, c.knobs, device) for c in options(task, device)}
        self.ordered = np.sort(np.array([*self.of.values()], np.float64))
        self.least = math.log(max(self.ordered[0], 1e-9)) if self.of else 0.0


@lru_cache(maxsize=1024)    # a tuner comes back to each of a model's tasks again and again
def costs(task: Task, device: Device) -> Costs:
    return Costs(task, device)


@lru_cache(maxsize=1024)
def _shared(task: Task, device: Device) -> Mapping[str, float]:
    total = sum(b.bytes for b in task.buffers)
    constant = sum(b.bytes for b in task.buffers if b.role == "constant")
    return {**{f"family_{name}": float(task.family == name) for name in FAMILIES},
            "log_bytes": math.log(max(1, total)), "intensity_bytes": total / (device.l2_kib * 1024),
            "constant_share": constant / max(1, total), "lanes": device.lanes, "vector_registers": device.vector_registers,
            "l1_kib": device.l1_kib, "l2_kib": device.l2_kib, "l3_kib": device.l3_kib,
            "fma": float(device.arch != "x86_64" or "fma" in device.isa)}
