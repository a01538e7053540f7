"""The command line: `burnish records VERB …`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..schedules import exchange
from ..schedules.database import Added, Database
from ..schedules.device import Device
from ..schedules.exchange import Checker
from ..schedules.records import Fingerprint
from ..targets.cpu import profile
from ..targets.cpu.errors import DeviceError
from ..targets.cpu.fingerprint import fingerprint
from . import ui
from .options import Json, Records

app = typer.Typer(name="records", rich_markup_mode="markdown",
                  help="What tuning has found out: show it, send it to others, take theirs.")

ExportFile = Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="The file to write.", show_default=False)]
ImportFiles = Annotated[list[Path], typer.Argument(metavar="FILE.jsonl…", help="Files that `export` wrote.", show_default=False)]
Others = Annotated[list[str], typer.Argument(metavar="URL…", help="Databases, each by its path or URL.", show_default=False)]


@app.command("export", epilog="Example: `burnish records export zen5.jsonl`")
def export_command(file: ExportFile, records: Records = None) -> None:
    """Write every record to a file, one a line, for others to import."""
    with Database.open(records, create=False) as database, ui.progress(f"export {file.name}") as report:
        total = database.count()
        count = exchange.write(file, database.records(), lambda done: report(f"export {file.name}", done, total))
    ui.say(f"{file}: {ui.count(count, 'record')}")


@app.command("import", epilog="Examples:\n\n`burnish records import zen5.jsonl`\n\n"
                              "`burnish records import *.jsonl --records postgresql://burnish@db/records`")
def import_command(files: ImportFiles, records: Records = None) -> None:
    """Take the records of others. What is known already stays as it is.

    Every line is checked; where one is broken nothing is imported. A kernel of an imported record is used only once its output
    has been found right on this machine."""
    with Database.open(records) as database, ui.progress("import") as report:
        added = database.import_files(files, Checker(this_machine()), lambda done: report("import", done, 0))
    say_added(database, added)


@app.command("merge", epilog="Examples:\n\n`burnish records merge laptop.sqlite`\n\n"
                             "`burnish records merge postgresql://burnish@db/records`")
def merge_command(others: Others, records: Records = None) -> None:
    """Take the records of other databases, as `import` does those of files."""
    added = Added(0, 0)
    with Database.open(records) as database:
        for url in others:
            with Database.open(url, create=False) as other, ui.progress(f"merge {other}"):
                new, known = database.merge(other, Checker(this_machine()))
            added = Added(added.new + new, added.known + known)
    say_added(database, added)


@app.command("stats", epilog="Example: `burnish records stats`")
def stats_command(records: Records = None, json: Json = False) -> None:
    """Show how much is known of each device and each kind of kernel."""
    with Database.open(records, create=False) as database:
        found = database.stats()
    if json:
        ui.print_json({"records": str(database), "stats": [asdict(s) for s in found]})
        return
    table = ui.table("tasks", "trials", "failed", "best", "family", "device", "system", numbers=4)
    for s in found:
        ui.row(table, str(s.tasks), str(s.trials), str(s.failures), ui.seconds(s.best), s.family, s.fingerprint.core,
               f"{s.fingerprint.os}, {s.fingerprint.arch}")
    ui.out.print(table)
    ui.say(f"{database}: {ui.count(sum(s.trials for s in found), 'record')} of "
           f"{ui.count(len({s.fingerprint for s in found}), 'device')}; best: all tasks together, each by its fastest kernel")


def this_machine() -> tuple[Device, Fingerprint] | None:
    """None where it is one that burnish has no target for: it may still keep the records of others."""
    try:
        device = profile.detect()
    except DeviceError:
        return None
    return device, fingerprint(device)


def say_added(database: Database, added: Added) -> None:
    ui.say(f"{database}: {ui.count(added.new, 'new record')}, {added.known} known before")
