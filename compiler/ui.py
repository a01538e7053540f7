"""What the command line shows: progress, tables, errors. Progress and errors go to standard error, results to standard output."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from .driver import Progress as Report
from .errors import BurnishError, Refused

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@contextlib.contextmanager
def progress(title: str) -> Iterator[Report]:
    """A bar for each step of long work, where someone watches a terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task(title, total=None)

        def report(step: str, done: int, total: int) -> None:
            bars.update(task, description=step, completed=done, total=total or None)

        yield report


def refusals(error: Refused) -> Table:
    table = Table(title=f"{len(error.refusals)} nodes cannot be compiled", title_justify="left")
    for name in ("node", "op", "opset", "reason", "what to do"):
        table.add_column(name, overflow="fold")
    for r in error.refusals:
        table.add_row(r.node, r.op, str(r.opset or ""), r.reason, r.hint)
    return table


def fail(error: Exception, as_json: bool) -> NoReturn:
    """Says what is wrong and ends the program: with 2 where the user can mend it, else 1."""
    code = error.exit_code if isinstance(error, BurnishError) else 2
    if as_json:
        found = [vars(r) for r in error.refusals] if isinstance(error, Refused) else []
        print_json({"error": str(error), "kind": type(error).__name__, "refusals": found})
    elif isinstance(error, Refused):
        err.print(refusals(error))
        err.print(f"[bold red]error:[/] {len(error.refusals)} nodes cannot be compiled; the table above says why")
    else:
        err.print("[bold red]error:[/]", str(error), markup=False, soft_wrap=True) if not err.is_terminal else err.print(
            f"[bold red]error:[/] {_plain(str(error))}", soft_wrap=True)
    sys.exit(code)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, default=str))


def size(count: int | float) -> str:
    """Bytes as a person reads them."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def seconds(value: float) -> str:
    return f"{value * 1e6:.1f} µs" if value < 1e-3 else f"{value * 1e3:.2f} ms" if value < 1 else f"{value:.2f} s"
