"""`burnish compress`, and how a compression is shown."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from . import ui
from .compress import api
from .compress.account import account, front
from .compress.compress import Compressed
from .compress.request import Request, RequestRefused
from .options import Every, Json, ModelFile, Records, Shapes, Target, Workers
from .options_compress import (
    Calib,
    Eval,
    LowRank,
    MaxDrop,
    MaxLatency,
    MaxSize,
    Mean,
    Prefer,
    Quantize,
    Recover,
    Shift,
    Slice,
    SmallFile,
    Sparsity,
    Std,
)
from .shapes import parse_shapes

SHOWN = 10      # layers


def compress(model: ModelFile, output: SmallFile = Path("small.onnx"), quantize: Quantize = None, sparsity: Sparsity = None,
             low_rank: LowRank = None, shift: Shift = 0, slice: Slice = None, recover: Recover = True, calib: Calib = None,
             evaluate: Eval = None, mean: Mean = "0", std: Std = "1", max_drop: MaxDrop = None, max_size: MaxSize = None,
             max_latency: MaxLatency = None, prefer: Prefer = None, target: Target = "native", shape: Shapes = None,
             threads: Workers = None, records: Records = None, every: Every = False, json: Json = False) -> None:
    """Make a model smaller and faster, within a budget: an ONNX file that onnxruntime, too, can run.

    `compile` takes the same options and does both. What a compressed layer costs is timed on the target; where it is not faster
    than before the layer stays as it was, and the account says so."""
    request = Request.parse(quantize=quantize, sparsity=sparsity, low_rank=low_rank, shift=shift, slice=slice, max_drop=max_drop,
                            max_size=max_size, max_latency=max_latency, prefer=prefer, recover=recover)
    done = run(model, output, request, calib, evaluate, target, parse_shapes(shape), mean, std, records, threads)
    if json:
        ui.print_json({"model": str(output), **account(done)})
        return
    show(done, every)
    ui.say(str(output), "bold green")
    ui.say(f"Next: burnish compile {output}; {output.with_suffix('.json')} has the whole account")


@contextmanager
def smaller(model: Path, request: Request, calib: str | None, evaluate: str | None, target: str,
            shapes: Mapping[str, tuple[int, ...]], mean: str, std: str, records: str | None,
            workers: int | None) -> Iterator[tuple[Path, Compressed | None]]:
    """The file to compile: the model itself or, for the length of the `with`, its compressed form if the request asks for one."""
    if not request.compresses:
        yield model, None
        return
    with tempfile.TemporaryDirectory(prefix="burnish-compress-") as folder:
        small = Path(folder) / model.with_suffix(".onnx").name
        yield small, run(model, small, request, calib, evaluate, target, shapes, mean, std, records, workers)


def run(model: Path, output: Path, request: Request, calib: str | None, evaluate: str | None, target: str,
        shapes: Mapping[str, tuple[int, ...]], mean: str, std: str, records: str | None, workers: int | None) -> Compressed:
    """With a progress bar. Raises what `burnish.compress` raises."""
    if calib is None:
        raise RequestRefused("compression needs sample inputs: give --calib a folder of pictures or arrays, an .npz file, or "
                             "module:function")
    with ui.progress(f"compress {model.name}") as report:
        return api.compress(model, output, request=request, calibration_data=calib, evaluate=evaluate, target=target,
                            shapes=shapes, mean=mean, std=std, records=records, workers=workers, progress=report)


def show(done: Compressed, every: bool = False) -> None:
    """The points of a search, the layers, and what came of it all."""
    if done.points:
        points(done)
    decisions(done, every)
    before, after = done.before, done.after
    ui.say(f"  time     {ui.seconds(before.total)} -> {ui.seconds(after.total)} ({before.total / after.total:.2f}x)"
           + ("" if before.measured else ", by analytic cost: nothing here can measure this target"))
    ui.say(f"  weights  {ui.size(before.bytes)} -> {ui.size(after.bytes)} ({after.bytes / before.bytes:.2f}x)")
    ui.say(f"  loss     {done.loss.value:.2%} (+- {done.loss.error:.2%}) on samples not calibrated on: "
           + ", ".join(map(str, done.loss.scores)))
    for note in done.notes:
        ui.say(f"  note     {note}")


def points(done: Compressed) -> None:
    best = front(done.points)
    table = ui.table("time", "weights", "loss", "", "model", numbers=3)
    for p in sorted(done.points, key=lambda p: p.prices.total):
        mark = "chosen" if p.model is done.model else "Pareto" if p.name in best else ""
        ui.row(table, ui.seconds(p.prices.total), ui.size(p.prices.bytes), f"{p.loss.value:.2%}", mark, p.name,
               style="bold" if mark == "chosen" else "")
    ui.out.print(table)


def decision(done: Compressed, layer: str) -> str:
    """What was done to a layer, or why nothing was."""
    steps = [r for r in done.reports if r.layer == layer]
    if layer in done.refused or not steps:
        return done.refused.get(layer, "as it is")
    return " + ".join(f"{r.step} ({r.note})" if r.note else r.step for r in steps)


def decisions(done: Compressed, every: bool) -> None:
    """The layers that take the most time, or all, and what was refused."""
    errors: dict[str, float] = {}
    for r in done.reports:
        errors[r.layer] = max(errors.get(r.layer, 0.0), r.error)
    names = sorted(done.before.seconds, key=lambda n: -done.before.seconds[n])
    shown = names if every else names[:SHOWN]
    table = ui.table("before", "after", "error", "layer", "treatment", numbers=3)
    for n in shown:
        ui.row(table, ui.seconds(done.before.seconds[n]), ui.seconds(done.after.seconds.get(n, 0.0)),
               f"{errors[n]:.1%}" if n in errors else "", n, decision(done, n))
    ui.out.print(table)
    if len(shown) < len(names):
        ui.say(f"… and {len(names) - len(shown)} more (--all)")
    if done.refused:
        ui.say(f"{ui.count(len(done.refused), 'layer')} refused a treatment that gained nothing (the account has each)")
