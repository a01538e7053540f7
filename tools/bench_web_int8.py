"""Our int8 web packages beside LiteRT.js and onnxruntime-web in int8, in one Chromium: `python -m burnish.tools.bench_web_int8`.

Each runtime has the model in the form that its own tools make of the float model: ours by `burnish.compress`, LiteRT's by
ai-edge-quantizer, onnxruntime's by its quantization (QDQ). All quantize weights and activations.
"""

from __future__ import annotations

import datetime
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from .. import compile, compress, models, tune
from ..models import quantized
from ..models.litert import NoConversion, tflite_int8
from ..targets.web import manifest
from ..targets.web.chromium import launched
from . import npm
from .bench import Row, cells, table
from .bench_web import FULL, QUICK, Effort, warmed, where
from .timing import BUSY, pin, rotate
from .web_runtimes import OURS, PEERS, Site, Tab

console = Console(stderr=True)


def package(name: str, folder: Path, budget: float, records: str, reuse: bool) -> None:
    """Our package of the model in int8, calibrated on random samples, as the peers' are."""
    if reuse and (folder / name / manifest.FILE).exists():
        return
    shapes = models.ZOO[name].inputs
    small = folder / f"{name}.onnx"

    def samples() -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(0)
        for _ in range(16):
            yield {key: rng.random(shape, np.float32) for key, shape in shapes.items()}

    compress(models.build(name), small, calibration_data=samples, shapes=shapes, target="wasm", quantize="int8", prefer="size",
             recover=False, records="none")
    tuned = tune(small, target="wasm", budget=budget, records=records) if budget else None
    compile(small, folder / name, target="wasm", tuned=tuned, records=records if budget else "none")


def measured(name: str, site: Site, effort: Effort) -> Row:
    row, (key, shape), = Row(name, {}), next(iter(models.ZOO[name].inputs.items()))
    files = {OURS.module: f"/ours/{name}/", "ort": f"/zoo/{quantized.build(name).name}"}
    try:
        files["litert"] = f"/zoo/{tflite_int8(name).name}"
    except NoConversion as reason:
        row.missing["LiteRT.js"] = str(reason)
    x = np.random.default_rng(0).random(shape, np.float32)
    with launched() as browser:
        tabs: dict[str, Any] = {}
        for runtime in (OURS, *PEERS):
            if runtime.module in files:
                inputs = site.inputs(name, runtime, {key: x})
                tabs[runtime.name] = Tab(browser, site, runtime.module, model=files[runtime.module], threads=1, inputs=inputs)
        turns = {}
        for label, tab in tabs.items():
            tab.first()
            turns[label] = partial(tab.turn, warmed(tab, effort))
        row.timings = rotate(turns, effort.rounds)
    return row


def page(rows: list[Row], about: str, effort: Effort) -> str:
    lines = [
        "# Int8 in the browser", "",
        f"Written by `{shlex.join(['python', '-m', 'burnish.tools.bench_web_int8', *sys.argv[1:]])}` on {datetime.date.today()}.",
        "", about, "",
        "Weights and activations in int8, inputs and outputs in float32, each model as the runtime's own tools make it of the "
        "float model: ours by `burnish.compress` (activations of 7 bits: WebAssembly's relaxed dot product takes no more on "
        "every CPU), LiteRT's by ai-edge-quantizer, onnxruntime's by onnxruntime.quantization (QDQ). Random weights: latency "
        f"only. Turns of about {effort.turn_s * 1e3:.0f} ms, {effort.rounds} rounds in rotating order; milliseconds per call; "
        "the ratio says how many times as fast burnish is.", "",
        "| model | runtime | p10 | median | spread | ratio |", "|---|---|---:|---:|---:|---:|"]
    for row in rows:
        lines += [f"| {' | '.join((row.model if i == 0 else '', *line))} |" for i, line in enumerate(cells(row))]
    if any(t.noisy for row in rows for t in row.timings.values()):
        lines += ["", BUSY]
    return "\n".join(lines) + "\n"


def main(
    names: Annotated[str, typer.Option("--models", help="Models of the zoo, separated by commas.")] = "mobilenetv2,resnet18",
    quick: Annotated[bool, typer.Option("--quick", help="A few turns only: does it run at all?")] = False,
    budget: Annotated[float, typer.Option("--tune", min=0, help="Seconds to tune each of ours for.")] = 60,
    folder: Annotated[Path, typer.Option(help="Where our packages go.")] = Path("out/bench-web-int8"),
    records: Annotated[str, typer.Option(help="Database of tuning records.")] = "out/bench-web-int8.sqlite",
    reuse: Annotated[bool, typer.Option("--reuse", help="Take packages that are there.")] = False,
    output: Annotated[Path | None, typer.Option("-o", help="Also write the page.")] = None,
) -> None:
    """Times models in int8 in a headless Chromium: burnish, LiteRT.js, onnxruntime-web, in turns."""
    effort = QUICK if quick else FULL
    versions = {str(r.package): npm.newest(str(r.package)) for r in PEERS}
    packages = npm.install(versions)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names.split(","):
        with console.status(f"compressing, tuning and compiling {name}"):
            package(name, folder, budget, records, reuse)
    pin(min(2, len(os.sched_getaffinity(0))))
    with tempfile.TemporaryDirectory() as scratch, Site(packages, folder, Path(scratch)) as site:
        rows = [measured(name, site, effort) for name in names.split(",")]
    Console().print(table(rows))
    if output is not None:
        output.write_text(page(rows, where(1, versions), effort))


if __name__ == "__main__":
    typer.run(main)
