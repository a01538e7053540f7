"""Models compiled to web packages, and Node to run JavaScript on them: what the tests of the web target share."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from burnish.compiler import driver as compiler
from burnish.compiler import importer
from burnish.compiler.driver import Compiled
from burnish.compiler.planner import signature
from burnish.compiler.sample import reference, sample_inputs
from burnish.models import zoo
from burnish.targets.cpu import toolchain as zig
from burnish.targets.plan import KernelCode, Plan
from burnish.targets.web import node, package, profile
from onnx import TensorProto, helper, numpy_helper

needs_node = pytest.mark.skipif(node.program() is None, reason="no Node from 20.16 on the PATH")

RNG = np.random.default_rng(0)
EVERY_DTYPE = helper.make_model(helper.make_graph(
    [helper.make_node("Gather", ["table", "ids"], ["rows"]),
     helper.make_node("Cast", ["half"], ["whole"], to=TensorProto.FLOAT),
     helper.make_node("Add", ["rows", "whole"], ["shifted"]),
     helper.make_node("Where", ["mask", "shifted", "zero"], ["kept"]),
     helper.make_node("MatMul", ["kept", "w"], ["scores"]),
     helper.make_node("Softmax", ["scores"], ["odd \"name\" */"]),
     helper.make_node("ArgMax", ["scores"], ["best"], axis=-1, keepdims=0),
     helper.make_node("Greater", ["scores", "zero"], ["positive"]),
     helper.make_node("Cast", ["scores"], ["narrow"], to=TensorProto.FLOAT16),
     helper.make_node("MatMulInteger", ["q", "wq"], ["__proto__"])], "dtypes",
    [helper.make_tensor_value_info(*x) for x in (("ids", TensorProto.INT64, [2, 5]), ("half", TensorProto.FLOAT16, [8]),
                                                 ("mask", TensorProto.BOOL, [2, 5, 1]), ("q", TensorProto.UINT8, [4, 16]))],
    [helper.make_tensor_value_info(*x) for x in (
        ("odd \"name\" */", TensorProto.FLOAT, [2, 5, 6]), ("best", TensorProto.INT64, [2, 5]),
        ("positive", TensorProto.BOOL, [2, 5, 6]), ("narrow", TensorProto.FLOAT16, [2, 5, 6]),
        ("__proto__", TensorProto.INT32, [4, 7]))],
    [numpy_helper.from_array(a, name) for name, a in {
        "table": RNG.standard_normal((11, 8), np.float32), "w": RNG.standard_normal((8, 6), np.float32), "zero": np.float32([0]),
        "wq": RNG.integers(-128, 128, (16, 7), np.int8)}.items()]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@dataclass(frozen=True)
class Made:
    """A model, compiled for both builds, and its sample."""

    builds: dict[str, Compiled]
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]

    @property
    def plan(self) -> Plan:
        return self.builds["simd"].plan

    def write(self, place: Path, **changes: Any) -> Path:
        arguments: dict[str, Any] = {
            "plan": self.plan, "builds": {b: x.builds[0] for b, x in self.builds.items()}, "weights": self.builds["simd"].weights,
            "inputs": self.inputs, "outputs": self.outputs, "devices": profile.devices(), "out_dir": place}
        return package.write(**(arguments | changes))


def make(path: Path, name: str) -> Made:
    graph = importer.load(path)
    original = graph.clone()
    inputs = sample_inputs([signature(v) for v in graph.graph.inputs])
    lowered = compiler.lower_model(graph)
    builds = {b: compiler.build_model(lowered, [d], name, workers=1, picks={}) for b, d in profile.devices().items()}
    return Made(builds, list(inputs.values()), reference(original, inputs))


@pytest.fixture(scope="session")
def dtypes(tmp_path_factory: pytest.TempPathFactory) -> Made:
    path = tmp_path_factory.mktemp("web") / "dtypes.onnx"
    onnx.save(EVERY_DTYPE, path)
    return make(path, "Every_dtype")


@pytest.fixture(scope="session")
def lenet() -> Made:
    return make(zoo.build("lenet5"), "lenet5")


@pytest.fixture(scope="session")
def lenet_folder(lenet: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lenet.write(tmp_path_factory.mktemp("web") / "lenet5", passes=("fold",), tools={"burnish": "0"}, info={"seed": 0})


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def from_c(sources: Mapping[str, str]) -> dict[str, tuple[KernelCode, ...]]:
    """Kernels written in C, by symbol, for both builds."""
    kernels = tuple(KernelCode(symbol, zig.build("wasm32-freestanding", ("-c", "-O2"), {"k.c": text}, {}, ()), "c", (), symbol)
                    for symbol, text in sources.items())
    return dict.fromkeys(profile.BUILDS, kernels)


def javascript(folder: Path, code: str, *flags: str) -> Any:
    """What `code` returns, run in Node as the body of an async function that sees the package's exports and `image`, an input."""
    script = f"""
        import * as pack from {json.dumps((folder / "index.js").as_uri())};
        import http from "node:http";
        import fs from "node:fs";
        const {{ load, BurnishError }} = pack;
        const image = new Float32Array(28 * 28).fill(0.5);
        const fails = async (what) => {{
            try {{ await what(); }} catch (e) {{
                return e instanceof BurnishError && e instanceof Error ? [e.code, e.message] : [`not ours: ${{e}}`, ""];
            }}
            return ["nothing", ""];
        }};
        const result = await (async () => {{ {code} }})();
        console.log(JSON.stringify(result));
        process.exit(0);
    """
    path, version = node.program() or ("", (0, 0))
    done = subprocess.run([path, *node.flags(version), *flags, "--input-type=module", "-e", script], capture_output=True,
                          text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
