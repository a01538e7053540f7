"""What half a minute in a browser is worth beside trying everything: `python -m burnish.tools.web_budget`.

In one page of this machine's Chromium, each model is tuned for the budget from an empty database, and then every candidate of
every kernel is tried, with the same finals; the untuned kernels and both choices then take turns in whole runs there.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from .. import models
from ..compiler import driver, importer
from ..compiler.browse import OPENED_S, spared_cpu
from ..compiler.driver import Lowered
from ..compiler.planner import signature
from ..compiler.sample import sample_inputs
from ..compiler.scene import scene_of
from ..compiler.tune import evaluator, tools, tune
from ..schedules.candidate import Candidate, default, options
from ..schedules.database import Database
from ..schedules.evaluate import Batch
from ..schedules.numerics import typical
from ..schedules.records import TuningRecord
from ..schedules.scene import situ
from ..schedules.tuner import Result, Settings
from ..targets.target import Rig
from ..targets.web import chromium
from ..targets.web.tuning import Browser
from .bench import cpu

console = Console(stderr=True)
DEFAULT = "mobilenetv2,resnet18"
TOGETHER = 24           # candidates that are timed together
ROUNDS, LONGEST_S = 30, 60.0


@dataclass(frozen=True)
class Row:
    """Milliseconds of the model with the kernels that nobody chose, with those of the budget and with the best of all; trials and
    seconds that each took."""

    name: str
    untuned: float
    quick: float
    full: float
    trials: tuple[int, int]
    seconds: tuple[float, float]

    def __str__(self) -> str:
        cells = (self.name, f"{self.untuned:.2f}", f"{self.quick:.2f}", self.trials[0], f"{self.seconds[0]:.0f}",
                 f"{self.full:.2f}", self.trials[1], f"{self.seconds[1]:.0f}", f"{self.full / self.quick:.3f}")
        return f"| {' | '.join(map(str, cells))} |"


@contextmanager
def page() -> Iterator[Rig]:
    """This machine's Chromium, on a CPU of its own where there are two."""
    with Browser("a benchmark", say=console.print) as browser, spared_cpu() as spared, chromium.opened(browser.url, spared):
        yield browser.rig(OPENED_S, apart=spared is not None)


def exhaust(lowered: Lowered, rig: Rig, database: Database) -> None:
    """Every candidate of every task is tried, and kept."""
    tasks = {g.task.key: g.task for g in lowered.groups}
    with evaluator(rig, None, 0) as made:
        for task in tasks.values():
            menu = options(task, rig.device)
            batches = [Batch(task, tuple(menu[n:n + TOGETHER])) for n in range(0, len(menu), TOGETHER)]
            for _, trials in made.trials(batches if len(menu) > 1 else []):
                database.add([TuningRecord(task, t.candidate, rig.fingerprint, tools(rig), t.status, t.samples, t.baseline, (),
                                           t.error, True, t.message, datetime.now(UTC).isoformat()) for t in trials])


def beside(lowered: Lowered, inputs: dict[str, np.ndarray], rig: Rig, found: Sequence[Result]) -> tuple[float, ...]:
    """Milliseconds of the model untuned and with each of these choices, in turns."""
    scene = scene_of(lowered, inputs)
    ways: dict[str, list[Candidate]] = {}
    for key, task in scene.tasks.items():
        untuned = default(task, rig.device)
        assert untuned is not None
        ways[key] = [untuned, *(r.chosen[key] for r in found)]
    with evaluator(rig, None, 0) as made:
        taken = situ(scene, {key: list(dict.fromkeys(w)) for key, w in ways.items()}, made, ROUNDS, LONGEST_S)
    return tuple(1e3 * sum(typical(taken[key][w[n]]) for key, w in ways.items()) for n in range(1 + len(found)))


def measured(name: str, budget: float, folder: Path) -> Row:
    graph = importer.load(models.build(name), dict(models.ZOO[name].inputs))
    inputs = sample_inputs([signature(v) for v in graph.graph.inputs], 0)
    lowered = driver.lower_model(graph)
    with page() as rig, Database.open(str(folder / "quick.sqlite")) as little, Database.open(str(folder / "full.sqlite")) as all_:
        quick = tune(lowered, inputs, rig, Settings(budget), little)
        tell(name, quick, quick.elapsed)
        start = time.monotonic()
        exhaust(lowered, rig, all_)
        full = tune(lowered, inputs, rig, Settings(10 * LONGEST_S), all_)
        seconds = time.monotonic() - start
        tell(name, full, seconds)
        untuned, tuned, best = beside(lowered, inputs, rig, (quick, full))
    return Row(name, untuned, tuned, best, (quick.trials, full.trials), (quick.elapsed, seconds))


def tell(name: str, found: Result, seconds: float) -> None:
    console.print(f"{name}: {found.trials} trials in {seconds:.0f} s", dict(found.failures), *found.notes, highlight=False)


def kept(page: Path) -> dict[str, str]:
    """The rows of a page that is there already, by model."""
    lines = page.read_text().splitlines() if page.exists() else []
    return {line.split(" ")[1]: line for line in lines if line.startswith("| ") and not line.startswith("| model ")}


def text(rows: Iterable[str], budget: float, browser: str) -> str:
    command = shlex.join(["python", "-m", "burnish.tools.web_budget", *sys.argv[1:]])
    return "\n".join([
        "# What half a minute in a browser is worth", "",
        f"Written by `{command}` on {date.today()}, rows of other models before.", "",
        f"CPU: {cpu()}; {browser} without a window; one thread.", "",
        f"In one page, each model was tuned for {budget:.0f} s from an empty database; then every candidate of every kernel was "
        "tried, and the finals were the same. Afterwards the untuned kernels and both choices took turns in whole runs of the "
        f"model, {ROUNDS} rounds. Times in milliseconds; the speed is the budget's, of that of trying everything.", "",
        "| model | untuned | tuned | trials | s | everything | trials | s | speed |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *rows]) + "\n"


def main(
    names: Annotated[str, typer.Option("--models", help="Models of the zoo, separated by commas.")] = DEFAULT,
    budget: Annotated[float, typer.Option(help="Seconds.")] = 30.0,
    output: Annotated[Path | None, typer.Option("-o", help=(
        "The page, such as docs/budgets-web.md; its rows of other models stay."))] = None,
) -> None:
    """How near tuning in a browser for a short time comes to trying everything."""
    rows = kept(output) if output else {}
    with page() as rig:
        browser = ", ".join(f"{name} {version}" for name, version in rig.tools.items())
    for name in names.split(","):
        with tempfile.TemporaryDirectory(prefix="burnish-budgets-") as folder:
            rows[name] = str(measured(name, budget, Path(folder)))
        console.print(rows[name], highlight=False, markup=False)
        if output:      # what is known so far
            output.write_text(text(rows.values(), budget, browser))


if __name__ == "__main__":
    typer.run(main)
