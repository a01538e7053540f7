"""The demo page of a web package: a static page that shows what the model does, and a server for it in Node."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path

from ..plan import Plan
from . import text

FOLDER = "demo"
PAGE = f"{FOLDER}/index.html"
SERVER = f"{FOLDER}/serve.mjs"          # the package's command
SETTINGS = f"{FOLDER}/settings.json"    # what the page is told: servers answer with their own in place of the package's


def contents(plan: Plan, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """The page's files, by their path in the package. sizes: bytes of the package's loader, code and weights, by file."""
    files = {f"{FOLDER}/{p.name}": p.read_bytes() for p in sorted((text.FILES / FOLDER).iterdir())}
    loader, team = (sum(sizes.get(name, 0) for name in names) for names in (("index.js", "ways.js"), ("threads.js", "worker.js")))
    weights = sum(size for name, size in sizes.items() if Path(name).suffix == ".weights")
    page = text.fill(PAGE, TITLE=html.escape(plan.name), LOADER=str(loader), TEAM=str(team), WEIGHTS=str(weights))
    return files | {PAGE: page.encode(), SETTINGS: b"{}\n"}
