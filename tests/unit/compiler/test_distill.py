"""Graphs in torch compute what onnxruntime computes, and training through them brings a pruned model nearer to its original."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from burnish.compiler.compress.calibration import probe
from burnish.compiler.compress.sparsify import sparsify
from onnx import numpy_helper
from small_models import network, samples
from test_sparsify import away, named, treatments

pytest.importorskip("torch")

from burnish.compiler.compress.autograd import Differentiable, NoGradient
from burnish.compiler.compress.distill import distill


def graph(body: str, inputs: str, output: str, **constants: np.ndarray) -> ir.Model:
    text = f'<ir_version: 10, opset_import: ["": 20]>\ng ({inputs}) => ({output}) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


F = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
I = np.array        # noqa: E741
CASES = {
    "y = Conv <pads = [1,0,2,1], strides = [2,1], dilations = [1,2], group = 2> (x, w, b)":
        ("float[1,4,9,8]", {"w": np.ones((6, 2, 3, 3), np.float32) * F[0, 0], "b": F[0]}),
    "y = MaxPool <kernel_shape = [3,2], strides = [2,2], pads = [1,0,1,1]> (x)": ("float[1,3,9,7]", {}),
    "y = AveragePool <kernel_shape = [3,2], strides = [2,1]> (x)": ("float[1,3,9,7]", {}),
    "m = ReduceMean <keepdims = 0> (x, axes)\ny = Sigmoid (m)": ("float[1,3,9,7]", {"axes": I([2, 3])}),
    "n = LayerNormalization <epsilon = 0.01> (x, s, b)\ny = Gelu <approximate = \"tanh\"> (n)":
        ("float[2,6]", {"s": F[0], "b": F[1]}),
    "a, c = Split <axis = 1> (x, sizes)\nd = HardSwish (a)\ny = Concat <axis = 1> (c, d)": ("float[2,5,3]", {"sizes": I([2, 3])}),
    "r = Reshape (x, to)\nt = Transpose <perm = [0,2,1]> (r)\ny = Softmax <axis = 1> (t)": ("float[2,12]", {"to": I([0, 3, -1])}),
    "s = Slice (x, starts, ends, axes, steps)\nc = Clip (s, low)\ny = Mul (c, c)":
        ("float[2,9]", {"starts": I([-8]), "ends": I([99]), "axes": I([1]), "steps": I([2]), "low": np.array(-0.5, np.float32)}),
    "g = Gather <axis = 1> (x, at)\nq = Squeeze (g, axis)\ny = Unsqueeze (q, axis)":
        ("float[2,9]", {"at": I([[-1]]), "axis": I([2])}),
    "y = Resize <mode = \"linear\"> (x, , scales)": ("float[1,2,5,4]", {"scales": np.array([1, 1, 2, 3], np.float32)}),
    "y = Resize <mode = \"nearest\", coordinate_transformation_mode = \"asymmetric\", nearest_mode = \"floor\"> (x, , scales)":
        ("float[1,2,5,4]", {"scales": np.array([1, 1, 2, 2], np.float32)}),
    "h = HardSigmoid <alpha = 0.3> (x)\ne = Exp (h)\nl = Log (e)\np = Pow (l, two)\ny = Div (p, e)":
        ("float[3,4]", {"two": np.array(2, np.float32)}),
}


@pytest.mark.parametrize("body", CASES)
def test_ops_are_those_of_onnxruntime(body: str) -> None:
    kind, constants = CASES[body]
    rank = {"Conv": 4, "Max": 4, "Ave": 4, "Res": 4}
    dims = ",".join("abcd"[:next((r for op, r in rank.items() if f"= {op}" in body and "Reshape" not in body), 2)])
    dims = "a,b,c" if "Split" in body or "Softmax" in body else dims
    model = graph(body, f"{kind} x", f"float[{dims}] y", **constants)
    shape = [int(d) for d in kind[6:-1].split(",")]
    feed = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    ours = Differentiable(model)(feed, frozenset(["y"]))["y"].detach().numpy()
    assert np.allclose(ours, probe(model, ("y",))(feed)["y"], rtol=1e-4, atol=1e-5)


def test_a_network_is_the_same_in_torch_and_unknown_ops_are_named() -> None:
    model, feed = network(), samples(1)[0]
    wanted = probe(model, ("c1", "y"))(feed)
    found = Differentiable(model)(feed, frozenset(["c1", "y"]))
    assert all(np.allclose(found[n].detach().numpy(), wanted[n], atol=1e-4) for n in wanted)
    with pytest.raises(NoGradient, match="CumSum"):
        Differentiable(graph("y = CumSum (x, axis)", "float[3,4] x", "float[3,4] y", axis=np.array(0)))


def test_training_together_makes_good_what_pruning_took() -> None:
    model, original, data, unseen = network(), network(), samples(40), samples(30, seed=5)
    sparsify(model, treatments(model, "block:70%"), None, criterion="magnitude")
    zeros = {n: x.matrix == 0 for n, x in named(model).items()}
    before = away(model, original, unseen)
    report, = distill(original, model, data, steps=40, batch=4)
    assert away(model, original, unseen) < 0.8 * before and report.error < 0.8
    for n, x in named(model).items():
        assert (x.matrix[zeros[n]] == 0).all()


def test_what_does_not_help_is_taken_back() -> None:
    model, original = network(), network()
    before = {n: x.matrix for n, x in named(model).items()}
    report, = distill(original, model, samples(8), steps=2, batch=1, rate=0.5)
    assert "nothing gained" in report.note
    assert all(np.array_equal(x.matrix, before[n]) for n, x in named(model).items())
