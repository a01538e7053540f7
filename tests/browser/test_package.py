"""A web package in a real Chromium: with and without the headers for threads, in a Web Worker, under a strict policy, and when
the network or a file fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import web
from burnish.schedules.numerics import relative_error
from burnish.targets.web import chromium, driver, manifest
from burnish.targets.web.server import ISOLATED, Server
from web_model import Made

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.skipif(chromium.program() is None, reason="no Chromium on the PATH")

STRICT = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; worker-src 'self'"
# The first folder of an address says with which headers its files come, or which file fails and how.
HEADERS: Mapping[str, Mapping[str, str]] = {"plain": {}, "strict": {**ISOLATED, "Content-Security-Policy": STRICT}}
Fault = Callable[[bytes], bytes | None]
FAULTS: Mapping[str, tuple[str, Fault]] = {
    "flipped": (".weights", lambda b: b[:1000] + bytes([b[1000] ^ 1]) + b[1001:]),
    "short": (".weights", lambda b: b[:-64]),
    "truncated": (".wasm", lambda b: b[:len(b) // 2]),
    "other": (".wasm", lambda b: bytes(len(b))),
    "missing": (".weights", lambda b: None),
    "codeless": (".wasm", lambda b: None),
}
PAGE = '<!doctype html><html lang="en"><title>test</title>'
WORKER = """
    import { load } from "./index.js";
    onmessage = async ({ data: { options, given } }) => {
        const m = await load(options), { logits } = await m.run({ image: Float32Array.from(given) });
        postMessage({ logits: [...logits], build: m.build, threads: m.threads });
    };"""


@dataclass
class Tab:
    """A page, and what its console and its unhandled errors said."""

    page: Page
    console: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def run(self, code: str, given: Any = None) -> Any:
        """What `code` returns, as the body of an async function that sees `load`, `BurnishError`, `fails` and `given`."""
        return self.page.evaluate("async (given) => {" + """
            const { load, BurnishError } = await import(new URL("index.js", location.href).href);
            const fails = async (what) => {
                try { await what(); } catch (e) { return e instanceof BurnishError ? e.code : `not ours: ${e}`; }
                return "nothing";
            };
        """ + code + "}", given)

    def logits(self, options: str, image: np.ndarray) -> Any:
        return self.run(f"""
            const m = await load({options}), {{ logits }} = await m.run({{ image: Float32Array.from(given) }});
            m.dispose();
            return {{ logits: [...logits], build: m.build, threads: m.threads }};""", image.ravel().tolist())


def application(folder: Path) -> web.Application:
    async def answer(request: web.Request) -> web.StreamResponse:
        how, name = request.match_info["how"], request.match_info["name"]
        headers = HEADERS.get(how, ISOLATED)
        if name in ("page.html", "work.js"):
            kind = "text/html" if name == "page.html" else "text/javascript"
            return web.Response(text=PAGE if name == "page.html" else WORKER, content_type=kind, headers=headers)
        place = folder / name
        if not place.is_file():
            raise web.HTTPNotFound
        data: bytes | None = place.read_bytes()
        if how in ("cut", "slow") and name.endswith(".weights"):
            return await partly(request, place.read_bytes(), headers, stay=how == "slow")
        if how in FAULTS and name.endswith(FAULTS[how][0]):
            data = FAULTS[how][1](place.read_bytes())
        if data is None:
            raise web.HTTPNotFound(headers=headers)
        kind = {".js": "text/javascript", ".wasm": "application/wasm"}.get(place.suffix, "application/octet-stream")
        return web.Response(body=data, content_type=kind, headers=headers)

    async def partly(request: web.Request, data: bytes, headers: Mapping[str, str], stay: bool) -> web.StreamResponse:
        """Half of the file; then the connection breaks, or nothing comes for a minute."""
        response = web.StreamResponse(headers={**headers, "Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[:len(data) // 2])
        if stay:
            await asyncio.sleep(60)
        elif request.transport is not None:
            request.transport.abort()
        return response

    app = web.Application()
    async def icon(request: web.Request) -> web.Response:
        return web.Response(status=204)

    app.router.add_get("/favicon.ico", icon)
    app.router.add_get("/{how}/{name}", answer)
    return app


@pytest.fixture(scope="module")
def url(lenet_folder: Path) -> Iterator[str]:
    with Server(application(lenet_folder)) as s:
        yield s.url


Open = Callable[[str], Any]


@pytest.fixture
def tab(browser: Browser, url: str) -> Iterator[Open]:
    """Opens a page of the package, of a profile of its own. Nothing may go unhandled in it."""
    @contextmanager
    def opened(how: str) -> Iterator[Tab]:
        with browser.new_context() as context:
            made = Tab(context.new_page())
            made.page.on("console", lambda said: made.console.append(said.text))
            made.page.on("pageerror", lambda error: made.errors.append(str(error)))
            made.page.goto(f"{url}{how}/page.html")
            yield made
            made.page.wait_for_timeout(50)
            assert made.errors == []
    yield opened


def right(found: Any, lenet: Made) -> bool:
    return relative_error(np.array(found["logits"], np.float32).reshape(1, 10), lenet.outputs[0]) < 1e-4


def test_with_the_headers(tab: Open, lenet: Made) -> None:
    with tab("isolated") as t:
        for options, build, threads in (("{ threads: 2 }", "relaxed-simd", 2), ("{ threads: 1 }", "relaxed-simd", 1),
                                        ('{ threads: 2, build: "simd" }', "simd", 2),
                                        ('{ threads: 1, build: "simd" }', "simd", 1)):
            found = t.logits(options, lenet.inputs[0])
            assert right(found, lenet) and (found["build"], found["threads"]) == (build, threads)
        assert t.console == []


def test_without_the_headers(tab: Open, lenet: Made) -> None:
    """One thread, and one line that says why and what to do; none where one thread is what was asked for."""
    with tab("plain") as t:
        assert right(t.logits("{ threads: 1 }", lenet.inputs[0]), lenet) and t.console == []
        found = t.logits("{ threads: 2 }", lenet.inputs[0])
        assert right(found, lenet) and found["threads"] == 1
        (line,) = t.console
        assert "Cross-Origin-Opener-Policy: same-origin" in line and "Cross-Origin-Embedder-Policy: require-corp" in line


@pytest.mark.parametrize("threads", [1, 2])
def test_under_a_strict_policy(tab: Open, lenet: Made, threads: int) -> None:
    with tab("strict") as t:
        found = t.logits(f"{{ threads: {threads} }}", lenet.inputs[0])
        assert right(found, lenet) and found["threads"] == threads and t.console == []
        refused = t.page.evaluate("""() => new Promise((done) => setTimeout(() => {     // code of the debugger's may do anything
            try { done(Function("return 1")()); } catch (e) { done(e.name); }
        }))""")
        assert refused == "EvalError", "the policy is in force"


@pytest.mark.parametrize("how", ["isolated", "strict", "plain"])
@pytest.mark.parametrize("threads", [1, 2])
def test_in_a_web_worker(tab: Open, lenet: Made, how: str, threads: int) -> None:
    with tab(how) as t:
        found = t.page.evaluate("""([options, given]) => new Promise((done, fail) => {
            const worker = new Worker(new URL("work.js", location.href), { type: "module" });
            worker.onmessage = ({ data }) => { worker.terminate(); done(data); };
            worker.onerror = (e) => fail(new Error(e.message));
            worker.postMessage({ options, given });
        })""", [{"threads": threads}, lenet.inputs[0].ravel().tolist()])
        assert right(found, lenet) and found["threads"] == (1 if how == "plain" else threads)
        assert len(t.console) == (how == "plain" and threads == 2)


@pytest.mark.parametrize(("how", "code"), [
    ("flipped", "FILE_DAMAGED"), ("short", "FILE_DAMAGED"), ("truncated", "FILE_DAMAGED"), ("other", "FILE_DAMAGED"),
    ("missing", "FILE_MISSING"), ("codeless", "FILE_MISSING"), ("cut", "NETWORK")])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_fails_has_a_code_and_may_be_tried_again(tab: Open, lenet: Made, how: str, code: str, threads: int) -> None:
    """In the same page, by the same loader, from where the files are whole."""
    with tab(how) as t:
        assert t.run(f"return fails(() => load({{ threads: {threads} }}))") == code
        found = t.logits(f'{{ threads: {threads}, base: new URL("../isolated/", location.href) }}', lenet.inputs[0])
        assert right(found, lenet) and found["threads"] == threads


def test_no_network_at_all(tab: Open, lenet: Made) -> None:
    with tab("isolated") as t:
        t.run("")       # the loader is there
        t.page.context.set_offline(True)
        assert t.run("return fails(() => load())") == "NETWORK"
        t.page.context.set_offline(False)
        assert right(t.logits("{ threads: 2 }", lenet.inputs[0]), lenet)


def test_a_reload_while_it_loads(tab: Open, lenet: Made, url: str) -> None:
    with tab("slow") as t:
        t.run("""return new Promise((half) => {
            load({ threads: 2, onProgress: ({ loaded, total }) => { if (loaded > total / 3) half(loaded); } });
        })""")
        t.page.reload()
        t.page.goto(f"{url}isolated/page.html")
        assert right(t.logits("{ threads: 2 }", lenet.inputs[0]), lenet) and t.console == []


@pytest.mark.parametrize("threads", [1, 2])
def test_a_thousand_runs_leave_memory_as_it_was(tab: Open, lenet_folder: Path, threads: int) -> None:
    with tab("isolated") as t:
        cdp = t.page.context.new_cdp_session(t.page)

        def heap() -> int:
            cdp.send("HeapProfiler.collectGarbage")
            found = cdp.send("Runtime.getHeapUsage")
            return int(found["usedSize"] + found.get("backingStorageSize", 0))

        run = "for (let n = 0; n < %d; n++) await window.m.run({ image: window.image }); return window.m.memoryBytes;"
        t.run(f"window.m = await load({{ threads: {threads} }}); window.image = new Float32Array(784);")
        held, before = t.run(run % 200), heap()
        assert t.run(run % 1000) == held and heap() - before < 50_000
        assert threads > 1 or held == manifest.read(lenet_folder).builds["relaxed-simd"].pages * driver.PAGE


def test_models_come_and_go(tab: Open, lenet: Made) -> None:
    """Fifty of them: what is disposed of gives its memory and its workers back."""
    with tab("isolated") as t:
        t.run("for (let n = 0; n < 50; n++) (await load({ threads: 2 })).dispose();")
        for _ in range(100):
            if t.page.workers:
                t.page.wait_for_timeout(100)
        assert t.page.workers == []
        assert right(t.logits("{ threads: 2 }", lenet.inputs[0]), lenet)
