"""A compressed kernel is used only where it is worth it: every refusal says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...passes.compress.treatment import Treatment
from ..ui import seconds as shown
from .prices import Prices
from .report import LayerReport
from .request import Prefer


def refusals(dense: Prices, compressed: Prices, treatments: Mapping[str, Treatment], reports: Iterable[LayerReport],
             goal: Prefer) -> dict[str, str]:
    """The layers whose treatment gains nothing, and why: by time inside the model ("speed") or by bytes ("size"). Layers that no
    step changed are not among them."""
    changed: dict[str, int] = {}
    for r in reports:
        if r.after != r.before or not r.note:
            changed[r.layer] = changed.get(r.layer, 0) + r.before - r.after
    found = {}
    for name, treatment in treatments.items():
        if name not in changed:
            continue
        if goal == "size":
            if changed[name] <= 0:
                found[name] = f"{treatment} refused: it takes as many bytes as before"
        elif (now := compressed.seconds.get(name, 0.0)) >= (before := dense.seconds.get(name, 0.0)) > 0:
            found[name] = f"{treatment} refused: {shown(now)} instead of {shown(before)}"
    return found
