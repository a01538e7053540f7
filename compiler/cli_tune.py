"""`burnish tune`, and how seconds are written."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from . import api, ui, ui_tune
from .errors import BurnishError
from .options import Exact, Farm, Json, ModelFile, Records, Rows, Shapes, Target, Workers
from .shapes import parse_shapes

UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}
Seed = Annotated[int, typer.Option(metavar="N", min=0, help=(
    "Of the random sample input, and of which candidates are tried by chance."))]
Budget = Annotated[str, typer.Option(metavar="60s", help="Wall time to spend: 90, 60s, 10m or 1h.")]


def seconds(text: str) -> float:
    """Of "90", "60s", "10m", "1h". Raises BurnishError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|)", text.strip())
    if match is None or float(match[1]) == 0:
        raise BurnishError(f"{text!r} is no span of time: write 90, 60s, 10m or 1h")
    return float(match[1]) * UNITS[match[2]]


def tune(model: ModelFile, budget: Budget = "60s", target: Target = "native", shape: Shapes = None, threads: Workers = None,
         seed: Seed = 0, exact: Exact = False, records: Records = None, farm: Farm = None, kernels: Rows = 20,
         json: Json = False) -> None:
    """Find the fastest kernels for a model on this machine; `compile` uses what was found.

    What is measured is recorded at once: Ctrl-C or a crash loses nothing, and another run goes on from there."""
    with ui_tune.live(model.name) as watch:
        found = api.tune(model, budget=seconds(budget), target=target, shapes=parse_shapes(shape), workers=threads, seed=seed,
                         exact=exact, records=records, farm=farm, watch=watch)
    if json:
        ui.print_json(ui_tune.data(found))
        return
    ui_tune.report(found, kernels)
    ui.say(f"Next: burnish compile {model}")
