"""Models whose weights are pruned in blocks are compiled into kernels that skip zeros, and compute what onnxruntime does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from burnish import compile
from burnish.passes.compress.treatment import Sparsity
from burnish.targets.cpu import manifest
from burnish.targets.web import manifest as web_manifest
from onnx import helper, numpy_helper

RNG = np.random.default_rng(29)
node = helper.make_node


def pruned(w: np.ndarray, pattern: str, step: int = 1) -> np.ndarray:
    """w [k, n] with the smallest blocks of each group of channels zero."""
    s = Sparsity.parse(pattern)
    for at in range(0, w.shape[1], s.group):
        size = np.abs(w[:, at:at + s.group]).reshape(len(w) // step, -1).sum(axis=1)
        zero = np.ones(len(size), bool)
        zero[np.argsort(-size)[:round(s.density * len(size))]] = False
        w[np.repeat(zero, step), at:at + s.group] = 0
    return w


def floats(path: Path) -> Path:
    """Convolutions 3x3 with stride and 1x1, and two products; some groups of the last keep more than others."""
    w1 = pruned(RNG.standard_normal((9 * 32, 96)).astype("f4") / 9, "block:80%/32").reshape(3, 3, 32, 96).transpose(3, 2, 0, 1)
    w2 = pruned(RNG.standard_normal((96, 128)).astype("f4") / 5, "1:4/16").T.reshape(128, 96, 1, 1)
    w3 = pruned(RNG.standard_normal((128, 200)).astype("f4") / 6, "block:75%/16")
    w4 = np.concatenate([pruned(RNG.standard_normal((200, 32)).astype("f4") / 9, f"block:{p}%/32") for p in (90, 60, 95)], axis=1)
    values = {"w1": w1, "w2": w2, "w3": w3, "w4": w4, "shape": np.array([1, 128, 100]), "b": RNG.standard_normal(96).astype("f4")}
    nodes = [node("Conv", ["x", "w1", "b"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]), node("Relu", ["a"], ["r"]),
             node("Conv", ["r", "w2"], ["c"]), node("Reshape", ["c", "shape"], ["d"]),
             node("Transpose", ["d"], ["e"], perm=[0, 2, 1]), node("MatMul", ["e", "w3"], ["f"]),
             node("MatMul", ["f", "w4"], ["y"])]
    return saved(path, nodes, [1, 32, 20, 20], [1, 100, 96], values)


def integers(path: Path) -> Path:
    """The product of dequantised bytes by dequantised bytes, which no Clip keeps below 128, and a convolution of it."""
    w1 = pruned(RNG.integers(-90, 90, (96, 128)).astype("i1"), "block:75%/32", step=4)
    w2 = pruned(RNG.integers(-90, 90, (9 * 128, 64)).astype("i1"), "1:4/32", step=4).reshape(3, 3, 128, 64).transpose(3, 2, 0, 1)
    values = {"w1": w1, "w2": w2, "s": np.float32(0.02), "z": np.uint8(7), "t": np.float32(0.06), "zero": np.uint8(0),
              "s1": np.full(128, 0.004, "f4"), "z1": np.zeros(128, "i1"), "s2": np.full(64, 0.002, "f4"),
              "z2": np.zeros(64, "i1"), "shape": np.array([1, 10, 10, 128])}
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
             node("DequantizeLinear", ["w1", "s1", "z1"], ["v1"], axis=1), node("MatMul", ["d", "v1"], ["a"]),
             node("Relu", ["a"], ["r"]), node("QuantizeLinear", ["r", "t", "zero"], ["p"]),
             node("DequantizeLinear", ["p", "t", "zero"], ["e"]), node("Reshape", ["e", "shape"], ["f"]),
             node("Transpose", ["f"], ["g"], perm=[0, 3, 1, 2]), node("DequantizeLinear", ["w2", "s2", "z2"], ["v2"], axis=0),
             node("Conv", ["g", "v2"], ["y"], pads=[1, 1, 1, 1])]
    return saved(path, nodes, [1, 100, 96], [1, 64, 10, 10], values)


def saved(path: Path, nodes: list[onnx.NodeProto], given: list[int], made: list[int], values: dict[str, np.ndarray]) -> Path:
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, given)],
                              [helper.make_tensor_value_info("y", 1, made)],
                              [numpy_helper.from_array(np.ascontiguousarray(v), name) for name, v in values.items()])
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def templates(folder: Path, target: str) -> list[str]:
    found = web_manifest.read(folder).builds["relaxed-simd"] if target == "wasm" else manifest.read(folder)
    return sorted(k.template for k in found.kernels if "gemm" in k.template or "conv" in k.template)


@pytest.mark.parametrize("target", ["native", "wasm"])
def test_floats(target, tmp_path):
    made = compile(floats(tmp_path / "m.onnx"), tmp_path / "out", target=target, records="none", workers=1)
    assert made.error is not None and made.error < 1e-5
    assert templates(made.path, target) == ["f32-conv-sparse", "f32-gemm-sparse", "f32-gemm-sparse", "f32-gemm-sparse"]
    assert made.weights < 0.4 * 4 * (9 * 32 * 96 + 96 * 128 + 128 * 200 + 200 * 96)


@pytest.mark.parametrize("target", ["native", "wasm"])
def test_bytes(target, tmp_path):
    made = compile(integers(tmp_path / "m.onnx"), tmp_path / "out", target=target, records="none", workers=1)
    assert made.error is not None
    assert templates(made.path, target) == ["u8s8-conv-sparse", "u8s8-gemm-sparse"]
    assert made.weights < 0.35 * (96 * 128 + 9 * 128 * 64)
