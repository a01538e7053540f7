"""The budget: which treatment each layer gets, so that the model is as fast as it can be and loses no more than it may.

Every option is applied to all layers at once to learn what it costs each of them (error of its output) and what it brings (time
of its kernel in the running model, bytes). The error of a layer becomes damage at the model's outputs by the layer's gain. An
exact solver picks the treatments of least time for a limit of the predicted damage (or of least damage for limits of time and
size); the whole model is compressed that way, recovered and judged, and the limit is moved until the budget truly holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ...passes.compress.layers import layers
from ...passes.compress.treatment import Sparsity, Treatment
from ..driver import Progress, silent
from ..errors import BurnishError
from ..ui import seconds as shown_seconds
from ..ui import size as shown_size
from .assign import Option, Quantity, assign, total
from .calibration import Calibration
from .gains import gains
from .loss import Loss, Losses
from .prices import Pricer, Prices
from .recipe import Applied, Recipe, apply
from .report import LayerReport
from .request import Request

TRIES = 6           # models that are compressed and judged while the limit of damage is moved
UNKNOWN = 1.0       # damage of a step whose error nobody measured



class BudgetMissed(BurnishError):
    """No plan holds the budget; the message has the nearest that there is."""


@dataclass(frozen=True)
class Point:
    """One compressed model that was tried."""

    name: str
    recipe: Recipe
    model: ir.Model
    reports: tuple[LayerReport, ...]
    loss: Loss
    prices: Prices

    def holds(self, request: Request) -> bool:
        return ((request.max_drop is None or self.loss.safe <= request.max_drop)
                and (request.max_size is None or self.prices.bytes <= request.max_size)
                and (request.max_latency is None or self.prices.total <= request.max_latency))

    def __str__(self) -> str:
        return (f"{self.name}: {shown_seconds(self.prices.total)}, {shown_size(self.prices.bytes)}, "
                f"loses {self.loss.value:.2%} (+- {self.loss.error:.2%})")


def menu(request: Request) -> list[Treatment]:
    """What a layer may get besides being left alone: what was asked for, in all its parts, or the methods that pay most often."""
    if request.treatment == Treatment():
        half, three = Sparsity.parse("block:50%"), Sparsity.parse("block:75%")
        return [Treatment("int8"), Treatment(sparsity=half), Treatment(sparsity=three), Treatment("int8", half),
                Treatment("int8", three)]
    t = request.treatment
    parts = [Treatment(t.precision), Treatment(sparsity=t.sparsity), Treatment(rank=t.rank), Treatment(shift=t.shift), t,
             Treatment(t.precision, t.sparsity)]
    return [p for p in dict.fromkeys(parts) if p != Treatment()]


class Search:
    """The state of one search. original: canonical float model; losses: of models, on data kept for that."""

    def __init__(self, original: ir.Model, request: Request, base: Recipe, data: Calibration, losses: Losses, pricer: Pricer,
                 progress: Progress = silent) -> None:
        self.original, self.request, self.base, self.data, self.losses = original, request, base, data, losses
        self.pricer, self.progress = pricer, progress
        self.names = [x.name for x in layers(original)]
        self.points: list[Point] = []

    def run(self) -> Point:
        """The fastest (or, where size is preferred, smallest) of all tried models that hold the budget. Raises BudgetMissed."""
        float_model = self._point("float", Recipe(), Applied(self.original, ()))
        options = self._options(float_model)
        if self.request.max_drop is None:
            self._within(options, float_model)
        else:
            self._move(options, float_model)
        return self._best()

    # ---- what there is to choose from

    def _options(self, dense: Point) -> list[Option]:
        """Of every layer: to be left alone, and each treatment that did something to it. Each treatment of all layers is a point,
        too: what one method by itself reaches."""
        sizes = {x.name: x.weight.nbytes for x in layers(self.original)}
        weight = gains(self.original, self.data, progress=self.progress)
        found = [Option(n, Treatment(), dense.prices.seconds[n], 0.0, sizes[n]) for n in self.names]
        for treatment in menu(self.request):
            recipe = replace(self.base, treatments=dict.fromkeys(self.names, treatment))
            point = self._try(str(treatment), recipe)
            for name in self.names:
                mine = [r for r in point.reports if r.layer == name and r.after != r.before]
                if mine:
                    error = sum((UNKNOWN if math.isnan(r.error) else r.error) ** 2 for r in mine)
                    found.append(Option(name, treatment, point.prices.seconds[name], weight[name] * error, mine[-1].after))
        return found

    # ---- points

    def _try(self, name: str, recipe: Recipe) -> Point:
        known = next((p for p in self.points if p.recipe == recipe), None)
        return known or self._point(name, recipe, apply(self.original, recipe, self.data, self.progress))

    def _point(self, name: str, recipe: Recipe, applied: Applied) -> Point:
        prices = self.pricer.price(applied.model, self.names, f"time {name}", self.progress)
        made = Point(name, recipe, applied.model, applied.reports, self.losses(applied.model), prices)
        self.points.append(made)
        return made

    def _planned(self, chosen: Mapping[str, Option], name: str) -> Point:
        treatments = {n: o.treatment for n, o in chosen.items() if o.treatment != Treatment()}
        return self._try(name, replace(self.base, treatments=treatments))

    # ---- plans

    def _limits(self, dense: Point) -> dict[Quantity, float]:
        """What is left for layers of the limits of size and time."""
        limits: dict[Quantity, float] = {}
        if self.request.max_size is not None:
            others = dense.prices.bytes - sum(x.weight.nbytes for x in layers(self.original))
            limits["bytes"] = self.request.max_size - max(0, others)
        if self.request.max_latency is not None:
            limits["seconds"] = self.request.max_latency - dense.prices.rest
        return limits

    def _within(self, options: Sequence[Option], dense: Point) -> None:
        """The least damage within the limits of size and time, which are corrected by what plans are seen to take."""
        limits = self._limits(dense)
        for n in range(TRIES):
            chosen = assign(options, "damage", limits)
            if chosen is None:
                return
            point = self._planned(chosen, f"plan {n + 1}")
            if point.holds(self.request):
                return
            for quantity, wanted, got in (("bytes", self.request.max_size, point.prices.bytes),
                                          ("seconds", self.request.max_latency, point.prices.total)):
                if wanted is not None and got > wanted:
                    limits[quantity] *= 0.98 * wanted / got     # type: ignore[index]

    def _move(self, options: Sequence[Option], dense: Point) -> None:
        """Bisects the limit of predicted damage, on a logarithmic scale, for the fastest plan whose real loss holds."""
        limits, least = self._limits(dense), self._least
        free = assign(options, least, limits)
        if free is None:
            return
        high = total(free, "damage")
        if self._planned(free, "plan 1").loss.safe <= (self.request.max_drop or 0) or high <= 0:
            return
        low = high * 1e-4
        for n in range(1, TRIES):
            limit = math.sqrt(low * high)
            chosen = assign(options, least, {**limits, "damage": limit})
            if chosen is None:
                low = limit
                continue
            point = self._planned(chosen, f"plan {n + 1}")
            low, high = (limit, high) if point.holds(self.request) else (low, limit)

    @property
    def _least(self) -> Quantity:
        return "bytes" if self.request.goal == "size" else "seconds"

    def _best(self) -> Point:
        good = [p for p in self.points if p.holds(self.request)]
        if good:
            return min(good, key=lambda p: p.prices.bytes if self._least == "bytes" else p.prices.total)
        nearest = min(self.points, key=lambda p: excess(p, self.request))
        raise BudgetMissed(f"no plan that was tried holds {described(self.request)}; the nearest is {nearest}")


def excess(point: Point, request: Request) -> float:
    """By how much a point is past its limits, the worst of them, as a factor."""
    pairs = ((point.loss.safe, request.max_drop), (point.prices.bytes, request.max_size),
             (point.prices.total, request.max_latency))
    return max((value / limit if limit else math.inf for value, limit in pairs if limit is not None), default=0.0)


def described(request: Request) -> str:
    parts = []
    if request.max_drop is not None:
        parts.append(f"a loss of {request.max_drop:.2%}")
    if request.max_size is not None:
        parts.append(shown_size(request.max_size))
    if request.max_latency is not None:
        parts.append(shown_seconds(request.max_latency))
    return " and ".join(parts)
