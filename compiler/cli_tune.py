"""`burnish tune`, and how seconds are written."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from ..schedules.tuner import State
from . import api, ui, ui_tune
from .browse import Invitation
from .errors import BurnishError
from .options import Exact, Farm, Json, ModelFile, Records, Rows, Shapes, Target, Workers
from .shapes import parse_shapes
from .targets import WEB

UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}
Seed = Annotated[int, typer.Option(metavar="N", min=0, help=(
    "Of the random sample input, and of which candidates are tried by chance."))]
Budget = Annotated[str | None, typer.Option(metavar="60s", show_default=False, help=(
    "Wall time to spend: 90, 60s, 10m or 1h. Default: 60s, in a browser 30s."))]
InBrowser = Annotated[bool, typer.Option("--browser", help=(
    "Measure in the browser that opens the page which is then served (--target wasm)."))]
Lan = Annotated[bool, typer.Option("--host", help="Let a phone on the same network open that page; shows a QR code.")]
Headless = Annotated[bool, typer.Option("--headless", help="Open that page in this machine's Chromium, without a window.")]


def seconds(text: str) -> float:
    """Of "90", "60s", "10m", "1h". Raises BurnishError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|)", text.strip())
    if match is None or float(match[1]) == 0:
        raise BurnishError(f"{text!r} is no span of time: write 90, 60s, 10m or 1h")
    return float(match[1]) * UNITS[match[2]]


def tune(model: ModelFile, budget: Budget = None, target: Target = "native", shape: Shapes = None, threads: Workers = None,
         seed: Seed = 0, exact: Exact = False, records: Records = None, farm: Farm = None, browser: InBrowser = False,
         host: Lan = False, headless: Headless = False, kernels: Rows = 20, json: Json = False) -> None:
    """Find the fastest kernels for a model on this machine, or in a browser; `compile` uses what was found.

    What is measured is recorded at once: Ctrl-C or a crash loses nothing, and another run goes on from there."""
    check(target, farm, browser, host, headless)
    invitation = Invitation(model, host, headless) if browser else None
    with ui_tune.live(model.name) as show:

        def watch(state: State) -> None:
            show(state)
            if invitation:
                invitation.watch(state)

        found = api.tune(model, budget=seconds(budget or ("30s" if browser else "60s")), target=target,
                         shapes=parse_shapes(shape), workers=threads, seed=seed, exact=exact, records=records, farm=farm,
                         rig=invitation.rig() if invitation else None, watch=watch)
    if json:
        ui.print_json(ui_tune.data(found))
        return
    ui_tune.report(found, kernels)
    ui.say(f"Next: burnish compile {model}" + (f" --target {target}" if target != "native" else ""))


def check(target: str, farm: str | None, browser: bool, host: bool, headless: bool) -> None:
    """Raises BurnishError where these do not go together."""
    if browser and target != WEB:
        raise BurnishError(f"a browser measures what is made for it: add --target {WEB}")
    if browser and farm:
        raise BurnishError("--browser and --farm measure in different places: leave one out")
    if (host or headless) and not browser:
        raise BurnishError(f"--{'host' if host else 'headless'} is for the page of --browser: add that")
