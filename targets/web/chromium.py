"""Starts this machine's Chromium without a window, driven by playwright: to tune in it, to measure in it, to test in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..cpu.errors import DeviceError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# A browser that nobody looks at has nothing to fetch, to update or to greet with.
FLAGS = ("--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--no-sandbox")


def program() -> str | None:
    """The path of a Chromium or Chrome on the PATH; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def launched(flags: Sequence[str] = ()) -> Iterator[Browser]:
    """A fresh headless browser with a profile of its own, gone when the `with` ends. flags: more of Chromium's.

    Raises DeviceError where there is no Chromium, or no playwright."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise DeviceError("driving a browser takes playwright: pip install 'burnish[browser]'") from None
    path = program()
    if path is None:
        raise DeviceError(f"there is no browser on the PATH ({', '.join(NAMES)}): install one, or open the page in your own")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()
