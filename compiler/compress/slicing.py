"""The residual stream of a pre-norm transformer becomes narrower."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...passes.compress.slice import NotPreNorm, sliced_width, stream, turn
from ..driver import Progress, silent
from ..errors import BurnishError
from .calibration import Calibration, observe
from .report import LayerReport


class _Scatter:
    """The sum of n n' over all rows, n a row as LayerNorm leaves it before scale and bias."""

    def __init__(self, width: int) -> None:
        self.total = np.zeros((width, width))

    def update(self, array: np.ndarray) -> None:
        rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
        rows = rows - rows.mean(axis=1, keepdims=True)
        rows /= np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-12)
        self.total += rows.T @ rows


def slice_model(model: ir.Model, fraction: float, data: Calibration, progress: Progress = silent) -> list[LayerReport]:
    """Takes this fraction of the residual stream's width away, rounded to whole vectors, in place; the model is in canonical form
    and takes part in no other way. What is kept are the principal components of what each norm reads, in the model as it came.

    The report of each matrix that got smaller gives the share of its norm's input that is gone, in the Euclidean norm. Raises
    BurnishError where the model is no pre-norm transformer, and where data is not finite.
    """
    if not 0 <= fraction < 1:
        raise BurnishError(f"a fraction of {fraction:g} cannot be sliced away: it is 0 or more, and less than 1")
    try:
        found = stream(model)
    except NotPreNorm as e:
        raise BurnishError(f"the model cannot be sliced: {e}") from None
    less = sliced_width(found.width, fraction)
    sums = {str(norm.source.name): _Scatter(found.width) for norm in found.norms}
    observe(model, sums, data, "observe for slicing", progress)
    if not all(np.isfinite(s.total).all() for s in sums.values()):
        raise BurnishError("on the calibration data the residual stream is not finite")
    bases, lost = dict[ir.Value, np.ndarray](), dict[str, float]()
    for norm in found.norms:
        energy, basis = np.linalg.eigh(sums[str(norm.source.name)].total)
        bases[norm.source] = basis[:, ::-1][:, :less]
        gone = max(0.0, float(energy[:found.width - less].sum())) / max(float(energy.sum()), 1e-300)
        lost |= {layer.name: gone**0.5 for layer in norm.layers} | {w.layer.name: gone**0.5 for w in found.writes
                                                                    if w.result is norm.source}
    touched = {x.name: x for x in (*(x for norm in found.norms for x in norm.layers), *(w.layer for w in found.writes))}
    before = {name: layer.weight.nbytes for name, layer in touched.items()}
    turn(model, found, bases)
    return [LayerReport(name, f"slice {found.width} to {less}", lost.get(name, 0.0), size, size * less // found.width)
            for name, size in before.items()]
