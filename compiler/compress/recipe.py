"""What is done to a model, as data, and doing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from ...passes.canonical.remove_dead_code import RemoveDeadCode
from ...passes.compress.layers import layers
from ...passes.compress.treatment import Treatment
from ..driver import Progress, silent
from .calibration import Calibration
from .report import LayerReport


@dataclass(frozen=True)
class Recipe:
    """treatments: of layers by name, the others stay as they are; slice: share of a transformer's hidden dimensions to cut off;
    top: largest activation of integer kernels, 255 or 127; recover: reconstruct rounded layers, one by one; train: the weights
    that pruning left, all together."""

    treatments: Mapping[str, Treatment] = field(default_factory=dict)
    slice: float = 0.0
    top: int = 255
    recover: bool = True
    train: bool = False

    def without(self, names: frozenset[str]) -> Recipe:
        """The recipe that leaves these layers alone."""
        return replace(self, treatments={n: t for n, t in self.treatments.items() if n not in names})

    @property
    def lossy(self) -> bool:
        return self.slice > 0 or any(t != Treatment() for t in self.treatments.values())


@dataclass(frozen=True)
class Applied:
    """A compressed model, which onnxruntime can run, and what was done to each layer, step by step."""

    model: ir.Model
    reports: tuple[LayerReport, ...]


def apply(original: ir.Model, recipe: Recipe, data: Calibration, progress: Progress = silent) -> Applied:
    """original: as `passes.canonicalize` leaves it; it is not changed. Smaller matrices first, then fewer weights, then fewer
    bits; what each step loses the remaining weights make good, as far as they can. Raises a BurnishError where a step cannot be
    done."""
    model, reports = original.clone(), list[LayerReport]()
    wanted = recipe.treatments
    if recipe.slice:
        from .slicing import slice_model
        reports += slice_model(model, recipe.slice, data, progress)
    if any(t.sparsity for t in wanted.values()):
        from .sparsify import regroup
        regroup(model, wanted, data, progress)
    teacher = model.clone()
    if any(t.rank is not None for t in wanted.values()):
        from .factorize import factorize
        reports += factorize(model, wanted, data, progress=progress)
        wanted = inherited(model, wanted)
    if any(t.sparsity for t in wanted.values()):
        from .sparsify import sparsify
        reports += sparsify(model, wanted, data, progress=progress)
        reports += trained(teacher, model, data, progress) if recipe.train else []
    if any(t.shift for t in wanted.values()):
        from .shift import shift
        reports += shift(model, wanted, data, progress=progress)
    exact = model.clone()
    if any(t.precision == "integer-only" for t in wanted.values()):
        from .integer_only import integer_only
        reports += integer_only(model, data, top=recipe.top, progress=progress)
    elif any(t.precision != "float" for t in wanted.values()):
        from .quantize import quantize
        reports += quantize(model, wanted, data, top=recipe.top, progress=progress)
        if recipe.recover:
            from .recover import recover
            reports += recover(exact, model, data, progress=progress)
    RemoveDeadCode()(model)     # weights that others took the place of
    return Applied(model, tuple(reports))


def trained(teacher: ir.Model, model: ir.Model, data: Calibration, progress: Progress) -> list[LayerReport]:
    """All remaining weights together, where torch is there and knows the model's ops; else a report that says why not."""
    from .autograd import NoGradient
    from .distill import distill
    try:
        return distill(teacher, model, data, progress)
    except NoGradient as e:
        return [LayerReport("all layers", "distillation", float("nan"), 0, 0, f"left out: {e}")]


def inherited(model: ir.Model, wanted: Mapping[str, Treatment]) -> Mapping[str, Treatment]:
    """With the layers that a factorisation added: each is treated as the layer whose name its own begins with."""
    found = dict(wanted)
    for layer in layers(model):
        if layer.name not in wanted:
            parents = [n for n in wanted if layer.name.startswith(n)]
            if parents:
                found[layer.name] = wanted[max(parents, key=len)]
    return found
