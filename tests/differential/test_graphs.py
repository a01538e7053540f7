"""Random graphs: passes, partition, lowering and plan interpreted, and whole models compiled and run, against onnxruntime.

A seed that fails once and is mended becomes a small test next to the code that was wrong, or a graph of `REGRESSIONS` here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
from burnish.compiler.compare import run
from burnish.compiler.driver import compile_model, lower_model
from burnish.targets.cpu import profile

from .oracle import Expected, NotComparable, expect
from .regressions import REGRESSIONS
from .rules import grow
from .simulate import run_plan
from .writer import Writer, model

logging.getLogger("onnx_ir").setLevel(logging.ERROR)     # it says which constants stay where they are

NATIVE = profile.find("native")
TOGETHER = 25   # graphs in a model: one link and one start of the workers for all


def comparable(w: Writer) -> tuple[dict[str, np.ndarray], list[Expected]]:
    """Inputs and onnxruntime's outputs; empty where onnxruntime has no answer to compare with."""
    inputs = w.samples()
    try:
        return (inputs, expect(model([w]), inputs, w.types)) if w.outputs else ({}, [])
    except NotComparable:
        return {}, []


@pytest.mark.parametrize("seed", [*range(100), *(pytest.param(s, marks=pytest.mark.slow) for s in range(100, 3000))])
def test_interpreted(seed: int) -> None:
    w = grow(seed)
    inputs, expected = comparable(w)
    if not expected:
        pytest.skip("nothing to compare")
    lowered = lower_model(ir.from_proto(model([w])))
    for e, value in zip(expected, run_plan(lowered, NATIVE, inputs), strict=True):
        e.check(value)


def check_compiled(writers: Sequence[Writer]) -> None:
    inputs, expected, used = {}, [], []
    for w in writers:
        given, found = comparable(w)
        if found:
            used.append(w)
            inputs |= given
            expected += found
    proto = model(used)
    compiled = compile_model(ir.from_proto(proto), NATIVE, "random")
    got = run(compiled, [inputs[i.name] for i in proto.graph.input], [e.value for e in expected])
    wrong = []
    for e, value in zip(expected, got, strict=True):
        try:
            e.check(value)
        except AssertionError as error:
            wrong.append(str(error))
    assert not wrong, "\n".join(wrong)


def test_regressions_compiled() -> None:
    check_compiled([*(make() for make in REGRESSIONS), *(grow(s, f"g{s}_") for s in range(6))])


@pytest.mark.slow
@pytest.mark.parametrize("first", range(6, 1006, TOGETHER))
def test_compiled(first: int) -> None:
    check_compiled([grow(s, f"g{s}_") for s in range(first, first + TOGETHER)])
