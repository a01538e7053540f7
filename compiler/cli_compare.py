"""`burnish compare`: where an artifact first differs from onnxruntime, or where a compression loses what it loses."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .. import passes
from ..passes.compress.layers import layers
from ..targets.cpu import profile
from . import importer, ui
from .compare import compare as compare_layers
from .compress.account import recipe_of
from .compress.bisect import bisect
from .compress.compress import split
from .compress.evaluate import judge
from .compress.loss import Losses
from .compress.request import RequestRefused
from .compress.sources import Pixels, calibration
from .driver import LOWERINGS
from .options import Every, Json, ModelFile, Seed, Shapes
from .options_compress import Calib, Eval, Mean, Std
from .planner import signature
from .sample import sample_inputs
from .shapes import parse_shapes

Account = Annotated[Path | None, typer.Option("--account", metavar="FILE.json", show_default=False, help=(
    "What `compress` wrote beside a compressed model: find the pass and the layer that its loss comes from."))]


def compare(model: ModelFile, shape: Shapes = None, seed: Seed = 0, account: Account = None, calib: Calib = None,
            evaluate: Eval = None, mean: Mean = "0", std: Std = "1", every: Every = False, json: Json = False) -> None:
    """Compile with every kernel's output exposed and compare each with onnxruntime: which layer differs first?

    The passes are compared, too. Exit code 1 if anything differs. With --account: which pass and which layer of a compression
    lose most?"""
    if account is not None:
        losses(model, account, parse_shapes(shape), calib, evaluate, Pixels(mean, std), json)
        return
    shapes = parse_shapes(shape)
    graph = importer.load(model, shapes)
    inputs = sample_inputs([signature(v) for v in graph.graph.inputs], seed)
    with ui.progress(f"compare {model.name}") as report:
        found = compare_layers(lambda: importer.load(model, shapes), inputs, profile.detect(), report)
    bad = found.first is not None or found.guilty_passes
    if json:
        ui.print_json({"passes": [asdict(d) for d in found.passes], "layers": [asdict(x) for x in found.layers],
                       "first": asdict(found.first) if found.first else None})
        sys.exit(int(bad))
    shown = found.layers if every else sorted(found.layers, key=lambda x: -x.difference.error)[:10]
    table = ui.table("error", "allowed", "value", "nodes", numbers=2)
    for x in shown:
        ui.row(table, f"{x.difference.error:.1e}", f"{x.difference.tolerance:.0e}", x.difference.name, ", ".join(x.nodes),
               style="" if x.difference.ok else "red")
    ui.out.print(table)
    if len(shown) < len(found.layers):
        ui.say(f"… and {len(found.layers) - len(shown)} more with smaller errors (--all)")
    ui.say("passes: " + ("they change the output" if found.guilty_passes else "exact"), "red" if found.guilty_passes else "")
    ui.say(f"first kernel that differs: {', '.join(found.first.nodes) if found.first else 'none'}", "red" if found.first else "")
    sys.exit(int(bad))


def losses(model: Path, account: Path, shapes: dict[str, tuple[int, ...]], calib: str | None, evaluate: str | None,
           pixels: Pixels, json: bool) -> None:
    """Bisects the loss of the compression that the account tells of."""
    if calib is None:
        raise RequestRefused("the loss of a compression is seen on samples: give --calib what `compress` was given")
    recipe = recipe_of(account)
    graph = importer.load(model, shapes)
    signatures = [signature(v) for v in graph.graph.inputs]
    passes.canonicalize(graph, frozenset(LOWERINGS))
    seen, unseen, _ = split(calibration(calib, signatures, pixels), sum(x.macs for x in layers(graph)))
    with ui.progress(f"compare {model.name}") as report:
        scored = judge(evaluate, signatures, pixels) if evaluate is not None else None
        found = bisect(graph, recipe, seen, Losses(graph, unseen, scored, report), report)
    if json:
        ui.print_json(asdict(found))
        return
    table = ui.table("loss", "after", numbers=1)
    for name, loss in found.passes:
        ui.row(table, f"{loss.value:.2%}", name)
    for count, loss in found.layers:
        ui.row(table, f"{loss.value:.2%}", f"the first {ui.count(count, 'layer')} compressed")
    ui.out.print(table)
    ui.say(f"half of the loss has come with layer {found.guilty}, which alone loses {found.alone.value:.2%}" if found.guilty
           else "no layer was compressed")
