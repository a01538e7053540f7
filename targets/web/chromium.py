"""Starts this machine's Chromium without a window: alone, to tune in it; driven by playwright, to measure and to test in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
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

GUARD = 'read go; "$@" & cat >/dev/null; kill -9 0'     # of a browser's process group, which ends with our pipe, however we do


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
    path = _found()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(url: str, cpu: int | None = None) -> Iterator[None]:
    """The page in a fresh headless browser that nobody drives (a driver is told of every byte that a page receives), gone when
    the `with` ends. cpu: the one that it is kept on, None for any. Raises DeviceError where there is no Chromium."""
    path = _found()
    with tempfile.TemporaryDirectory(prefix="burnish-browser-", ignore_cleanup_errors=True) as folder:
        words = ("sh", "-c", GUARD, "sh", path, "--headless", *FLAGS, f"--user-data-dir={folder}", url)
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   start_new_session=True)
        assert process.stdin is not None
        try:
            if cpu is not None:
                os.sched_setaffinity(process.pid, {cpu})
            process.stdin.write(b"\n")
            process.stdin.flush()
            yield
        finally:
            process.stdin.close()
            process.wait()


def _found() -> str:
    path = program()
    if path is None:
        raise DeviceError(f"there is no browser on the PATH ({', '.join(NAMES)}): install one, or open the page in your own")
    return path
