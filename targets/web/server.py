"""A small HTTP server in a thread of its own: for demo pages, for tuning in a browser, for tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

# What lets a page share memory between threads, and gives it a clock of 5 us instead of 100.
ISOLATED: Mapping[str, str] = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp",
                               "Cross-Origin-Resource-Policy": "same-origin"}
START_S = 10.0


class Server:
    """Serves `app` from its making until `close`. port: 0 for any that is free. Raises OSError where it cannot listen there."""

    def __init__(self, app: web.Application, host: str = "127.0.0.1", port: int = 0) -> None:
        self.loop = asyncio.new_event_loop()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self.port = asyncio.run_coroutine_threadsafe(self._listen(host, port), self.loop).result(START_S)
        except BaseException:
            self.close()
            raise
        self.url = f"http://{'localhost' if host in ('127.0.0.1', '0.0.0.0') else host}:{self.port}/"

    async def _listen(self, host: str, port: int) -> int:
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        found: int = self._runner.addresses[0][1]
        return found

    def close(self) -> None:
        """May be called again."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self.loop).result(START_S)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def files(folder: Path, headers: Mapping[str, str] = ISOLATED,
          instead: Mapping[str, bytes] = MappingProxyType({})) -> web.Application:
    """The files of a folder, `index.html` for a folder in it. headers: of every answer; instead: JSON files by path, in place of
    the folder's."""
    app = web.Application(middlewares=[with_headers(headers)])
    root = folder.resolve()

    async def answer(request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        if path in instead:
            return web.Response(body=instead[path], content_type="application/json")
        place = (root / path.replace("\0", "")).resolve()
        inside = place.is_relative_to(root)
        if inside and place.is_dir():
            if path and not path.endswith("/"):     # else the links in index.html would lead elsewhere
                raise web.HTTPFound(f"/{path}/")
            place /= "index.html"
        if not inside or not place.is_file():
            raise web.HTTPNotFound(text=f"there is no {request.path}")
        kind = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}.get(place.suffix)
        fresh = {"Cache-Control": "no-cache"}       # a model is compiled again, and the names of code and weights change
        return web.FileResponse(place, headers={"Content-Type": kind, **fresh} if kind else fresh)

    app.router.add_get("/{path:.*}", answer)
    return app


def with_headers(headers: Mapping[str, str]) -> Middleware:
    """A middleware that sends these with every answer, errors included."""
    @web.middleware
    async def add(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as e:
            e.headers.update(headers)
            raise
        if not response.prepared:
            response.headers.update(headers)
        return response
    return add
