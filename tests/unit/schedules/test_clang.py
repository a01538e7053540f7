"""What ziglang's clang is told of kernels for WebAssembly, seen in the code that it makes of them."""

from __future__ import annotations

import pytest
from burnish.schedules.jobs import Job
from burnish.schedules.space import Knobs
from burnish.schedules.worker import build
from burnish.targets.web import module, profile

from .test_gemm import gemm

V128 = 0x7B     # the type, as code sections have it


def vector_locals(code: bytes) -> int:
    """Of the largest function: LLVM gives values that never live together the same local."""
    content = dict(module.sections(code))[module.CODE]
    count, at = module.unsigned(content, 0)
    found = []
    for _ in range(count):
        size, at = module.unsigned(content, at)
        groups, place = module.unsigned(content, at)
        locals_ = 0
        for _ in range(groups):
            number, place = module.unsigned(content, place)
            locals_ += number * (content[place] == V128)
            place += 1
        found.append((size, locals_))
        at += size
    return max(found)[1]


@pytest.mark.parametrize("build_name", profile.BUILDS)
@pytest.mark.parametrize("rows, vectors", [(6, 2), (5, 2), (3, 3)])
def test_a_tile_holds_no_more_than_it_has_to(build_name: str, rows: int, vectors: int) -> None:
    """Its accumulators and one vector of each weight; some more for the epilogue. In LLVM's own order 6x2 has 21, and V8, which
    keeps the order, 15 registers."""
    task, _, _ = gemm(1, 48, 96, 64, "bias relu")
    knobs = Knobs.of(rows=rows, vectors=vectors, blocks=1, ahead=0)
    made = build(Job("k", "f32-gemm-packed", task, knobs, profile.load(build_name)))
    assert not made.error
    assert vector_locals(made.code) <= rows * vectors + vectors + 4
