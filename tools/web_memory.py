"""Whether a page's memory stays flat over many runs, as Chromium and the system count it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .web_runtimes import Tab

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SETTLE = 50             # runs before the first look: V8 compiles, and keeps what it compiled
FLAT = 1 << 20          # bytes by which a measurement may differ without meaning anything


@dataclass(frozen=True)
class Growth:
    """Bytes before and after `runs` runs. page: what performance.measureUserAgentSpecificMemory says of the page, after its
    garbage collection; private: what the renderers have to themselves in memory, after one that was asked for."""

    runs: int
    page: tuple[int, int]
    private: tuple[int, int]

    @property
    def flat(self) -> bool:
        return self.page[1] - self.page[0] <= FLAT


def grown(browser: Browser, tab: Tab, runs: int) -> Growth:
    """browser: has no other page. Raises Unavailable."""
    tab.turn(SETTLE)
    page, private = page_bytes(tab), private_bytes(browser, tab)
    tab.turn(runs)
    return Growth(runs, (page, page_bytes(tab)), (private, private_bytes(browser, tab)))


def page_bytes(tab: Tab) -> int:
    """Takes Chromium up to half a minute: it waits for its garbage collector."""
    found: int = tab.page.evaluate("performance.measureUserAgentSpecificMemory().then(({ bytes }) => bytes)")
    return found


def private_bytes(browser: Browser, tab: Tab) -> int:
    """Resident and not shared, of all renderers (one is a spare, idle)."""
    session = tab.page.context.new_cdp_session(tab.page)
    session.send("HeapProfiler.collectGarbage")
    session.detach()
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    return sum(resident(p["id"]) for p in processes if p["type"] == "renderer")


def resident(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kb) << 10 for kb in re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", text, re.MULTILINE))
