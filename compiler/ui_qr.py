"""What lets a phone open a page of this machine: the address on the network, and a QR code in the terminal."""

from __future__ import annotations

import io
import socket

import segno
from rich.console import Console
from rich.text import Text

from . import ui

ANYWHERE = ("0.0.0.0", "::")
COLOURS = "#ffffff on #000000"      # whatever the terminal's own are: many phones cannot read it the other way round


def reachable(host: str) -> str:
    """Where others find a server that listens at `host`: for one that listens everywhere, this machine's own address."""
    if host not in ANYWHERE:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))     # sends nothing, only asks which way it would go; nobody has this address
        except OSError:
            return "localhost"
        found: str = s.getsockname()[0]
        return found


def show(url: str, console: Console = ui.out) -> None:
    """Prints the code of an address, for a camera."""
    drawn = io.StringIO()
    segno.make_qr(url, error="l").terminal(drawn, border=2, compact=True)
    for line in drawn.getvalue().splitlines():
        console.print(Text(line, COLOURS), soft_wrap=True)
