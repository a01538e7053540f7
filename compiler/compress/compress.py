"""From a float model and samples of its inputs to a smaller one that loses no more than it may, and an account of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from ... import passes
from ...passes.compress.layers import layers
from ...schedules.database import Database
from ...schedules.device import Device
from ...targets.target import Target
from ..driver import LOWERINGS, Progress, silent
from ..errors import BurnishError
from .evaluate import Judge
from .guard import refusals
from .loss import Loss, Losses
from .prices import Pricer, Prices, pricer
from .recipe import Applied, Recipe, apply
from .report import LayerReport
from .request import Request
from .search import Point, Search
from .sources import Samples

CALIBRATE, WORK = (128, 1024), 64e9     # samples: as many as this many multiply-adds can see, within these bounds
JUDGE = 512                     # samples, at most
FEW = 8                         # samples, below which the same serve for both


@dataclass(frozen=True)
class Compressed:
    """model: the compressed one, which onnxruntime can run; reports: what was done to each layer; refused: layers whose treatment
    gained nothing, and why; before, after: what both cost on the target; points: all models that a search tried."""

    model: ir.Model
    recipe: Recipe
    reports: tuple[LayerReport, ...]
    refused: Mapping[str, str]
    before: Prices
    after: Prices
    loss: Loss
    points: tuple[Point, ...]
    notes: tuple[str, ...]


class NothingToCompress(BurnishError):
    """The model has no layer that could be compressed."""


def compress(model: ir.Model, request: Request, samples: Samples, target: Target, *, judge: Judge | None = None,
             database: Database | None = None, workers: int | None = None, progress: Progress = silent) -> Compressed:
    """model: as imported; it is not changed. samples: one half serves for calibration, the other, which compression does not see,
    to judge. Raises BudgetMissed where a budget cannot be held, DataRefused for broken samples, and what a compile raises."""
    original = model.clone()
    passes.canonicalize(original, frozenset(LOWERINGS))
    found = layers(original)
    names = [x.name for x in found]
    if not names:
        raise NothingToCompress("the model has no convolution and no matrix product with constant float32 weights: it may be "
                                "compressed already, then compile it without asking for compression")
    seen, unseen, notes = split(samples, sum(x.macs for x in found))
    losses = Losses(original, unseen, judge, progress)
    base = Recipe(slice=request.slice, top=top(target.devices), recover=request.recover)
    with pricer(target, database, workers) as prices:
        if request.searches:
            search = Search(original, request, base, seen, losses, prices, progress)
            best = search.run()
            return Compressed(best.model, best.recipe, best.reports, {}, search.points[0].prices, best.prices, best.loss,
                              tuple(search.points), notes)
        # Training takes minutes: a search, which compresses a dozen models, does without.
        recipe = replace(base, treatments=dict.fromkeys(names, request.treatment), train=request.recover)
        return _guarded(original, recipe, request, seen, losses, prices, notes, progress)


def _guarded(original: ir.Model, recipe: Recipe, request: Request, data: Samples, losses: Losses, prices: Pricer,
             notes: tuple[str, ...], progress: Progress) -> Compressed:
    """Every layer as was asked for, but for those that it would not make faster (or smaller)."""
    names = list(recipe.treatments)

    def priced(applied: Applied) -> Prices:
        return prices.price(applied.model, names, "time the compressed model", progress)

    before = prices.price(original, names, "time the model", progress)
    applied = apply(original, recipe, data, progress)
    after = priced(applied)
    whole = any(t.precision == "integer-only" for t in recipe.treatments.values())      # one float layer would undo it
    refused = {} if whole else refusals(before, after, recipe.treatments, applied.reports, request.goal)
    if refused:
        milder = recipe.without(frozenset(refused))
        again = apply(original, milder, data, progress) if milder.lossy else Applied(original, ())
        cost = priced(again)
        if cost.total < after.total or request.goal == "size":
            recipe, applied, after = milder, again, cost
        else:       # a float layer between integer ones costs more in conversions than it gains
            refused = {}
    return Compressed(applied.model, recipe, applied.reports, refused, before, after, losses(applied.model), (), notes)


def split(samples: Samples, macs: int) -> tuple[Samples, Samples, tuple[str, ...]]:
    """(to calibrate on, to judge by, notes). macs: multiply-adds of one run."""
    if len(samples) < FEW:
        few = f"{len(samples)} samples serve both to calibrate and to judge: give {FEW} or more to know what unseen data lose"
        return samples, samples, (*samples.notes, few)
    seen, unseen = samples.halves()
    least, most = CALIBRATE
    return seen.most(int(min(most, max(least, WORK / max(1, macs))))), unseen.most(JUDGE), samples.notes


def top(devices: tuple[Device, ...]) -> int:
    """The largest activation: 255, or 127 where the device's dot product takes no more at full speed. The relaxed one of
    WebAssembly is defined up to 127, and AVX2's vpmaddubsw saturates beyond."""
    wide = all(d.arch == "aarch64" or {"avx512vnni", "avxvnni"} & set(d.isa) for d in devices)
    return 255 if wide else 127
