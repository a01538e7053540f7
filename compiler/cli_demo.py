"""`burnish demo`: the page of a web package, served with the headers that it needs."""

from __future__ import annotations

import errno
import json
import math
import signal
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ..targets.cpu.errors import ArtifactError
from ..targets.web import demo as page
from ..targets.web import manifest, server
from . import ui, ui_qr
from .errors import BurnishError

FIRST_PORT, PORTS = 8080, 20
HERE = "127.0.0.1"

Package = Annotated[Path, typer.Argument(metavar="FOLDER", show_default=False, help="What `compile --target wasm` wrote.")]
Port = Annotated[int | None, typer.Option(metavar="N", min=0, max=65535, show_default=False, help=(
    f"Default: the first free one from {FIRST_PORT}."))]
Host = Annotated[str, typer.Option(metavar="ADDRESS", help=(
    "0.0.0.0 lets others on the network in and prints a QR code. Without https they have neither live camera nor threads."))]
Labels = Annotated[Path | None, typer.Option(metavar="FILE", show_default=False, help="Names of the classes, one on each line.")]
PerChannel = Annotated[str | None, typer.Option(metavar="A,B,C", show_default=False, help=(
    "Of pictures, for each channel, in units of 0..1, as for `run`. The page offers the usual ones."))]
Open = Annotated[bool, typer.Option("--open", help="Open it in this machine's browser.")]


def demo(package: Package, port: Port = None, host: Host = HERE, labels: Labels = None, mean: PerChannel = None,
         std: PerChannel = None, show: Open = False) -> None:
    """Serve the demo page of a web package until Ctrl-C: pictures, the camera or arrays in, results and latency out.

    The package serves itself where there is Node but no burnish: `npx ./FOLDER`."""
    try:
        manifest.read(package)
    except ArtifactError as e:
        raise BurnishError(f"{e}; a web package is what `burnish compile model.onnx -o FOLDER --target wasm` writes") from e
    if not (package / page.PAGE).is_file():
        raise BurnishError(f"{package} has no demo page: compile the model again")
    given = {"labels": labels and lines(labels), "mean": mean and channels("mean", mean), "std": std and channels("std", std)}
    settings = json.dumps({name: value for name, value in given.items() if value}).encode()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})       # in the server's thread, too: it waits for `sigwait`
    with serve(package, {page.SETTINGS: settings}, host, port) as running:
        where = f"{running.url}{page.FOLDER}/"
        ui.say(f"{where}   (Ctrl-C ends it)", "bold")
        if host != HERE:
            outside = f"http://{ui_qr.reachable(host)}:{running.port}/{page.FOLDER}/"
            ui.say(outside)
            ui_qr.show(outside)
        if show:
            webbrowser.open(where)
        signal.sigwait({signal.SIGINT})
    ui.say("")


def serve(package: Path, instead: dict[str, bytes], host: str, port: int | None) -> server.Server:
    """At `port`, or at the first free one."""
    ports = range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else (port,)
    for n in ports:
        try:
            return server.Server(server.files(package, instead=instead), host, n)
        except OSError as e:
            if e.errno != errno.EADDRINUSE:
                raise BurnishError(f"cannot listen at {host}, port {n}: {e.strerror}") from e
    raise BurnishError(f"port {ports[-1]} is taken: give another with --port, or 0 for any")


def lines(file: Path) -> list[str]:
    try:
        found = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as e:
        raise BurnishError(f"cannot read the labels in {file}: {getattr(e, 'strerror', None) or e}") from None
    if not found:
        raise BurnishError(f"{file} is empty: it should have the name of a class on each line")
    return found


def channels(option: str, text: str) -> list[float]:
    try:
        values = [float(v) for v in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)) or (option == "std" and 0 in values):
        raise BurnishError(f"--{option} {text}: give one number or three with commas between them" +
                           (", none of them 0" if option == "std" else ""))
    return values
