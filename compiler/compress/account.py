"""The account of a compression: what was done to each layer, what it cost and gained; as JSON and as a picture."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..errors import BurnishError
from .compress import Compressed
from .recipe import Recipe
from .search import Point

RECIPE = TypeAdapter(Recipe)


class AccountRefused(BurnishError):
    """The file is no account of a compression."""


def recipe_of(path: Path) -> Recipe:
    """What an account says was done. Raises AccountRefused."""
    try:
        return RECIPE.validate_python(json.loads(path.read_text())["recipe"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise AccountRefused(f"{path} is no account that `burnish compress` wrote: {' '.join(str(e).split())[:200]}") from None


def account(done: Compressed) -> dict[str, Any]:
    """As JSON. Seconds are of one run inside the model, or (measured: false) the templates' analytic costs, whose ratios alone
    mean something."""
    steps: dict[str, list[dict[str, Any]]] = {}
    for r in done.reports:
        steps.setdefault(r.layer, []).append({"step": r.step, "error": r.error, "before_bytes": r.before, "after_bytes": r.after,
                                              **({"note": r.note} if r.note else {})})
    names = dict.fromkeys([*done.before.seconds, *steps])
    return {
        "measured": done.before.measured,
        "before": {"seconds": done.before.total, "bytes": done.before.bytes},
        "after": {"seconds": done.after.total, "bytes": done.after.bytes},
        "loss": {"value": done.loss.value, "error": done.loss.error, "scores": {s.name: s.value for s in done.loss.scores}},
        "layers": [{"layer": n, "treatment": str(done.recipe.treatments[n]) if n in done.recipe.treatments else "as it is",
                    "before_seconds": done.before.seconds.get(n), "after_seconds": done.after.seconds.get(n),
                    "steps": steps.get(n, []), **({"refused": done.refused[n]} if n in done.refused else {})} for n in names],
        "recipe": RECIPE.dump_python(done.recipe, mode="json"),
        "points": [point(p) for p in done.points],
        "notes": list(done.notes),
    }


def point(p: Point) -> dict[str, Any]:
    treatments: dict[str, int] = {}
    for t in p.recipe.treatments.values():
        treatments[str(t)] = treatments.get(str(t), 0) + 1
    return {"name": p.name, "seconds": p.prices.total, "bytes": p.prices.bytes, "loss": p.loss.value, "loss_error": p.loss.error,
            "scores": {s.name: s.value for s in p.loss.scores}, "treatments": treatments}


def front(points: tuple[Point, ...]) -> set[str]:
    """The names of the points that no other beats in both time and loss."""
    def beats(a: Point, b: Point) -> bool:
        x, y = (a.prices.total, a.loss.value), (b.prices.total, b.loss.value)
        return x != y and x[0] <= y[0] and x[1] <= y[1]
    return {p.name for p in points if not any(beats(q, p) for q in points)}


def plot(done: Compressed) -> bytes | None:
    """Time against loss of all points that a search tried, as SVG; size of a mark: bytes of weights. None where there was no
    search, or without matplotlib (the extra burnish[compress])."""
    try:
        from matplotlib.figure import Figure  # an extra
    except ImportError:
        return None
    if not done.points:
        return None
    best, largest = front(done.points), max(p.prices.bytes for p in done.points)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    line = sorted((p for p in done.points if p.name in best), key=lambda p: p.prices.total)
    axes.plot([p.prices.total * 1e3 for p in line], [p.loss.value * 100 for p in line], color="#b0bec5", zorder=1)
    for n, p in enumerate(sorted(done.points, key=lambda p: p.prices.total)):
        chosen = p.model is done.model
        axes.scatter(p.prices.total * 1e3, p.loss.value * 100, s=30 + 220 * p.prices.bytes / largest, zorder=2, alpha=0.85,
                     color="#d84315" if chosen else "#1565c0" if p.name in best else "#90a4ae")
        axes.annotate(p.name + (" (chosen)" if chosen else ""), (p.prices.total * 1e3, p.loss.value * 100), fontsize=8,
                      xytext=(6, 6 + 11 * (n % 4)), textcoords="offset points")      # names of neighbours one above another
    axes.set_xlabel("one run, ms" if done.before.measured else "one run, analytic cost")
    axes.set_ylabel("loss, %")
    axes.set_title("Models that were tried; the larger a mark, the more bytes of weights", fontsize=10)
    axes.grid(alpha=0.3)
    axes.margins(0.12)
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()

