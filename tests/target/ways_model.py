"""A package whose kernels can each be made in several ways, of known speed; the way that ran leaves its number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from burnish.targets.plan import KernelCode, Launch, Place, Plan, Signature, Variant
from burnish.targets.web import package, profile
from web_model import from_c

SIZE = 4096     # floats
# out = 2 in (or in + 1), again and again; the way that did it leaves its number.
KERNEL = """
void %s(const float *x, float *y, float *who, int begin, int end) {
    for (volatile int again = 0; again < %d; again++)
        for (int n = 0; n < %d; n++) ((volatile float *)y)[n] = %s;
    who[0] = %d;
}"""
# By way: how often the work is done. The compiler's choice is not the best of the first kernel, but of the second.
DOUBLE, INCREMENT = (12, 40, 2), (2, 30)


def kernels(doubled: str = "2 * x[n]") -> dict[str, tuple[KernelCode, ...]]:
    """doubled: what the last way to double computes."""
    formulas = ["2 * x[n]"] * (len(DOUBLE) - 1) + [doubled]
    ways = {f"double_{n}": KERNEL % (f"double_{n}", again, SIZE, formulas[n], n) for n, again in enumerate(DOUBLE)}
    ways |= {f"increment_{n}": KERNEL % (f"increment_{n}", again, SIZE, "x[n] + 1", n) for n, again in enumerate(INCREMENT)}
    return from_c(ways)


def plan(variants: bool = True) -> Plan:
    """y = 2 (2 x + 1), and who made each of the three."""
    def launch(name: str, source: Place, to: Place, who: int) -> Launch:
        others = tuple(Variant(f"{name}_{n}", 1, 0) for n in range(1, len(DOUBLE if name == "double" else INCREMENT)))
        return Launch(f"{name}_0", (source, to, Place("output", 1, 4 * who)), 1, 0, (name,), SIZE, 8 * SIZE, others * variants)

    first, second = Place("arena", 0), Place("arena", 4 * SIZE)
    launches = (launch("double", Place("input", 0), first, 0), launch("increment", first, second, 1),
                launch("double", second, Place("output", 0), 2))
    x, y, who = (Signature(*s, "float32") for s in (("x", (SIZE,)), ("y", (SIZE,)), ("who", (3,))))
    return Plan("ways", (x,), (y, who), launches, 8 * SIZE, 0, 0)


X = np.arange(SIZE, dtype=np.float32)
EXPECTED = 2 * (2 * X + 1)


def write(place: Path, variants: bool = True) -> Path:
    return package.write(plan(variants), kernels(), b"", [X], [EXPECTED, np.zeros(3, np.float32)], profile.devices(), place)
