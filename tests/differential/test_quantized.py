"""Models that arrive in int8, compiled: every compile compares the artifact with onnxruntime; here also what became of them."""

from __future__ import annotations

from pathlib import Path

import burnish
import numpy as np
import pytest
from burnish import models
from burnish.compiler import importer
from burnish.compiler.driver import lower_model
from burnish.compiler.lower.group import LoweredGroup
from burnish.compiler.sample import oracle, sample_inputs
from burnish.models import quantized
from burnish.models.quantized import Scheme
from burnish.schedules.numerics import relative_error

SCHEMES = (Scheme(), Scheme(activations="s8"), Scheme(per_channel=False), Scheme(form="QOperator"),
           Scheme(weights="u8", per_channel=False))
INTEGER = ("gemm", "conv", "depthwise")
LATER = ("resnet50", "efficientnet_lite0", "minilm")


def lowered(name: str, scheme: Scheme = SCHEMES[0]) -> tuple[LoweredGroup, ...]:
    return lower_model(importer.load(quantized.build(name, scheme), models.ZOO[name].inputs)).groups


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("name", ["lenet5", "mobilenetv2"])
def test_between_integer_kernels_lie_bytes(name: str, scheme: Scheme) -> None:
    groups = lowered(name, scheme)
    anchors = [g.task for g in groups if g.task.family in INTEGER]
    products, parts = {"lenet5": 4, "mobilenetv2": 53}[name], 2 if scheme.weights == "u8" else 1
    assert products <= len(anchors) <= products * parts     # two where int8 is a bit short
    assert all("zero" in t.params and t.buffers[t.params["w"]].dtype == "int8" for t in anchors)
    stored = [t.buffers[n].dtype for t in (g.task for g in groups) for n in t.outputs]
    assert stored.count("float32") == 1     # what the network returns
    assert stored.count("int32") == len(anchors) - products


@pytest.mark.parametrize("name, extra", [("lenet5", 3), ("mobilenetv2", 2), ("resnet50", 4), ("efficientnet_lite0", 3)])
def test_what_is_no_product_is_few_kernels(name: str, extra: int) -> None:
    groups = lowered(name)
    others = [str(g.group) for g in groups if g.task.family not in INTEGER]
    assert len(others) <= extra, others


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_lenet5(scheme: Scheme, tmp_path: Path) -> None:
    path = quantized.build("lenet5", scheme)
    with burnish.compile(path, tmp_path / "out", shapes=models.ZOO["lenet5"].inputs).load(threads=1) as model:
        for seed in range(5):
            given = sample_inputs(model.inputs, seed)
            expected = oracle(importer.load(path, models.ZOO["lenet5"].inputs), given)
            assert relative_error(np.asarray(model(*given.values())), expected.outputs[0]) <= 4 * expected.noise[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name, scheme", [
    *((n, Scheme()) for n in LATER), *(("mobilenetv2", s) for s in SCHEMES),
    *((n, Scheme(activations="s8")) for n in LATER), ("efficientnet_lite0", Scheme(form="QOperator"))], ids=str)
def test_zoo(name: str, scheme: Scheme, tmp_path: Path) -> None:
    artifact = burnish.compile(quantized.build(name, scheme), tmp_path / name, shapes=models.ZOO[name].inputs)
    with artifact.load(threads=1) as one, artifact.load(threads=2) as two:
        given = sample_inputs(one.inputs, 1).values()
        assert np.array_equal(one(*given), two(*given))
