"""`burnish worker`: lends this machine to a farm."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from ..schedules.device import Device
from ..targets.cpu import profile, runner
from ..targets.cpu.fingerprint import fingerprint
from . import ui
from .errors import FarmError

Url = Annotated[str, typer.Argument(metavar="tcp://HOST:PORT", help="The farm's Dask scheduler.", show_default=False)]
Target = Annotated[str, typer.Option(metavar="DEVICE", help="What this machine is in the farm, as in `compile --target`.")]
Builders = Annotated[int | None, typer.Option("--workers", metavar="N", min=1, show_default=False,
                                              help="Processes that build kernels. Default: one for each CPU.")]


def worker(url: Url, target: Target = "native", workers: Builders = None) -> None:
    """Lend this machine to a farm, until its scheduler ends: `dask scheduler` on one machine, this on every other.

    It builds kernels for all and times them for tunes of its own kind of device, which `burnish tune --farm` finds by a label.
    Whoever reaches the scheduler can run any code on its workers: only for machines that trust each other, behind a firewall
    (or `tls://`, with the certificates that Dask's configuration names)."""
    # here, because Dask takes a second to load, and may not be there
    from . import farm, farm_worker

    farm.address(url)
    device = profile.find(target)
    _check_runs_here(device, target)
    runner.program(device)      # now, not in the first trial; and it says what is missing
    farm.quiet()
    builders = workers or profile.cpus()
    ui.say(f"{farm_worker.label(fingerprint(device))}, {ui.count(builders, 'builder')}, for {url}")
    try:
        asyncio.run(farm_worker.serve(url, fingerprint(device), builders, farm.TIMEOUT))
    except Exception as e:
        raise farm.unreachable(url, e) from e
    ui.say(f"{url}: the scheduler ended, or let this worker go")


def _check_runs_here(device: Device, target: str) -> None:
    here = profile.detect()
    missing = sorted(set(device.isa) - set(here.isa))
    if device.arch != here.arch or missing:
        why = f"it lacks {', '.join(missing)}" if device.arch == here.arch else f"it is {here.arch}"
        raise FarmError(f"this machine cannot run what is made for {target}: {why}")
