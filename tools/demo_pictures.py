"""Takes the pictures of the demo page that the docs show: python -m burnish.tools.demo_pictures"""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from .. import compile, models
from ..models.data import imagenet
from ..targets.web import chromium, demo, server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ViewportSize

MODEL = "efficientnet_lite0"
PREPARED = {"mean": [127 / 255] * 3, "std": [128 / 255] * 3}
DOCS = Path(__file__).parents[1] / "docs"
SIZES: dict[str, ViewportSize] = {"phone": {"width": 390, "height": 844}, "desktop": {"width": 1280, "height": 864}}
WIDEST = 800        # pixels of one picture;
GAP = 24            # between light and dark
COLOURS = 256       # enough for a cat, at a third of the bytes


def shot(browser: Browser, url: str, size: ViewportSize, scheme: str, picture: bytes) -> Image.Image:
    """The page once it has seen the picture and timed itself."""
    with browser.new_context(viewport=size, color_scheme="dark" if scheme == "dark" else "light") as context:
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector("#sample:enabled")
        page.wait_for_timeout(3000)
        page.set_input_files("#file", {"name": "cat.png", "mimeType": "image/png", "buffer": picture})
        page.wait_for_selector(".scores .name:not(:empty)")
        page.wait_for_timeout(1000)
        return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        package = compile(models.build(MODEL), Path(name) / MODEL, target="wasm").path
        settings = json.dumps({**PREPARED, "labels": imagenet.class_names()}).encode()
        picture = io.BytesIO()
        imagenet.cat().save(picture, "PNG")
        with server.Server(server.files(package, instead={demo.SETTINGS: settings})) as s, chromium.launched() as browser:
            for kind, size in SIZES.items():
                shots = [shot(browser, f"{s.url}{demo.FOLDER}/", size, x, picture.getvalue()) for x in ("light", "dark")]
                scale = min(1, WIDEST / size["width"])
                w, h = (round(n * scale) for n in shots[0].size)
                both = Image.new("RGB", (2 * w + GAP, h), "#888")
                for n, one in enumerate(shots):
                    both.paste(one.resize((w, h), Image.Resampling.LANCZOS), (n * (w + GAP), 0))
                both.quantize(COLOURS, Image.Quantize.MEDIANCUT, kmeans=8, dither=Image.Dither.NONE).save(
                    DOCS / f"demo-{kind}.png", optimize=True)


if __name__ == "__main__":
    main()
