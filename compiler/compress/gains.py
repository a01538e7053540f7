"""How much an error of each layer matters at the model's outputs."""

from __future__ import annotations

import time
from itertools import islice

import numpy as np
import onnx_ir as ir

from ...passes.compress.layers import layers
from ..driver import Progress, silent
from ..sample import session
from .calibration import Calibration

NOISE = 0.02        # of the root mean square of a layer's weights, added to each of them
SECONDS = 60.0      # for all layers together: it decides on how many samples
SAMPLES = 8
ELEMENTS = 1 << 14     # of a layer's output, that are looked at


def gains(model: ir.Model, data: Calibration, seed: int = 0, progress: Progress = silent) -> dict[str, float]:
    """For each layer the squared relative error of the model's outputs over that of the layer's own, where noise is added to its
    weights. As errors of compression are small and not correlated, the outputs' squared error is about the sum of the layers'
    own, each times its gain. model: canonical; it is not changed.

    Weights are inputs of one session, so that one layer after another is changed without loading the model anew.
    """
    graph = model.clone()
    found = layers(graph)
    names = [str(v.name) for v in graph.graph.outputs]
    weights = [x.node.inputs[1] for x in found]
    graph.graph.inputs.extend(dict.fromkeys(w for w in weights if w is not None))
    graph.graph.outputs.extend(x.output for x in found if x.output not in graph.graph.outputs)
    run, rng = session(graph), np.random.default_rng(seed)
    start, feeds = time.monotonic(), list(islice(data, SAMPLES))
    owns = [str(x.output.name) for x in found]
    plain = [_Plain(run.run([*names, *owns], feed), len(names), rng) for feed in feeds]
    result: dict[str, float] = {}
    for n, (layer, weight) in enumerate(zip(found, weights, strict=True)):
        assert weight is not None
        w = layer.weight
        noisy = (w + rng.standard_normal(w.shape) * NOISE * np.sqrt(np.mean(w * w))).astype(np.float32)
        ratios = []
        for feed, before in zip(feeds, plain, strict=False):
            *after, mine = run.run([*names, owns[n]], {**feed, str(weight.name): noisy})
            if (local := squared(before.picked(mine, n), before.own[n])) > 0:
                ratios.append(np.mean([squared(a, b) for a, b in zip(after, before.outputs, strict=True)]) / local)
        result[layer.name] = float(np.mean(ratios)) if ratios else 0.0
        progress("weigh layers", n + 1, len(found))
        if (time.monotonic() - start) / (n + 1) * len(found) > SECONDS:
            feeds = feeds[:max(1, len(feeds) // 2)]
    return result


class _Plain:
    """What the model makes of one sample: its outputs, and some elements of every layer's output."""

    def __init__(self, arrays: list[np.ndarray], outputs: int, rng: np.random.Generator) -> None:
        self.outputs = arrays[:outputs]
        self._places = [rng.integers(0, a.size, min(a.size, ELEMENTS)) for a in arrays[outputs:]]
        self.own = [self.picked(a, n) for n, a in enumerate(arrays[outputs:])]

    def picked(self, array: np.ndarray, n: int) -> np.ndarray:
        """Of the output of layer n."""
        return array.reshape(-1)[self._places[n]]


def squared(got: np.ndarray, expected: np.ndarray) -> float:
    """|got - expected|^2 / |expected|^2."""
    e = expected.astype(np.float64)
    norm = float(np.sum(e * e))
    return float(np.sum((got.astype(np.float64) - e) ** 2)) / norm if norm > 0 else 0.0
