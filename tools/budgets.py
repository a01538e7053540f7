"""What tuning is worth, and how soon: `python -m burnish.tools.budgets`.

Each model is compiled untuned (the least analytic cost), by the cost model's picks, and after tuning for each of several budgets,
every time from an empty database; all are then timed in one interleaved run.
"""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from .. import compile, models, tune
from ..compiler import api, driver, importer, targets
from ..compiler.planner import signature
from ..compiler.sample import oracle, sample_inputs
from .bench import cpu, sample
from .peers import burnish_runner
from .timing import BUSY, Timing, interleave, pin

console = Console(stderr=True)
DEFAULT = "mobilenetv2,resnet50,deit_tiny"
UNTUNED, PICKED = "untuned", "cost model"


@dataclass(frozen=True)
class Variant:
    """A model compiled one way. seconds: that tuning took; trials: candidates that it tried."""

    name: str
    artifact: Path
    seconds: float = 0.0
    trials: int = 0


def untuned(name: str, folder: Path) -> Variant:
    """Every kernel by its default."""
    model = models.build(name)
    graph = importer.load(model, dict(models.ZOO[name].inputs))
    original, inputs = graph.clone(), sample_inputs([signature(v) for v in graph.graph.inputs], 0)
    target = targets.find("native")
    built = driver.build_model(driver.lower_model(graph), target.devices, name)
    api.write(built, folder / UNTUNED, list(inputs.values()), oracle(original, inputs), target, {})
    return Variant(UNTUNED, folder / UNTUNED)


def variants(name: str, budgets: list[float], folder: Path) -> list[Variant]:
    """Each in a folder of its own below `folder`."""
    model, shapes = models.build(name), models.ZOO[name].inputs
    made = [untuned(name, folder)]
    compile(model, folder / PICKED, shapes=shapes, records="none")
    made.append(Variant(PICKED, folder / PICKED))
    for budget in budgets:
        label, start = f"{budget:.0f} s", time.monotonic()
        with console.status(f"{name}: tuning for {label}"):
            found = tune(model, shapes=shapes, budget=budget, records=str(folder / f"{label}.sqlite"))
        seconds = time.monotonic() - start
        compile(model, folder / label, shapes=shapes, tuned=found, records="none")
        made.append(Variant(label, folder / label, seconds, found.trials))
    return made


def measured(name: str, made: list[Variant], threads: int, rounds: int) -> dict[str, Timing]:
    inputs = sample(name)
    return interleave({v.name: partial(burnish_runner(v.artifact, threads), inputs) for v in made}, rounds)


def lines(name: str, made: list[Variant], times: dict[str, Timing]) -> list[str]:
    """Rows of a Markdown table; the ratio is the speed, of that after the longest tuning."""
    best = times[made[-1].name]
    rows = []
    for v in made:
        t = times[v.name]
        effort = f"{v.trials} | {v.seconds:.0f}" if v.trials else " | "
        rows.append(f"| {name if v is made[0] else ''} | {v.name} | {effort} | {t.p10 * 1e3:.3f} | {t.median * 1e3:.3f} | "
                    f"{t.spread:.0%} | {1 / best.faster_than(t):.3f} |")
    return rows


def page(rows: list[str], noisy: bool, threads: int, rounds: int) -> str:
    command = shlex.join(["python", "-m", "burnish.tools.budgets", *sys.argv[1:]])
    head = ["# What tuning is worth, and how soon", "", f"Written by `{command}` on {datetime.date.today()}.", "",
            f"CPU: {cpu()}; {threads} thread{'s' * (threads > 1)}; Python {platform.python_version()}, numpy {np.__version__}.",
            "", "Each model was compiled untuned (every kernel by the least analytic cost), with the cost model's picks (nothing "
            "measured), and after tuning for some seconds from an empty database; then all were timed in one run, "
            f"{rounds} rounds in rotating order. Times in milliseconds. The speed is that of the longest tuning's in proportion: "
            "0.95 takes 5 % longer. Tuning ends early where nothing promises a gain any more.", "",
            "| model | kernels | trials | tuning, s | p10 | median | spread | speed |", "|---|---|---:|---:|---:|---:|---:|---:|"]
    return "\n".join([*head, *rows, *(["", BUSY] if noisy else [])]) + "\n"


def main(
    names: Annotated[str, typer.Option("--models", help="Models of the zoo, separated by commas.")] = DEFAULT,
    budgets: Annotated[str, typer.Option(help="Seconds, separated by commas, the longest last.")] = "60,600",
    threads: Annotated[int, typer.Option(min=1)] = 1,
    rounds: Annotated[int, typer.Option(min=3)] = 30,
    output: Annotated[Path | None, typer.Option("-o", help="The page, such as docs/budgets.md.")] = None,
) -> None:
    """How fast models are untuned, by the cost model's picks, and after tuning for each budget."""
    rows, noisy = [], False
    affinity = os.sched_getaffinity(0)
    for name in names.split(","):
        with tempfile.TemporaryDirectory(prefix="burnish-budgets-") as folder:
            os.sched_setaffinity(0, affinity)       # tuning may use every CPU
            made = variants(name, [float(b) for b in budgets.split(",")], Path(folder))
            pin(threads)
            times = measured(name, made, threads, rounds)
        noisy |= any(t.noisy for t in times.values())
        rows += lines(name, made, times)
        console.print("\n".join(rows[-len(made):]), highlight=False, markup=False)
        if output:      # what is known so far
            output.write_text(page(rows, noisy, threads, rounds))


if __name__ == "__main__":
    typer.run(main)
