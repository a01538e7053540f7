"""LSTM, GRU and RNN against onnxruntime: directions, lengths, states, peepholes, biases."""

import numpy as np
import pytest

from .harness import check, const

RNG = np.random.default_rng(7)
STEPS, BATCH, INPUTS, HIDDEN = 5, 3, 4, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def network(op, direction, known=True):
    """x, W, R, B, lengths, first h (and c, peepholes)."""
    d, g = 2 if direction == "bidirectional" else 1, GATES[op]
    wrap = const if known else np.asarray

    def f(*shape):
        return RNG.normal(size=shape).astype("f4") * np.float32(0.5)
    given = [f(STEPS, BATCH, INPUTS), wrap(f(d, g * HIDDEN, INPUTS)), wrap(f(d, g * HIDDEN, HIDDEN)), wrap(f(d, 2 * g * HIDDEN)),
             np.array([5, 2, 4], "i4"), f(d, BATCH, HIDDEN)]
    return given + ([f(d, BATCH, HIDDEN), f(d, 3 * HIDDEN)] if op == "LSTM" else [])


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_directions(op, direction):
    check(op, *network(op, direction), outputs=3 if op == "LSTM" else 2, hidden_size=HIDDEN, direction=direction)


@pytest.mark.parametrize("op", GATES)
def test_least(op):
    x, w, r = network(op, "forward", known=False)[:3]
    check(op, x, w, r, outputs=1, hidden_size=HIDDEN)


def test_variants():
    check("GRU", *network("GRU", "bidirectional"), outputs=2, hidden_size=HIDDEN, direction="bidirectional",
          linear_before_reset=1)
    check("LSTM", *network("LSTM", "forward"), outputs=3, hidden_size=HIDDEN, input_forget=1)
    check("LSTM", *network("LSTM", "forward"), outputs=3, hidden_size=HIDDEN, clip=0.3)
    check("LSTM", *network("LSTM", "forward"), outputs=3, hidden_size=HIDDEN, activations=["HardSigmoid", "Relu", "Softplus"])
    check("RNN", *network("RNN", "bidirectional"), outputs=2, hidden_size=HIDDEN, direction="bidirectional",
          activations=["Relu", "LeakyRelu"], activation_alpha=[0.1])


def test_batch_first():
    x, w, r = network("GRU", "forward")[:3]
    h = RNG.normal(size=(BATCH, 1, HIDDEN)).astype("f4")
    check("GRU", x.transpose(1, 0, 2), w, r, None, None, h, outputs=2, hidden_size=HIDDEN, layout=1, by="onnx")
