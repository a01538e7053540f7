"""What a compression did to a layer, in figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerReport:
    """layer: its name; step: what was done ("int8", "block:75%"); error: of its output on the calibration data, |y - y'| / |y| in
    the Euclidean norm over all samples; before, after: bytes of its weights; note: what a reader may want to know, such as why
    nothing was done."""

    layer: str
    step: str
    error: float
    before: int
    after: int
    note: str = ""
