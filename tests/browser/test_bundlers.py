"""Web packages as dependencies of an app that vite builds: it brings every file along, unasked, and what is built runs in a real
Chromium."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import ways_model
from burnish.schedules.numerics import relative_error
from burnish.targets.web import chromium, profile
from burnish.targets.web.server import Server, files
from burnish.tools import npm
from web_model import Made, needs_node

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, needs_node,
              pytest.mark.skipif(chromium.program() is None, reason="no Chromium on the PATH")]

VITE = "8.3.8"
APP = {
    "package.json": '{ "type": "module" }',
    "index.html": '<!doctype html><html lang="en"><title>app</title><link rel="icon" href="data:,"><script type="module" '
                  'src="./main.js"></script>',
    "main.js": """
        import * as lenet from "lenet5";
        import * as ways from "ways";
        globalThis.use = async (options, image) => {
            const m = await lenet.load(options), { logits } = await m.run({ image: Float32Array.from(image) });
            m.dispose();
            return { logits: [...logits], threads: m.threads };
        };
        globalThis.tune = async () => {
            const m = await ways.load({ threads: 1, choices: [1, 1] }), { choices } = await m.tune();
            const { y } = await m.run({ x: Float32Array.from({ length: 4096 }, (_, n) => n) });
            return [choices, [...y]];
        };"""}


def called(folder: Path, *words: str) -> None:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def url(lenet_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of what vite builds. npm packs the packages and unpacks them, as if they came from the registry."""
    try:
        vite = npm.install({"vite": VITE}) / ".bin" / "vite"
    except npm.NpmError as e:
        pytest.skip(str(e))
    ways = ways_model.write(tmp_path_factory.mktemp("web") / "ways")
    app = tmp_path_factory.mktemp("app")
    for name, text in APP.items():
        (app / name).write_text(text)
    called(app, "npm", "install", "--install-links", "--offline", "--no-audit", "--no-fund", str(lenet_folder), str(ways))
    called(app, str(vite), "build")
    with Server(files(app / "dist")) as s:
        yield s.url


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """Nothing may be said on its console."""
    with browser.new_context() as context:
        page, said = context.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url)
        yield page
        assert said == []


@pytest.mark.parametrize("build", profile.BUILDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_it_runs(page: Page, lenet: Made, threads: int, build: str) -> None:
    """What only more threads need is fetched for them only."""
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url.split("/")[-1]))
    options = {"threads": threads, "build": build}
    found = page.evaluate("([options, image]) => use(options, image)", [options, lenet.inputs[0].ravel().tolist()])
    assert relative_error(np.array(found["logits"], np.float32).reshape(1, 10), lenet.outputs[0]) < 1e-4
    assert found["threads"] == threads
    assert sorted({name.split("-")[0] for name in asked if name.endswith(".js")}) == ["threads", "worker"][:2 * (threads - 1)]


def test_it_is_tuned(page: Page) -> None:
    choices, y = page.evaluate("tune()")
    assert choices == [2, 0]
    np.testing.assert_array_equal(y, ways_model.EXPECTED)
