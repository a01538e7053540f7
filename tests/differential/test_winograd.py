"""Models whose convolutions are made by Winograd, with weights that the setup transforms, against onnxruntime."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from burnish.compiler.driver import Compiled, build_model, lower_model
from burnish.schedules.candidate import Candidate
from burnish.schedules.select import Pick
from burnish.schedules.templates.winograd import Winograd
from burnish.targets.cpu import artifact, loader, profile
from onnx import helper, numpy_helper

RNG = np.random.default_rng(17)
CHANNELS, H, W = 40, 19, 22


def proto() -> onnx.ModelProto:
    """Four 3x3 convolutions, two of them the same with the same weights, one with a residual."""
    nodes, constants, x = [], [], "x"
    weights = [(RNG.standard_normal((CHANNELS, c, 3, 3)) / (3 * c**0.5)).astype("f4") for c in (3, CHANNELS, CHANNELS)]
    for n, w in enumerate((weights[0], weights[1], weights[2], weights[1])):
        constants.append(numpy_helper.from_array(w.copy(), f"w{n}"))
        nodes.append(helper.make_node("Conv", [x, f"w{n}"], [f"c{n}"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]))
        if n == 2:
            nodes.append(helper.make_node("Add", ["c2", "r0"], ["a2"]))
        nodes.append(helper.make_node("Relu", ["a2" if n == 2 else f"c{n}"], [f"r{n}"]))
        x = f"r{n}"
    value = [helper.make_tensor_value_info(name, 1, [1, c, H, W]) for name, c in (("x", 3), (x, CHANNELS))]
    return helper.make_model(helper.make_graph(nodes, "g", value[:1], value[1:], constants), ir_version=9,
                             opset_imports=[helper.make_opsetid("", 17)])


@pytest.fixture(scope="module")
def original() -> onnx.ModelProto:
    return proto()


@pytest.fixture(scope="module")
def compiled(original: onnx.ModelProto) -> Compiled:
    device = dataclasses.replace(profile.find("native"), cores=2)
    lowered = lower_model(ir.from_proto(original))
    convs = {g.task.key: g.task for g in lowered.groups if g.task.family == "conv"}
    assert len(convs) == 3
    picks = {}
    for (key, task), m in zip(convs.items(), (2, 4, 4), strict=True):
        space = Winograd().space(task, device).candidates()
        knobs = min((k for k in space if k.m == m), key=lambda k: Winograd().cost(task, k, device))
        picks[key] = Pick(Candidate(Winograd.name, knobs), "by hand")
    return build_model(lowered, [device], "winograd", picks=picks)


def test_setup_of_the_plan(compiled: Compiled) -> None:
    """Each array of weights is shipped plain, and equal ones are transformed once."""
    plan = compiled.plan
    used = [p for x in plan.launches for p in x.args if p.where == "prepared"]
    assert len(used) == 4 and len({p.offset for p in used}) == len(plan.setup) == 3
    for launch in plan.setup:
        assert [p.where for p in launch.args] == ["weights", "prepared"]
    assert {x.kernel for x in plan.setup} <= {k.symbol for k in compiled.builds[0]}
    assert plan.weights < 0.5 * plan.prepared


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_like_onnxruntime(original: onnx.ModelProto, compiled: Compiled, tmp_path: Path, threads: int) -> None:
    x = RNG.standard_normal((1, 3, H, W)).astype("f4")
    (want,) = ort.InferenceSession(original.SerializeToString()).run(None, {"x": x})
    made = artifact.write(compiled.plan, compiled.builds[0], compiled.weights, [x], [want], compiled.devices[0], tmp_path / "net")
    with loader.load(made, threads) as model:
        assert model.threads == threads
        for _ in range(3):
            np.testing.assert_allclose(model(x), want, rtol=0, atol=1e-5 * np.abs(want).max())

