"""The server side of tuning in a browser: who is let in, what a page may say, when its clock goes. Pages here are a few lines."""

from __future__ import annotations

import asyncio
import json
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, WSServerHandshakeError
from burnish.schedules.measure import RunnerGone, RunnerLost
from burnish.targets.cpu.errors import DeviceError, RunnerError
from burnish.targets.runner import Broken
from burnish.targets.web import runner
from burnish.targets.web.tuning import Browser
from burnish.targets.web.visitor import Hello

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36"
PIXEL = "Mozilla/5.0 (Linux; Android 16; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Mobile Safari/537.36"
IPHONE = ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/150.0 "
          "Mobile/15E148 Safari/604.1")
FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:145.0) Gecko/20100101 Firefox/145.0"
SAFARI = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15"


def hello(**changes: Any) -> dict[str, Any]:
    return {"kind": "hello", "secret": "", "agent": CHROME, "version": "150.0.7871.100", "architecture": "x86", "model": "",
            "cores": 4, "simd": True, "relaxed": True, "resolution": 5e-6} | changes


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser("small.onnx", patience=1.0) as made:
        yield made


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        return e.code


class Page:
    """What a page does, by hand."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.socket = socket

    async def said(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.socket.receive_str(timeout=10))
        return found

    async def enter(self, **changes: Any) -> str:
        """Its secret, or why it is not let in."""
        await self.socket.send_str(json.dumps(hello(**changes)))
        first = await self.said()
        if first["kind"] == "refused":
            return str(first["why"])
        assert (await self.said())["kind"] == "state"
        await self.socket.send_str("visible")
        return str(first["secret"])

    async def command(self) -> tuple[int, bytes]:
        while True:
            message = await self.socket.receive(timeout=10)
            if message.type == WSMsgType.BINARY:
                return struct.unpack_from("<I", message.data)[0], message.data[16:]
            assert message.type == WSMsgType.TEXT, message

    async def answer(self, kind: int, body: bytes = b"") -> None:
        await self.socket.send_bytes(struct.pack("<IIQ", kind, 0, len(body)) + body)


class Pages:
    def __init__(self, browser: Browser) -> None:
        self.url = browser.url.replace("?", "socket?").replace("http", "ws")

    async def __aenter__(self) -> Pages:
        self.session = ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def page(self) -> Page:
        return Page(await self.session.ws_connect(self.url, max_msg_size=0))


# ---- Who is let in


def test_only_the_link_that_was_printed_opens_the_page(browser: Browser) -> None:
    base, token = browser.url.split("?token=")
    assert len(token) >= 20
    for wrong in ("", "?token=", "?token=x", f"?token={token[:-1]}", f"?token={token}x", f"?t={token}", "?token=%ff"):
        assert status(base + wrong) == 403 and status(f"{base}socket{wrong}") == 403, wrong
    with urllib.request.urlopen(browser.url, timeout=10) as answer:
        assert b"<title>burnish tune</title>" in answer.read()
        told = dict(answer.headers)
    assert told["Cross-Origin-Opener-Policy"] == "same-origin" and told["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "unsafe-inline" not in told["Content-Security-Policy"] and told["Cache-Control"] == "no-store"
    for name in ("page.js", "worker.js", "engine.js", "style.css"):
        assert status(base + name) == 200
    for name in ("node.mjs", "package.json", "../tuning.py", "%2e%2e/tuning.py", "x"):
        assert status(base + name) == 404, name


def test_one_page_at_a_time_and_one_browser(browser: Browser) -> None:
    async def visits() -> None:
        async with Pages(browser) as pages:
            first = await pages.page()
            secret = await first.enter()
            assert "another page has opened this link" in await (await pages.page()).enter()
            assert "another page has opened this link" in await (await pages.page()).enter(secret="wrong")
            again = await pages.page()
            assert await again.enter(secret=secret) == secret       # reloaded before the old socket was seen to close
            assert (await first.socket.receive(timeout=10)).type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED)
            await again.socket.close()
            await asyncio.sleep(0.2)
            assert "begun in another browser" in await (await pages.page()).enter(agent=FIREFOX)
            assert len(await (await pages.page()).enter()) >= 20    # the link once more, and nobody is there
            with pytest.raises(WSServerHandshakeError):
                await pages.session.ws_connect(pages.url[:-1])

    asyncio.run(visits())


@pytest.mark.parametrize("said", [
    "", "hello", "[]", "{}", json.dumps(hello(more=1)), json.dumps(hello(agent="x" * 513)), json.dumps(hello(model="m" * 65)),
    json.dumps(hello(cores=0)), json.dumps(hello(cores="4")), json.dumps(hello(resolution=0)), json.dumps(hello(version="1;x")),
    json.dumps(hello(simd=None)), json.dumps(hello(kind="hi")), json.dumps({k: v for k, v in hello().items() if k != "relaxed"})])
def test_a_page_that_does_not_say_who_it_is_is_sent_away(browser: Browser, said: str) -> None:
    async def visit() -> None:
        async with Pages(browser) as pages:
            page = await pages.page()
            await page.socket.send_str(said)
            found = await page.said()
            assert found["kind"] == "refused" and "does not say who it is" in found["why"]

    asyncio.run(visit())
    with pytest.raises(RunnerGone, match="no browser opened the page within 0 s"):
        browser.rig(0.1, True)


# ---- Which device it is


@pytest.mark.parametrize("changes, local, core, system, tools", [
    ({}, False, "v8-x86", "linux", {"chromium": "150.0.7871.100"}),
    ({"agent": PIXEL, "architecture": "arm", "model": "Pixel 8 / <b>"}, True, "v8-arm-Pixel-8-b", "android",
     {"chromium": "150.0.7871.100"}),
    ({"agent": IPHONE, "version": "", "architecture": ""}, False, "jsc-arm", "ios", {"safari": "18_5"}),
    ({"agent": FIREFOX, "version": "", "architecture": ""}, False, "spidermonkey-x86", "windows", {"firefox": "145.0"}),
    ({"agent": SAFARI, "version": "", "architecture": ""}, True, "jsc-unknown", "macos", {"safari": "18.5"}),
    ({"agent": "?", "version": "", "architecture": ""}, True, "unknown-unknown", "unknown", {"browser": "unknown"})])
def test_what_a_browser_is(changes: dict[str, str], local: bool, core: str, system: str, tools: dict[str, str]) -> None:
    told = Hello.model_validate(hello(**changes))
    mark = told.fingerprint(local)
    assert (mark.core, mark.os, mark.arch, mark.lanes) == (core, system, "wasm32", 4) and told.tools == tools


def test_a_browser_of_this_machine_is_the_device_that_node_is() -> None:
    told = Hello.model_validate(hello())
    assert told.fingerprint(True) == runner.fingerprint(told.device) != told.fingerprint(False)


def test_the_build_is_the_one_that_the_browser_runs() -> None:
    assert Hello.model_validate(hello()).device.name == "wasm-relaxed-simd"
    assert Hello.model_validate(hello(relaxed=False)).device.name == "wasm-simd"
    assert Hello.model_validate(hello(relaxed=False)).fingerprint(False).isa == ("simd128",)
    with pytest.raises(DeviceError, match="no WebAssembly SIMD"):
        _ = Hello.model_validate(hello(simd=False, relaxed=False)).device


# ---- Commands and answers


async def begun(browser: Browser, pages: Pages, **changes: Any) -> Page:
    page = await pages.page()
    await page.enter(**changes)
    opening = asyncio.to_thread(browser.open)
    task = asyncio.create_task(opening)
    assert await page.command() == (0, b"")
    await page.answer(0)
    assert await task is browser
    return page


def test_answers_and_what_is_none(browser: Browser) -> None:
    async def talk() -> None:
        async with Pages(browser) as pages:
            page = await begun(browser, pages)
            for kind, body, error, words in [
                    (1, b"no memory", RunnerError, "the runner refuses: no memory"),
                    (2, b"died: trap in k", Broken, "died: trap in k"),
                    (3, b"did not answer within 2 s", Broken, "did not answer within 2 s")]:
                asked = asyncio.create_task(asyncio.to_thread(browser.ask, 5, (b"abc", b"de"), 2.0))
                assert await page.command() == (5, b"abcde")
                await page.answer(kind, body)
                with pytest.raises(error, match=words) as told:
                    await asked
                assert getattr(told.value, "hung", False) == (kind == 3)
            asked = asyncio.create_task(asyncio.to_thread(browser.ask, 4, (), 2.0, 3))
            await page.command()
            await page.answer(0, b"xyz")
            assert await asked == b"xyz"
            with pytest.raises(RunnerError, match="the most is"):
                browser.ask(3, (bytes(66 << 20),), 2.0)
            asked = asyncio.create_task(asyncio.to_thread(browser.ask, 4, (), 2.0, 3))
            await page.command()
            await page.answer(0, b"more")
            with pytest.raises(Broken, match="nonsense: a frame of kind 0 with 4 bytes"):
                await asked

    asyncio.run(talk())


@pytest.mark.parametrize("how", ["close", "nonsense", "silence"])
def test_a_page_that_goes_in_mid_command_is_begun_anew(browser: Browser, how: str) -> None:
    async def talk() -> None:
        async with Pages(browser) as pages:
            page = await begun(browser, pages)
            asked = asyncio.create_task(asyncio.to_thread(browser.ask, 6, (), -4.5 if how == "silence" else 5.0))
            await page.command()
            if how == "close":
                await page.socket.close()
            elif how == "nonsense":
                await page.socket.send_bytes(b"\1\2\3")
            await asyncio.sleep(0.6)
            page = await pages.page()
            await page.enter()
            assert await page.command() == (0, b"")
            await page.answer(0)
            with pytest.raises(RunnerLost, match="did not answer" if how == "silence" else "was closed or reloaded"):
                await asked

    asyncio.run(talk())


def test_its_clock_stands_still_before_the_first_command_and_while_nobody_is_there(browser: Browser) -> None:
    async def talk() -> None:
        async with Pages(browser) as pages:
            page = await begun(browser, pages)
            await asyncio.sleep(0.3)
            assert browser.clock() == 0.0
            asked = asyncio.create_task(asyncio.to_thread(browser.ask, 5, (), 2.0))
            await page.command()
            await page.socket.send_str("hidden")
            await asyncio.sleep(0.9)
            assert (before := browser.clock()) < 0.8
            await page.socket.send_str("visible")
            await asyncio.sleep(0.3)
            assert before + 0.2 < browser.clock() < before + 0.8
            await page.answer(0)
            await asked
            start = browser.clock()
            await page.socket.close()
            await asyncio.sleep(0.9)
            assert browser.clock() - start < 0.8

    asyncio.run(talk())


def test_nobody_is_waited_for_for_ever(browser: Browser) -> None:
    said: list[str] = []
    browser._say = said.append
    start = time.monotonic()
    with pytest.raises(RunnerGone, match="was closed or hidden, and did not come back"):
        browser.open()
    assert 1.0 <= time.monotonic() - start < 4.0
    start = time.monotonic()
    with pytest.raises(RunnerGone):
        browser.open()
    assert time.monotonic() - start < 0.5, "once is enough"
