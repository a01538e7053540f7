"""Tuning in a real Chromium: kernels that trap and hang, a model, pages that are reloaded, hidden and closed, what one sees."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from burnish import models
from burnish.compiler import api, ui_tune
from burnish.schedules.database import Database
from burnish.schedules.measure import Call, RunnerDied, RunnerLost
from burnish.schedules.tuner import Result, State
from burnish.targets.cpu import toolchain
from burnish.targets.cpu.errors import RunnerError
from burnish.targets.target import Rig
from burnish.targets.web import chromium, profile, runner
from burnish.targets.web.runner import WebRunner
from burnish.targets.web.tuning import Browser

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(chromium.program() is None, reason="there is no Chromium here")

KERNELS = """
#include <stdint.h>
void note(int32_t *list, int32_t begin, int32_t end) { list[++list[0]] = end; }
void work(char *unused, int32_t begin, int32_t end) { for (volatile int64_t n = 0; n < end; n++) {} }
void wild(int *x, int32_t begin, int32_t end) { *(volatile int *)0xfffffff0u = begin; }
void illegal(char *unused, int32_t begin, int32_t end) { __builtin_trap(); }
void deep(volatile char *x, int32_t begin, int32_t end) { volatile char y[4096]; y[0] = *x; deep(y, begin, end); *x = y[1]; }
void forever(char *unused, int32_t begin, int32_t end) { for (volatile int n = 0;;) n++; }
"""
HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "k.c").write_text(KERNELS)
    toolchain.cc("-target", "wasm32-freestanding", "-c", "-O1", "-fno-sanitize=undefined", "-fno-builtin", "-w", "-o", "k.o",
                 "k.c", folder=folder)
    return (folder / "k.o").read_bytes()


@pytest.fixture(scope="module")
def chrome() -> Iterator[playwright.Browser]:
    with chromium.launched() as browser:
        yield browser


@pytest.fixture
def served() -> Iterator[Browser]:
    with Browser("lenet5.onnx", patience=20.0) as made:
        yield made


@pytest.fixture
def page(chrome: playwright.Browser, served: Browser) -> Iterator[playwright.Page]:
    context = chrome.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(served.url)
    yield page
    context.close()
    assert not errors


# ---- The runner


@pytest.fixture
def web(served: Browser, page: playwright.Page, kernels: bytes) -> Iterator[WebRunner]:
    with WebRunner(served.open, 2.0) as r:
        r.load([kernels])
        r.allocate(1 << 16)
        yield r


def test_kernels_run_and_are_timed(web: WebRunner) -> None:
    web.write(0, np.zeros(8, np.int32))
    web.run([Call("note", (0,), 7), Call("note", (0,), 9)])
    assert web.read(0, (3,), "int32").tolist() == [2, 7, 9]
    [[fast, slow]] = web.time([[Call("work", (0,), 50_000), Call("work", (0,), 500_000)]], 5, 10.0)
    assert len(fast) == len(slow) == 5 and 4 < np.median(slow) / np.median(fast) < 25
    data = np.random.default_rng(0).integers(0, 255, 40 << 20, np.uint8)
    web.allocate(data.nbytes)
    web.write(0, data)
    np.testing.assert_array_equal(web.read(0, data.shape, "uint8"), data)
    with pytest.raises(RunnerError, match="no loaded module has a kernel unknown"):
        web.run([Call("unknown", (0,), 1)])


@pytest.mark.parametrize("symbol, why", [("wild", "out of bounds"), ("illegal", "unreachable"), ("deep", "out of bounds"),
                                         ("forever", "did not answer within 2")])
def test_it_works_again_after_a_kernel_has_killed_it(web: WebRunner, kernels: bytes, symbol: str, why: str) -> None:
    with pytest.raises(RunnerDied, match=why if symbol == "forever" else f"{why}.*{symbol}") as told:
        web.run([Call(symbol, (0,), 1)])
    assert told.value.hung == (symbol == "forever") and not isinstance(told.value, RunnerLost)
    with pytest.raises(RunnerError, match="no loaded module"):     # it is empty
        web.run([Call("note", (0,), 1)])
    web.load([kernels])
    web.allocate(64)
    web.run([Call("note", (0,), 5)])
    assert web.read(0, (2,), "int32").tolist() == [1, 5]


def test_what_was_measured_in_a_hidden_tab_is_measured_again(web: WebRunner, page: playwright.Page) -> None:
    """The page waits until it is seen, and the time of the command does not go meanwhile."""
    page.evaluate(HIDE, True)
    found: list[np.ndarray] = []
    asked = threading.Thread(target=lambda: found.extend(web.time([[Call("work", (0,), 1000)]], 3, 0.5)[0]))
    asked.start()
    asked.join(9.0)     # more than the command may take
    assert asked.is_alive() and "Paused while this tab is hidden" in page.inner_text("main")
    page.evaluate(HIDE, False)
    asked.join(20.0)
    assert len(found[0]) == 3


# ---- A tune


class Tune:
    """Of lenet5, in a thread of its own; a browser's driver wants this one."""

    def __init__(self, served: Browser, records: Path, budget: float) -> None:
        self.served, self.states = served, list[State]()
        self.result: Result | None = None
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self.run, args=(records, budget))
        self.thread.start()

    @contextmanager
    def rig(self) -> Iterator[Rig]:
        yield self.served.rig(30.0, False)

    def run(self, records: Path, budget: float) -> None:
        self.result = api.tune(models.build("lenet5"), target="wasm", budget=budget, workers=1, records=str(records),
                               rig=self.rig(), watch=self.watch)

    def watch(self, state: State) -> None:
        self.served.show(ui_tune.shown(state))
        with self.changed:
            self.states.append(state)
            self.changed.notify_all()

    def wait(self, done: Callable[[State], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: bool(self.states) and done(self.states[-1]), 240), self.states[-1:]

    def end(self) -> Result:
        self.thread.join(240)
        assert self.result is not None
        return self.result


def test_a_page_that_is_reloaded_in_mid_tune(served: Browser, page: playwright.Page, tmp_path: Path) -> None:
    """The tune goes on where it was, no candidate is blamed, and the page says how far it is."""
    tune = Tune(served, tmp_path / "r.sqlite", 30.0)
    tune.wait(lambda s: s.trials > 0)
    page.screenshot(path=str(tmp_path / "tuning.png"))
    assert "Trying faster variants" in page.inner_text("main") and "lenet5.onnx" in page.inner_text("h1")
    before = tune.states[-1].trials
    page.reload()
    tune.wait(lambda s: s.trials > before)
    page.reload()
    found = tune.end()
    page.wait_for_selector("[data-mood=done]")
    page.screenshot(path=str(tmp_path / "done.png"))
    assert found.trials > before and found.failures == {} and found.latency < found.first
    assert all("timed again" in note for note in found.notes)
    with Database.open(str(tmp_path / "r.sqlite")) as database:
        kept = list(database.records())
    assert len(kept) == found.trials and all(r.verified and r.fingerprint.core.startswith("v8-") for r in kept)
    assert page.inner_text("#trials") == str(found.trials)


def test_a_page_that_is_closed_ends_the_tune_with_what_is_there(served: Browser, page: playwright.Page, tmp_path: Path) -> None:
    served._patience = 2.0
    tune = Tune(served, tmp_path / "r.sqlite", 600.0)
    tune.wait(lambda s: s.trials > 0)
    page.goto("about:blank")
    found = tune.end()
    assert found.trials > 0 and found.elapsed < 300
    assert any("did not come back" in note for note in found.notes)
    with Database.open(str(tmp_path / "r.sqlite")) as database:
        assert database.count() == found.trials


def test_a_second_page_is_told_that_it_comes_too_late(chrome: playwright.Browser, served: Browser, page: playwright.Page) -> None:
    served.rig(20.0, True)
    other = chrome.new_context().new_page()
    other.goto(served.url)
    other.wait_for_selector("[data-mood=stopped]")
    assert "another page has opened this link" in other.inner_text("main")
    other.context.close()


def test_from_the_command_line(tmp_path: Path) -> None:
    records = tmp_path / "records.sqlite"
    words = ["tune", str(models.build("lenet5")), "--target", "wasm", "--browser", "--headless", "--budget", "8s", "--records",
             str(records), "--json", "--threads", "1"]
    done = subprocess.run([sys.executable, "-c", "from burnish.compiler.program import main; main()", *words], check=False,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "tuning in v8-" in done.stderr and "relaxed-simd" in done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert found["notes"] == [] and found["trials"] > 0 and 0 < found["tuned_s"] <= found["untuned_s"] * 1.001
    with Database.open(str(records)) as database:
        kept = list(database.records())
    assert {r.fingerprint for r in kept} == {runner.fingerprint(profile.load("relaxed-simd"))}
    assert all(r.tools["chromium"].count(".") == 3 and "node" not in r.tools for r in kept)
