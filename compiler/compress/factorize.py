"""Layers become pairs of thinner ones; which, and how thin, a Treatment says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx_ir as ir

from ...passes.base import op, shape
from ...passes.compress import low_rank
from ...passes.compress.layers import Layer, layers
from ...passes.compress.low_rank import GAIN, Directions, Moments, rounded, rounded_up
from ...passes.compress.treatment import Treatment
from ..driver import Progress, silent
from ..errors import BurnishError
from .calibration import Calibration, observe
from .report import LayerReport

Method = Literal["afm", "svd", "spatial"]


def factorize(model: ir.Model, treatments: Mapping[str, Treatment], data: Calibration | None = None, *,
              method: Method | None = None, progress: Progress = silent) -> list[LayerReport]:
    """Factors every layer whose treatment has a rank, in place; the model is in canonical form, the second factor keeps the
    layer's name. A layer that would not get cheaper stays, and its report says so.

    method: "afm", the default where there is data: the principal components of the outputs; "svd": the weights' own; "spatial":
    k x k convolutions as k x 1 and 1 x k. Without data errors are not known (NaN). Raises BurnishError where data is missing or
    not finite.
    """
    chosen = [layer for layer in layers(model) if (t := treatments.get(layer.name)) is not None and t.rank is not None]
    method = method or ("afm" if data is not None else "svd")
    if method == "afm" and data is None:
        raise BurnishError("output-feature PCA (afm) needs calibration data; svd does without")
    if method == "spatial":
        return _split_windows(model, chosen, treatments, data, progress)
    moments = {x.name: Moments(x) for x in chosen if low_rank.factorable(x) is None} if data is not None else {}
    if data is not None and moments:
        observe(model, {str(x.output.name): moments[x.name] for x in chosen if x.name in moments}, data, "outputs of layers",
                progress)
        _finite(moments)
    return [_factor(model, layer, treatments[layer.name], moments.get(layer.name), method) for layer in chosen]


def _finite(moments: Mapping[str, Moments]) -> None:
    for name, found in moments.items():
        if not np.isfinite(found.sums.squares).all():
            raise BurnishError(f"on the calibration data layer {name} has outputs that are not finite")


def _factor(model: ir.Model, layer: Layer, treatment: Treatment, moments: Moments | None, method: Method) -> LayerReport:
    if (why := low_rank.factorable(layer)) is not None:
        return _left(layer, why)
    found = low_rank.by_outputs(layer, moments) if moments and method == "afm" else low_rank.by_weights(layer)
    rank = _rank(layer, treatment, found)
    if (why := _too_dear(layer, rank)) is not None:
        return _left(layer, why)
    before, after = layer.weight.nbytes, 4 * rank * sum(low_rank.sides(layer))
    error = found.lost(rank, moments.sums) if moments else float("nan")
    low_rank.project(model, layer, found, rank)
    return LayerReport(layer.name, f"rank {rank} ({method})", error, before, after)


def _rank(layer: Layer, treatment: Treatment, found: Directions) -> int:
    assert treatment.rank is not None
    return rounded_up(found.rank()) if treatment.rank == "auto" else rounded(treatment.rank * min(low_rank.sides(layer)))


def _too_dear(layer: Layer, rank: int, spatial: bool = False) -> str | None:
    cost = low_rank.share_of_cost(layer, rank, spatial)
    return f"rank {rank} would take {cost:.0%} of its multiply-adds: not below {GAIN:.0%}" if cost >= GAIN else None


def _left(layer: Layer, why: str) -> LayerReport:
    return LayerReport(layer.name, "dense", 0.0, layer.weight.nbytes, layer.weight.nbytes, why)


# ---- Windows -------------------------------------------------------------------------------------------------------------


class _Norm:
    """The sum of squares of an array, over all samples."""

    def __init__(self) -> None:
        self.total = 0.0

    def update(self, array: np.ndarray) -> None:
        self.total += float(np.square(array, dtype=np.float64).sum())


def _split_windows(model: ir.Model, chosen: list[Layer], treatments: Mapping[str, Treatment], data: Calibration | None,
                   progress: Progress) -> list[LayerReport]:
    """The error of each is that of a convolution with the difference of weights, on the inputs of the original model."""
    original = model.clone()
    reports, differences = [], dict[str, np.ndarray]()
    for layer in chosen:
        why = low_rank.factorable(layer, spatial=True)
        rank = 0 if why else _window_rank(layer, treatments[layer.name])
        why = why or _too_dear(layer, rank, spatial=True)
        if why is not None:
            reports.append(_left(layer, why))
            continue
        before, weight = layer.weight.nbytes, layer.weight
        after = 4 * rank * sum(low_rank.sides(layer, spatial=True))
        differences[layer.name] = weight - low_rank.split_window(model, layer, rank)
        reports.append(LayerReport(layer.name, f"rank {rank} (spatial)", float("nan"), before, after))
    if data is None or not differences:
        return reports
    errors = _errors(original, differences, data, progress)
    return [LayerReport(r.layer, r.step, errors.get(r.layer, r.error), r.before, r.after, r.note) for r in reports]


def _window_rank(layer: Layer, treatment: Treatment) -> int:
    assert treatment.rank is not None
    full = min(low_rank.sides(layer, spatial=True))
    return rounded_up(low_rank.window_rank(layer)) if treatment.rank == "auto" else rounded(treatment.rank * full)


def _errors(model: ir.Model, differences: Mapping[str, np.ndarray], data: Calibration, progress: Progress) -> dict[str, float]:
    """|x D| / |y| of each layer, D the difference of its weights; the model is used up."""
    norms, named = dict[str, _Norm](), dict[str, tuple[str, str]]()
    for layer in layers(model):
        if layer.name in differences:
            weight = ir.Value(name=f"{layer.name}_difference", const_value=ir.tensor(differences[layer.name]))
            model.graph.register_initializer(weight)
            apart = op("Conv", [layer.input, weight], layer.output, name=f"{layer.name}_apart", version=layer.node.version,
                       shape=shape(layer.output))
            for attribute in layer.node.attributes.values():
                apart.attributes.add(attribute)
            layer.node.append(apart)
            named[layer.name] = str(apart.outputs[0].name), str(layer.output.name)
            norms |= {name: _Norm() for name in named[layer.name]}
    observe(model, norms, data, "errors of layers", progress)
    return {name: (norms[a].total / max(norms[y].total, 1e-300)) ** 0.5 for name, (a, y) in named.items()}
