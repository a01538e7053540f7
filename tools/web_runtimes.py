"""The runtimes that tools/bench_web.py compares, each in a page of its own: how a page is served, opened and asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import numpy as np
from aiohttp import web
from aiohttp.typedefs import Handler

from .. import models
from ..models.litert import NoConversion, tflite
from ..targets.web import manifest
from ..targets.web.server import Server, files
from .peers import Unavailable

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAGES = Path(__file__).parent / "web"


@dataclass(frozen=True)
class Runtime:
    """module: `tools/web/<module>.js`; package: npm's name of a peer's, which lies under /npm/ on the site. Ours has none: the
    packages of the models lie under /ours/."""

    name: str
    module: str
    package: str | None = None

    def model(self, name: str) -> str:
        """The path on the site of a model of the zoo, as `open` in the runtime's module takes it. Raises Unavailable."""
        if self.module == "litert":
            try:
                return f"/zoo/{tflite(name).name}"
            except NoConversion as reason:
                raise Unavailable(f"no .tflite: {reason}") from None
        return f"/zoo/{models.build(name).name}" if self.package else f"/ours/{name}/"

    def takes(self, array: np.ndarray) -> np.ndarray:
        """The input in the dtype that the runtime's form of the model has."""
        return array.astype(np.int32) if self.module == "litert" and array.dtype == np.int64 else array


OURS = Runtime("burnish", "burnish")
PEERS = (Runtime("LiteRT.js", "litert", "@litertjs/core"), Runtime("onnxruntime-web", "ort", "onnxruntime-web"))
RUNTIMES = (OURS, *PEERS)


class Site:
    """Serves everything that a page needs until the `with` ends, and notes what was asked for.

    packages: the `node_modules` of the peers, None where none takes part; ours: the folder with our packages, by model;
    scratch: where the inputs go."""

    def __init__(self, packages: Path | None, ours: Path, scratch: Path) -> None:
        self._folders = {"bench": PAGES, "ours": ours, "inputs": scratch, "zoo": models.build("lenet5").parent}
        if packages:
            self._folders["npm"] = packages
        self._scratch = scratch
        self._asked: set[str] = set()
        app = web.Application(middlewares=[self._note])
        for name, folder in self._folders.items():
            app.add_subapp(f"/{name}/", files(folder))
        self._server = Server(app)
        self.url = self._server.url

    @web.middleware
    async def _note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._asked.add(request.path)
        return await handler(request)

    def asked(self) -> set[str]:
        """The paths asked for since the last call of this."""
        found, self._asked = self._asked, set()
        return found

    def code(self, paths: set[str]) -> list[Path]:
        """The files among `paths` that are a runtime's own, without pages, inputs and weights."""
        found = [self._folders[folder] / rest for _, folder, rest in (path.split("/", 2) for path in sorted(paths))
                 if folder in ("npm", "ours")]
        return [file for file in found if file.is_file() and file.suffix != ".weights"]

    def weights(self, name: str) -> str:
        """The path of our package's weights of a model."""
        folder = self._folders["ours"] / name
        return f"/ours/{name}/{next(f for f in manifest.read(folder).files if f.endswith('.weights'))}"

    def inputs(self, name: str, runtime: Runtime, arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Puts a model's inputs on the site; gives what a page is told of them."""
        told = []
        for n, (key, array) in enumerate(arrays.items()):
            content = runtime.takes(array)
            file = f"{name}_{runtime.module}_{n}.bin"
            (self._scratch / file).write_bytes(content.tobytes())
            told.append({"name": key, "dtype": content.dtype.name, "shape": list(content.shape), "file": f"/inputs/{file}"})
        return told

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()


@dataclass(frozen=True)
class First:
    """seconds: to the first outputs, from the start of the navigation and from that of the page's script; outputs: flat."""

    seconds: tuple[float, float]
    outputs: list[np.ndarray]


class Tab:
    """A page in a context, hence a process and a cache, of its own; loads and runs the model once, whatever is asked.

    module: of tools/web; request: what bench.js takes besides. Gone when the `with` ends."""

    def __init__(self, browser: Browser, site: Site, module: str, **request: Any) -> None:
        self._context = browser.new_context()
        self.page = self._context.new_page()
        self.page.goto(f"{site.url}bench/index.html?{urlencode({'request': json.dumps({'runtime': module, **request})})}")

    def _ask(self, call: str) -> Any:
        from playwright.sync_api import Error

        try:
            return self.page.evaluate(f"() => window.bench.{call}")
        except Error as e:
            raise Unavailable(e.message.splitlines()[0].removeprefix("Page.evaluate: ")) from None

    def first(self) -> First:
        """Raises Unavailable."""
        found = self._ask("first()")
        return First((found["ms"] / 1e3, (found["ms"] - found["began"]) / 1e3), [np.array(output) for output in found["outputs"]])

    def turn(self, calls: int) -> np.ndarray:
        """Seconds of each call."""
        return np.array(self._ask(f"turn({calls})")) / 1e3

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._context.close()
