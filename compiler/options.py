"""Arguments and options that several commands of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import targets
from .variants import MOST

ModelFile = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX model.", show_default=False)]
ArtifactDir = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A folder that `compile` wrote.", show_default=False)]
Shapes = Annotated[list[str] | None, typer.Option("--shape", metavar="NAME=1x3x224x224", show_default=False,
                                                  help="Fixes an input with free dimensions. Repeat for several inputs.")]
Target = Annotated[str, typer.Option(metavar="DEVICE", help=f"{', '.join(targets.NAMES)}, or a device of targets/cpu/devices.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text and tables.")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Of the random sample input.")]
Threads = Annotated[int | None, typer.Option(metavar="N", min=1, show_default=False,
                                             help="Default: as many as CPUs that this process may use.")]
Workers = Annotated[int | None, typer.Option(metavar="N", min=1, show_default=False,
                                             help="Processes that build kernels. Default: one for each CPU.")]
Rows = Annotated[int, typer.Option("--kernels", metavar="N", min=0, help="Rows of the table.")]
Every = Annotated[bool, typer.Option("--all", help="Show every one, not just the ten that matter most.")]
Records = Annotated[str | None, typer.Option(metavar="FILE or URL", show_default=False, help=(
    "Database of tuning records: an SQLite file, an SQLAlchemy URL, or none. Default: the user's own."))]
Exact = Annotated[bool, typer.Option("--exact", help=(
    "Only algorithms that round as the definition does, but for the order of sums: no Winograd."))]
Variants = Annotated[int, typer.Option(metavar="N", min=1, max=MOST, help=(
    "Of wasm packages: kernels for each heavy task, of which the visitor's device takes the best, by `tune` of the package."))]
Farm = Annotated[str | None, typer.Option(metavar="tcp://HOST:PORT", show_default=False, help=(
    "Tune on a Dask cluster of machines that trust each other (burnish[farm]), whose workers `burnish worker` starts."))]
