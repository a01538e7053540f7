"""What the command line shows: progress, tables, errors. Progress and errors go to standard error, results to standard output."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from .driver import Progress as Report
from .errors import BurnishError, Refused

# No markup, no emoji codes: a model's own names, with square brackets and colons, are shown as they are.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


@contextlib.contextmanager
def progress(title: str) -> Iterator[Report]:
    """A bar for each step of long work, where someone watches a terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task(title, total=None)

        def report(step: str, done: int, total: int) -> None:
            bars.update(task, description=step, completed=done, total=total or None)

        yield report


def table(*columns: str, numbers: int = 0) -> RichTable:
    """An empty table. numbers: how many of the first columns hold numbers, which stand at the right and are never broken."""
    made = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for n, name in enumerate(columns):
        if n < numbers:
            made.add_column(name, justify="right", no_wrap=True)
        else:
            made.add_column(name, overflow="fold")
    return made


def row(table: RichTable, *cells: str, style: str = "") -> None:
    table.add_row(*map(printable, cells), style=style)


def printable(text: str) -> str:
    """Without what a terminal would obey: names come from files that nobody has vouched for."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def say(text: str, style: str = "") -> None:
    out.print(Text(printable(text), style), soft_wrap=True)


def tell(text: str) -> None:
    """What is no result: on standard error."""
    err.print(Text(printable(text)), soft_wrap=True)


def refusals(error: Refused) -> RichTable:
    made = table("node", "op", "opset", "reason", "what to do")
    for r in error.refusals:
        row(made, r.node, r.op, str(r.opset or ""), r.reason, r.hint)
    return made


def fail(error: Exception, as_json: bool) -> NoReturn:
    """Says what is wrong and ends the program: with 2 where the user can mend it, else 1."""
    code = error.exit_code if isinstance(error, BurnishError) else 2
    if as_json:
        found = [vars(r) for r in error.refusals] if isinstance(error, Refused) else []
        print_json({"error": str(error), "kind": type(error).__name__, "refusals": found})
    elif isinstance(error, Refused):
        err.print(refusals(error))
        complain(f"{count(len(error.refusals), 'node')} cannot be compiled; the table above says why")
    else:
        complain(str(error))
    sys.exit(code)


def complain(text: str) -> None:
    err.print(Text.assemble(("error: ", "bold red"), printable(text)), soft_wrap=True)


def warn(text: str) -> None:
    """Of what went wrong and yet did not end the command."""
    err.print(Text.assemble(("note: ", "bold yellow"), printable(text)), soft_wrap=True)


def count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}{'es' if what.endswith('ch') else 's'}"


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
