"""Records to store: real tasks, legal candidates, made-up times; and a process that stores them one by one.

    python -m schedules.trials URL FIRST END     (in tests/unit) adds record(FIRST) … and says each number once it is committed
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from typing import Any

from burnish.schedules import expr as x
from burnish.schedules.candidate import Candidate, options
from burnish.schedules.database import Database
from burnish.schedules.records import Fingerprint, TuningRecord
from burnish.schedules.task import Buffer, Store, Task

from .harness import AVX2, NEON, ZEN5

HERE, HASWELL, PHONE = (Fingerprint.of(d, "linux") for d in (ZEN5, AVX2, NEON))
TOOLS = {"burnish": "0.1.0", "tvm": "0.27.0.post1"}
PER_TASK = 20


@cache
def task(number: int) -> Task:
    """A matmul of its own size, with a bias and an activation behind it."""
    m, n, k = 5 + number, 64, 32
    at = b, i, j = x.indices(3)
    buffers = (Buffer((1, m, k), "float32", "input"), Buffer((k, n), "float32", "constant"), Buffer((n,), "float32", "constant"),
               Buffer((1, m, n), "float32", "output"))
    value = x.select(x.var("acc", "float32") > 0, x.var("acc", "float32") + x.load(2, (j,), "float32"), x.const(-0.0, "float32"))
    return Task("gemm", buffers, (Store(3, (1, m, n), at, value),), {"batch": 1, "m": m, "n": n, "k": k, "w": 1},
                {"x": x.load(0, (b, i, x.var("r0")), "float32")})


@cache
def candidates() -> list[Candidate]:
    """Legal for task(0), on `HERE`; the first two or so for every task."""
    return options(task(0), ZEN5)


def record(number: int, **changes: Any) -> TuningRecord:
    """The record of a trial: each number another one, PER_TASK of each task."""
    n, choice = divmod(number, PER_TASK)
    made = TuningRecord(task(n), candidates()[choice], HERE, TOOLS, "ok", tuple(1e-3 / (1 + choice) + 1e-6 * k for k in range(5)),
                        baseline=1e-3, error=1e-6, verified=True, created="2026-11-20T12:00:00+00:00")
    return replace(made, **changes)


def failed(number: int, status: str = "crash", message: str = "SIGSEGV") -> TuningRecord:
    return record(number, status=status, message=message, samples=(), baseline=0.0, error=float("inf"), verified=False)


if __name__ == "__main__":
    url, first, end = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with Database.open(url) as database:
        for number in range(first, end):
            database.add([record(number)])
            print(number, flush=True)
