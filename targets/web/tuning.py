"""Kernels are measured in a browser: the page that does it, and the channel to it through whatever reloads the page goes.

Over the page's socket go binary frames as cpu/runner_c/main.c has them, with four kinds of answers: 0 the answer, 1 words of
why not, 2 and 3 words of how the page's worker died or hung (then it is gone); command 0 starts a worker anew. What is said
in text (JSON) concerns the page itself: who it is, that it is hidden, what it is to show.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import math
import secrets
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Any, Self

from aiohttp import WSMsgType, web
from pydantic import ValidationError

from ...schedules.measure import RunnerGone, RunnerLost
from ..cpu.errors import RunnerError
from ..runner import Broken, Part
from ..target import Rig
from .runner import WebRunner
from .server import ISOLATED, Server, with_headers
from .visitor import Hello

LOOPBACK = ("127.0.0.1", "::1")
PAGE = Path(__file__).parent / "runner_js"
FILES = {"": "text/html", "style.css": "text/css", "page.js": "text/javascript", "worker.js": "text/javascript",
         "engine.js": "text/javascript"}
HEADERS = {**ISOLATED, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "Content-Security-Policy": (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; worker-src 'self'; connect-src 'self' ws:; "
    "img-src data:")}
HEAD = Struct("<IIQ")       # what, limit in seconds, size of the body
BEGIN = 0
ANSWERED, REFUSED, DIED, HUNG = range(4)
LARGEST = 65 << 20          # bytes of a frame
WORDS = 4096                # bytes of an answer that says why not
HELLO_S, BEGIN_S, GRACE_S = 10.0, 30.0, 5.0
ANSWER_S = 10.0             # for a command; a budget is half a minute
SLOWEST = 1 << 20           # bytes a second that the network carries at least
HEARTBEAT_S = 30.0          # a phone that has left the network is found out within it
PATIENCE_S = 180.0


class Browser:
    """The browser that opens the page, one tab at a time: a Channel. Methods are called from one thread, the tuner's.

    title: what is tuned; host: where to listen; patience: seconds that a page that was closed or hidden is waited for; say: is
    told what the user should know. Raises OSError where it cannot listen there.
    """

    def __init__(self, title: str, host: str = "127.0.0.1", patience: float = PATIENCE_S,
                 say: Callable[[str], None] = lambda words: None) -> None:
        self._title, self._patience, self._say = title, patience, say
        self._token, self._secret = secrets.token_urlsafe(16), ""
        self._changed = threading.Condition()       # guards all below, which the server's thread changes
        self._socket: web.WebSocketResponse | None = None       # the page that is there
        self._living: web.WebSocketResponse | None = None       # the page that this life of the runner began in
        self._hello: Hello | None = None
        self._local = False
        self._visible, self._gone = False, False
        self._answer: tuple[int, bytes] | None = None
        self._shown: Mapping[str, Any] = {}
        self._away_since, self._away = time.monotonic(), 0.0
        self._start: float | None = None
        app = web.Application(middlewares=[with_headers(HEADERS)])
        app.router.add_get("/socket", self._visit)
        app.router.add_get("/{file:[a-z.]*}", self._file)
        self._server = Server(app, host)
        self.url = f"{self._server.url}?token={self._token}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            if self._socket is not None:
                self._send(self._socket.send_str(json.dumps({"kind": "ended"})))
        self._server.close()

    def url_at(self, address: str) -> str:
        """The page as another device reaches it."""
        return f"http://{address}:{self._server.port}/?token={self._token}"

    # ---- for the tuner

    def rig(self, limit: float, apart: bool) -> Rig:
        """The browser that has come; it is waited for. apart: as Rig has it, if it is on this machine. Raises RunnerGone where
        none comes within `limit` seconds, DeviceError where it cannot run what is made for it."""
        end = time.monotonic() + limit
        with self._changed:
            while self._hello is None:
                if time.monotonic() >= end:
                    raise RunnerGone(f"no browser opened the page within {limit:.0f} s")
                self._changed.wait(1.0)
            return Rig(self._hello.device, self._hello.fingerprint(self._local),
                       lambda cpu, limit: WebRunner(self.open, min(limit, ANSWER_S)), self._hello.tools, self.clock,
                       apart or not self._local)

    def clock(self) -> float:
        """Seconds since the first kernel came to the page, without those in which no page was there to measure."""
        with self._changed:
            return 0.0 if self._start is None else self._present() - self._start

    def open(self) -> Self:
        """A new life of the page's runner. Waits for a page; raises RunnerGone where none comes."""
        with self._changed:
            while True:
                self._wait_until(lambda: self._here)
                self._living = self._socket
                with contextlib.suppress(_Left):        # reloaded once more
                    self._ask(BEGIN, (), BEGIN_S, 0)
                    return self

    def ask(self, what: int, parts: Sequence[Part], limit: float, most: int = 0) -> bytearray:
        """As Channel has it. Raises RunnerLost, in a new life, where the page was closed or reloaded."""
        try:
            return self._ask(what, parts, limit, most)
        except _Left as e:
            self.open()
            raise RunnerLost(f"the page {e}") from e

    def end(self) -> None:
        """The next life's worker replaces this one's."""

    def show(self, state: Mapping[str, Any]) -> None:
        """What the page is to show, now and after a reload."""
        with self._changed:
            self._shown = state
            if self._socket is not None:
                self._send(self._socket.send_str(json.dumps({"kind": "state", **state})))

    def _ask(self, what: int, parts: Sequence[Part], limit: float, most: int) -> bytearray:
        """Raises _Left where the page is not the one that this life began in."""
        size = sum(map(len, parts))
        if size > LARGEST - HEAD.size:
            raise RunnerError(f"a command of {size} bytes; the most is {LARGEST - HEAD.size}")
        with self._changed:
            self._answer = None
            if what != BEGIN and self._start is None:
                self._start = self._present()
            if self._living is not None and self._living is self._socket:
                self._send(self._living.send_bytes(b"".join((HEAD.pack(what, max(1, math.ceil(limit)), size), *parts))))
            end = self._present() + limit + GRACE_S + size / SLOWEST
            self._wait_until(lambda: self._answer is not None or self._socket is not self._living or self._present() > end,
                             lambda: self._here)
            if self._socket is not self._living or self._living is None:
                raise _Left("was closed or reloaded")
            if self._answer is None:
                self._drop()
                raise _Left(f"did not answer within {limit:g} s")
            kind, body = self._answer
            if kind in (DIED, HUNG):
                raise Broken(body[:WORDS].decode(errors="replace"), hung=kind == HUNG)
            if kind not in (ANSWERED, REFUSED) or len(body) > (most if kind == ANSWERED else WORDS):
                self._drop()
                raise Broken(f"answered nonsense: a frame of kind {kind} with {len(body)} bytes")
            if kind == REFUSED:
                raise RunnerError(f"the runner refuses: {body.decode(errors='replace')}")
            return bytearray(body)

    # ---- both threads, under the lock

    @property
    def _here(self) -> bool:
        return self._socket is not None and self._visible

    def _present(self) -> float:
        """A clock that stands still while nobody is there."""
        return time.monotonic() - self._away - self._absent()

    def _absent(self) -> float:
        """Seconds since there was last a page to measure in."""
        return 0.0 if self._here else time.monotonic() - self._away_since

    def _wait_until(self, done: Callable[[], bool], present: Callable[[], bool] | None = None) -> None:
        """Raises RunnerGone once nobody has been there for `patience` seconds."""
        present, told = present or done, False
        while not done():
            absent = self._absent()
            if not present() and (self._gone or absent > self._patience):
                self._gone = True
                raise RunnerGone("the browser's page was closed or hidden, and did not come back")
            if absent > 3.0 and not told:
                told = True
                self._say(f"the page is {'hidden' if self._socket else 'closed'}; the tune waits for it: {self.url}")
            self._changed.wait(0.5)

    def _set(self, socket: web.WebSocketResponse | None, visible: bool) -> None:
        """Notes who is there, and stops the clock while nobody is."""
        self._away += self._absent()
        self._away_since = time.monotonic()
        self._socket, self._visible, self._gone = socket, visible, self._gone and not (socket and visible)
        self._changed.notify_all()

    def _drop(self) -> None:
        if self._socket is not None:
            self._send(self._socket.close())
        self._set(None, False)

    def _send(self, sending: Coroutine[Any, Any, object]) -> None:
        """Does not wait: whoever is gone is found out by the one who listens to him."""
        async def quietly() -> None:
            with contextlib.suppress(OSError, RuntimeError):
                await sending
        asyncio.run_coroutine_threadsafe(quietly(), self._server.loop)

    # ---- the server's thread

    def _check(self, request: web.Request) -> None:
        if not hmac.compare_digest(request.query.get("token", "").encode(), self._token.encode()):
            raise web.HTTPForbidden(text="This link is not valid (any more): take the one that `burnish tune` prints.\n")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["file"]
        if name not in FILES:
            raise web.HTTPNotFound(text=f"there is no {request.path}")
        if not name:
            self._check(request)
        return web.FileResponse(PAGE / (name or "index.html"), headers={"Content-Type": FILES[name]})

    async def _visit(self, request: web.Request) -> web.StreamResponse:
        self._check(request)
        socket = web.WebSocketResponse(compress=False, max_msg_size=LARGEST, heartbeat=HEARTBEAT_S)
        await socket.prepare(request)
        try:
            hello = Hello.model_validate_json(await socket.receive_str(timeout=HELLO_S))
            why = self._admit(socket, hello, request.remote in LOOPBACK)
        except (ValidationError, TypeError, TimeoutError):
            why = "the page does not say who it is, in the way that this version of burnish understands"
        if why:
            await socket.send_str(json.dumps({"kind": "refused", "why": why}))
            await socket.close()
            return socket
        try:
            await socket.send_str(json.dumps({"kind": "welcome", "secret": self._secret, "title": self._title}))
            await socket.send_str(json.dumps({"kind": "state", **self._shown}))
            async for message in socket:
                if not self._heard(socket, message.type, message.data):
                    break
        finally:
            with self._changed:
                if self._socket is socket:
                    self._set(None, False)
        return socket

    def _admit(self, socket: web.WebSocketResponse, hello: Hello, local: bool) -> str:
        """Why not; empty where the page is now the one that measures."""
        with self._changed:
            known = bool(self._secret) and hmac.compare_digest(hello.secret.encode(), self._secret.encode())
            if self._socket is not None and not known:
                return "another page has opened this link, and measures"
            if self._hello is not None and not self._same(hello, local):
                return "this tune has begun in another browser, and goes on only there"
            if self._socket is not None:
                self._drop()
            self._secret = self._secret if known else secrets.token_urlsafe(16)
            self._hello, self._local = hello, local
            self._set(socket, False)
            return ""

    def _same(self, hello: Hello, local: bool) -> bool:
        """Is it the browser that has come before? A tune is of one."""
        before = self._hello
        return before is not None and (hello.build, hello.agent, hello.model, local) == (
            before.build, before.agent, before.model, self._local)

    def _heard(self, socket: web.WebSocketResponse, kind: WSMsgType, data: Any) -> bool:
        """False where this is nothing that our page says."""
        with self._changed:
            if self._socket is not socket:
                return False
            if kind == WSMsgType.TEXT and data in ("visible", "hidden"):
                self._set(socket, data == "visible")
                return True
            if kind != WSMsgType.BINARY or len(data) < HEAD.size or self._answer is not None:
                return False
            what, _, size = HEAD.unpack_from(data)
            if size != len(data) - HEAD.size:
                return False
            self._answer = what, data[HEAD.size:]
            self._changed.notify_all()
            return True


class _Left(Exception):
    """The page, with the runner in it."""
