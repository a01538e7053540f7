"""What one sees of a tuning: a live table while it runs, and the table of what it found."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..schedules.title import title
from ..schedules.tuner import Goal, Result, State
from . import ui

ROWS, PAGE_ROWS = 10, 5
PHASES = {"start": "building the untuned kernels", "trials": "trying candidates", "finals": "timing the best inside the model",
          "done": "done"}


@contextlib.contextmanager
def live(name: str) -> Iterator[Callable[[State], None]]:
    """Shows each State where someone watches a terminal. Its clock goes on while kernels are built."""
    if not ui.err.is_terminal:
        yield lambda state: None
        return
    shown: list[Callable[[], RenderableType]] = [lambda: Text(f"tune {ui.printable(name)}: reading the model", "bold")]

    def watch(state: State) -> None:
        start, below = time.monotonic() - state.elapsed, picture(state)     # here: the state changes while the screen is drawn
        shown[0] = lambda: Group(head(name, state, time.monotonic() - start), below)

    with Live(console=ui.err, transient=True, refresh_per_second=4, get_renderable=lambda: shown[0]()):
        yield watch


def head(name: str, state: State, elapsed: float) -> Table:
    line = Table.grid(padding=(0, 1))
    line.add_row(Text(f"tune {ui.printable(name)}: {PHASES[state.phase]}", "bold"),
                 ProgressBar(total=state.budget, completed=min(elapsed, state.budget), width=24),
                 Text(f"{elapsed:.0f} of {state.budget:.0f} s"))
    return line


def picture(state: State) -> Group:
    """The latency, then the tasks that take longest."""
    words = f"{ui.count(state.trials, 'trial')}" + (f", {state.failures} failed" if state.failures else "")
    if state.first:
        words = f"{ui.seconds(state.first)} → {ui.seconds(state.latency)} ({state.first / state.latency:.2f}x), {words}"
    table = ui.table("time", "best", "gain", "may gain", "tried", "task", numbers=5)
    for g in longest(state.goals)[:ROWS]:
        ui.row(table, ui.seconds(g.seconds), ui.seconds(g.seconds * g.best), f"{1 / g.best:.2f}x",
               f"{g.promise / state.first:.1%}" if state.first else "", f"{len(g.tried)}/{len(g.options)}", named(g))
    return Group(Text(words), table)


def longest(goals: Sequence[Goal]) -> list[Goal]:
    """The tasks that leave a choice, by their share of the model's time."""
    return sorted((g for g in goals if len(g.options) > 1), key=lambda g: -g.seconds)


def named(goal: Goal) -> str:
    return title(goal.task) + (f" (x{goal.count})" if goal.count > 1 else "")


def shown(state: State) -> dict[str, Any]:
    """The same for a page: times in seconds, the tasks that take longest with their share of the model's time."""
    total = sum(g.seconds * g.best for g in state.goals) or 1.0
    tasks = [{"title": named(g), "share": g.seconds * g.best / total, "gain": 1 / g.best}
             for g in longest(state.goals)[:PAGE_ROWS]]
    return {"phase": state.phase, "elapsed": state.elapsed, "budget": state.budget, "first": state.first,
            "latency": state.latency, "trials": state.trials, "tasks": tasks if state.first else []}


def report(result: Result, rows: int) -> None:
    """The result on standard output."""
    table = ui.table("time", "gain", "task", "made by", numbers=2)
    shown = longest(result.goals)
    for g in shown[:rows]:
        key = g.task.key
        ui.row(table, ui.seconds(g.seconds * result.gain[key]), f"{1 / result.gain[key]:.2f}x", named(g), str(result.chosen[key]))
    ui.out.print(table)
    if len(shown) > rows:
        ui.say(f"… and {len(shown) - rows} more (--kernels)")
    failed = "".join(f", {n} {how}" for how, n in result.failures.items())
    ui.say(f"model {ui.seconds(result.first)} → {ui.seconds(result.latency)}, {result.first / result.latency:.2f}x "
           f"({ui.count(result.trials, 'trial')}{failed}, {result.elapsed:.0f} s)", "bold green")
    tell(result)


def tell(result: Result) -> None:
    """What went wrong on the way, on standard error."""
    for note in result.notes:
        ui.warn(note)


def data(result: Result) -> dict[str, Any]:
    """The result as JSON. Times in seconds."""
    tasks = [{"task": g.task.key, "title": title(g.task), "count": g.count, "untuned_s": g.seconds,
              "tuned_s": g.seconds * result.gain[g.task.key], "tried": len(g.tried), "options": len(g.options),
              "chosen": result.chosen[g.task.key].data} for g in longest(result.goals)]
    return {"untuned_s": result.first, "tuned_s": result.latency, "trials": result.trials, "failures": dict(result.failures),
            "elapsed_s": result.elapsed, "notes": result.notes, "tasks": tasks}
