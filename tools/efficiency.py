"""How near each kernel comes to the machine's ceilings, inside the model: `python -m burnish.tools.efficiency`."""

from __future__ import annotations

import datetime
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .. import compile, models
from ..compiler.measure import LaunchShare, Measurement, measure
from ..targets.cpu import manifest
from .bench import cpu
from .timing import pin

GEMM_LIKE = ("f32-gemm-packed", "f32-gemm-computed", "f32-conv-direct", "f32-conv-narrow", "f32-conv-winograd")
SHOWN = 12

console = Console(stderr=True)


def rate(launches: Sequence[LaunchShare]) -> float:
    """Operations per second of all these together."""
    return sum(x.flops for x in launches) / sum(x.seconds for x in launches) if launches else 0.0


def section(name: str, found: Measurement, templates: dict[str, str]) -> list[str]:
    """A model's part of the page: what its matrix products reach together, the kernels of each template, the longest launches."""
    total = sum(x.seconds for x in found.launches)
    alike = [x for x in found.launches if templates[x.kernel] in GEMM_LIKE]
    lines = [f"## {name}", "", f"{found.p10 * 1e3:.2f} ms. Matrix products and convolutions take "
             f"{sum(x.seconds for x in alike) / total:.0%} of it and reach {rate(alike) / 1e9:.0f} GFLOP/s, "
             f"**{rate(alike) / found.peak_flops:.0%}** of the peak.", "",
             "| made by | launches | time | GFLOP/s | of peak |", "|---|---:|---:|---:|---:|"]
    for template in dict.fromkeys(templates[x.kernel] for x in sorted(found.launches, key=lambda x: -x.seconds)):
        mine = [x for x in found.launches if templates[x.kernel] == template]
        fast = f"{rate(mine) / 1e9:.0f} | {rate(mine) / found.peak_flops:.0%}" if template in GEMM_LIKE else " | "
        lines.append(f"| {template} | {len(mine)} | {sum(x.seconds for x in mine) / total:.1%} | {fast} |")
    lines += ["", "| launch | time | rate | of its ceiling |", "|---|---:|---:|---:|"]
    for x in sorted(found.launches, key=lambda x: -x.seconds)[:SHOWN]:
        speed = f"{x.rate / 1e9:.0f} GFLOP/s" if x.compute_bound else f"{x.rate / 1e9:.1f} GB/s"
        lines.append(f"| {', '.join(x.nodes)[:60].replace('|', ' ')} | {x.seconds * 1e6:.0f} µs | {speed} | {x.of_peak:.0%} |")
    return [*lines, ""]


def main(
    names: Annotated[str, typer.Option("--models", help="Models of the zoo, separated by commas.")] = "resnet50,deit_small",
    exact: Annotated[bool, typer.Option("--exact/--any", help="Without Winograd, whose rate is no use of multipliers.")] = True,
    records: Annotated[str | None, typer.Option(help="Database of tuning records.")] = None,
    rounds: Annotated[int, typer.Option(min=3)] = 60,
    output: Annotated[Path | None, typer.Option("-o", help="The page, such as docs/efficiency.md.")] = None,
) -> None:
    """Compiles models, times every launch on one thread, and compares with the peak of one core."""
    command = shlex.join(["python", "-m", "burnish.tools.efficiency", *sys.argv[1:]])
    lines: list[str] = []
    for name in names.split(","):
        with tempfile.TemporaryDirectory(prefix="burnish-efficiency-") as folder, console.status(name):
            artifact = Path(folder) / name
            compile(models.build(name), artifact, shapes=models.ZOO[name].inputs, exact=exact, records=records)
            templates = {k.symbol: k.template for k in manifest.read(artifact).kernels}
            pin(1)
            found = measure(artifact, 1, rounds, 0)
        lines += section(name, found, templates)
    head = ["# How near the kernels come to the machine", "", f"Written by `{command}` on {datetime.date.today()}.", "",
            f"CPU: {cpu()}; one thread. The ceilings are {found.peak_flops / 1e9:.0f} GFLOP/s of multiply-adds in registers and "
            f"{found.peak_bandwidth / 1e9:.0f} GB/s from memory, both measured. Times are medians of {rounds} runs of the whole "
            "model, each launch between two readings of the clock.", ""]
    page = "\n".join([*head, *lines])
    if output:
        output.write_text(page)
    print(page)


if __name__ == "__main__":
    typer.run(main)
