"""Tuning in a browser, as the command line does it: says where the page is, opens it, and shows there how far the tune is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..schedules.measure import RunnerGone
from ..schedules.tuner import State
from ..targets.target import Rig
from ..targets.web import chromium
from ..targets.web.tuning import Browser
from . import ui, ui_qr, ui_tune
from .errors import TuningRefused

HERE, ANYWHERE = "127.0.0.1", "0.0.0.0"
OPENED_S, INVITED_S = 60.0, 900.0       # until a browser has come that is opened here, or that the user opens


class Invitation:
    """model: that is tuned; lan: let other devices on the network in; headless: open the page in a browser of this machine,
    without a window."""

    def __init__(self, model: Path, lan: bool = False, headless: bool = False) -> None:
        self._model, self._lan, self._headless = model, lan, headless
        self._browser: Browser | None = None

    @contextmanager
    def rig(self) -> Iterator[Rig]:
        """The browser that opens the page. Raises DeviceError where there is none to open, TuningRefused where none comes."""
        name = ui.printable(self._model.stem)
        with ExitStack() as stack:
            try:
                browser = stack.enter_context(Browser(name, ANYWHERE if self._lan else HERE, say=ui.warn))
            except OSError as e:
                raise TuningRefused(f"the page for the browser cannot be served: {e.strerror}") from e
            cpu = stack.enter_context(spared_cpu())
            if self._headless:
                stack.enter_context(chromium.opened(browser.url, cpu))
            else:
                invite(browser, self._lan)
            try:
                rig = browser.rig(OPENED_S if self._headless else INVITED_S, apart=cpu is not None)
            except RunnerGone as e:
                raise TuningRefused(str(e)) from e
            ui.tell(f"tuning in {rig.fingerprint.core} on {rig.fingerprint.os} "
                    f"({', '.join(map(' '.join, rig.tools.items()))}; {', '.join(rig.fingerprint.isa)})")
            self._browser = browser
            yield rig

    def watch(self, state: State) -> None:
        """Shows the page how far the tune is."""
        if self._browser is not None:
            self._browser.show(ui_tune.shown(state))


@contextmanager
def spared_cpu() -> Iterator[int | None]:
    """A CPU that this thread, and all that it starts, keeps off meanwhile, for a browser on this machine; None where there is but
    one."""
    *ours, last = sorted(os.sched_getaffinity(0))
    if not ours:
        yield None
        return
    os.sched_setaffinity(0, ours)
    try:
        yield last
    finally:
        os.sched_setaffinity(0, {*ours, last})


def invite(browser: Browser, lan: bool) -> None:
    """On standard error, where people look and programs do not."""
    ui.tell("Open this page in the browser to tune for, and keep it in front:")
    ui.tell(f"  {browser.url}")
    if lan:
        there = browser.url_at(ui_qr.reachable(ANYWHERE))
        ui.tell(f"  {there}")
        ui_qr.show(there, ui.err)
