"""Graphs with branches, compiled together and run in one thread and in two, against onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from branches import BRANCHES
from burnish.compiler.driver import compile_model
from burnish.targets.cpu import artifact, loader, profile
from lower.harness import assert_close, reference
from onnx.compose import add_prefix


def together() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """All graphs side by side in one model, and its inputs."""
    whole = onnx.ModelProto()
    given: dict[str, np.ndarray] = {}
    for n, case in enumerate(BRANCHES.values()):
        part = add_prefix(case.model(), f"g{n}_")
        if not n:
            whole.CopyFrom(part)
        else:
            for field in ("node", "input", "output", "initializer", "value_info"):
                getattr(whole.graph, field).extend(getattr(part.graph, field))
        given |= {f"g{n}_{name}": value for name, value in case.sample().items()}
    return whole, given


@pytest.mark.parametrize("threads", [1, 2])
def test_branches(threads: int, made: Path) -> None:
    proto, given = together()
    with loader.load(made, threads) as model:
        for _ in range(2):      # what the first run leaves in memory is not what the second is made of
            got = model(*(given[i.name] for i in proto.graph.input))
    assert_close(list(got), reference(proto, given, "ort"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    proto, given = together()
    compiled = compile_model(ir.from_proto(proto), profile.find("native"), "branches")
    inputs, outputs = [given[i.name] for i in proto.graph.input], reference(proto, given, "ort")
    return artifact.write(compiled.plan, compiled.builds[0], compiled.weights, inputs, outputs, compiled.devices[0],
                          tmp_path_factory.mktemp("branches") / "out")
