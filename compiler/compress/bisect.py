"""Which pass, and which layer, a compressed model's loss comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx_ir as ir

from ...passes.compress.layers import layers
from ...passes.compress.treatment import Treatment
from ..driver import Progress, silent
from .calibration import Calibration
from .loss import NONE, Loss, Losses
from .recipe import Recipe, apply

Keep = Callable[[Treatment], Treatment]
PASSES: tuple[tuple[str, Keep], ...] = (     # in the order in which they are applied, each with those before it
    ("slice", lambda t: Treatment()),
    ("low rank", lambda t: Treatment(rank=t.rank)),
    ("sparsity", lambda t: Treatment(rank=t.rank, sparsity=t.sparsity)),
    ("shift", lambda t: Treatment(rank=t.rank, sparsity=t.sparsity, shift=t.shift)),
    ("quantization", lambda t: t),
)


@dataclass(frozen=True)
class Bisection:
    """passes: the loss with each pass and all before it, then with recovery; layers: (first layers that were compressed, loss) as
    they were tried; guilty: the layer with which half of the loss has come, and what it alone loses."""

    passes: tuple[tuple[str, Loss], ...]
    layers: tuple[tuple[int, Loss], ...]
    guilty: str
    alone: Loss


def bisect(original: ir.Model, recipe: Recipe, data: Calibration, losses: Losses, progress: Progress = silent) -> Bisection:
    """original: canonical. The passes are added one by one; then a binary search over how many of the first layers are compressed
    finds the one that brings the loss past half of what it is in the end: as many compressions as the number of layers has
    bits."""
    def loss(some: Recipe) -> Loss:
        return losses(apply(original, some, data, progress).model) if some.lossy else NONE

    def only(names: list[str]) -> Recipe:
        return replace(recipe, treatments={n: recipe.treatments[n] for n in names})

    passes, before = [], Recipe(top=recipe.top, recover=False)
    for name, keep in PASSES:
        now = replace(recipe, treatments={n: keep(t) for n, t in recipe.treatments.items()}, recover=False)
        if now != before and now.lossy:
            passes.append((name, loss(now)))
        before = now
    if recipe.recover:
        passes.append(("recovery", loss(recipe)))
    names = [x.name for x in layers(original) if x.name in recipe.treatments]
    whole = passes[-1][1].value if passes else 0.0
    tried, low, high = list[tuple[int, Loss]](), 0, len(names)
    while high - low > 1:
        middle = (low + high) // 2
        found = loss(only(names[:middle]))
        tried.append((middle, found))
        low, high = (low, middle) if found.value > whole / 2 else (middle, high)
    guilty = names[low] if names else ""
    return Bisection(tuple(passes), tuple(tried), guilty, loss(only([guilty])) if guilty else NONE)
