"""The demo page in a real Chromium: what a visitor drops, chooses, pastes or films, and what the page then shows."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from burnish.compiler import api
from burnish.models import zoo
from burnish.models.data import imagenet, mnist
from burnish.targets.web import chromium, demo, server
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from web_model import Made, dtypes, lenet, lenet_folder

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["dtypes", "lenet", "lenet_folder"]

pytest.importorskip("playwright")
pytestmark = pytest.mark.skipif(chromium.program() is None, reason="no Chromium on the PATH")

CATS = {"tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat"}
LITE0 = {"labels": list(imagenet.class_names()), "mean": [127 / 255] * 3, "std": [128 / 255] * 3}
SIZE = 32, 40       # height, width
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """With a camera that films the cat, and a name for this machine that is not "localhost"."""
    film = tmp_path_factory.mktemp("camera") / "cat.mjpeg"
    imagenet.cat().resize((640, 426)).save(film, "JPEG", quality=95)
    with chromium.launched(["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
                            f"--use-file-for-fake-video-capture={film}", "--host-resolver-rules=MAP demo.test 127.0.0.1"]) as b:
        yield b


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return api.compile(zoo.build("efficientnet_lite0"), tmp_path_factory.mktemp("demo") / "lite0", target="wasm", workers=1,
                       records="none").path


@pytest.fixture(scope="module")
def negative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture to 1 - picture."""
    place = tmp_path_factory.mktemp("demo")
    shape = [1, 3, *SIZE]
    graph = helper.make_graph(
        [helper.make_node("Sub", ["one", "picture"], ["negative"])], "negative",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("negative", TensorProto.FLOAT, shape)], [numpy_helper.from_array(np.float32([1]), "one")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), place / "negative.onnx")
    return api.compile(place / "negative.onnx", place / "out", target="wasm", workers=1, records="none").path


@pytest.fixture(scope="module")
def arrays(dtypes: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dtypes.write(tmp_path_factory.mktemp("demo") / "dtypes")


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens the demo of a package. What goes wrong in the page unseen by the visitor fails the test."""
    unseen: list[str] = []

    @contextmanager
    def opened(folder: Path, settings: Mapping[str, Any], headers: Mapping[str, str], host: str, options: Mapping[str, Any],
               ready: bool) -> Iterator[Page]:
        instead = {demo.SETTINGS: json.dumps(settings).encode()}
        with server.Server(server.files(folder, headers, instead)) as s, browser.new_context(**options) as context:
            page = context.new_page()
            page.on("pageerror", lambda e: unseen.append(str(e)))
            page.on("console", lambda m: unseen.append(m.text) if "Content Security Policy" in m.text else None)
            page.goto(f"http://{host}:{s.port}/demo/")
            if ready:
                page.wait_for_selector("#sample:enabled")
            yield page

    with contextlib.ExitStack() as stack:
        def visit(folder: Path, settings: Mapping[str, Any] | None = None, headers: Mapping[str, str] = server.ISOLATED,
                  host: str = "localhost", ready: bool = True, **options: Any) -> Page:
            return stack.enter_context(opened(folder, settings or {}, headers, host, options, ready))

        yield visit
    assert not unseen


def png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def choose(page: Page, name: str, content: bytes, field: str = "#file") -> None:
    page.set_input_files(field, {"name": name, "mimeType": "", "buffer": content})


def give(page: Page, event: str, target: str, name: str, content: bytes) -> None:
    """Drops or pastes a file."""
    page.evaluate("""([type, target, name, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(bytes)], name));
        const about = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
        const event = type === "paste" ? new ClipboardEvent(type, about) : new DragEvent(type, about);
        document.querySelector(target).dispatchEvent(event);
    }""", [event, target, name, list(content)])


def scores(page: Page) -> dict[str, float]:
    """The names and shares of the first five, in their order."""
    page.wait_for_selector(".scores .name:not(:empty)")
    shares = page.locator(".scores .share").all_inner_texts()
    return dict(zip(page.locator(".scores .name").all_inner_texts(), (float(x.split()[0]) / 100 for x in shares), strict=True))


def download(page: Page, output: int = 0) -> np.ndarray:
    with page.expect_download() as waiting:
        page.locator(".output button").nth(output).click()
    return np.load(waiting.value.path())


def until(page: Page, condition: str, limit: float = 60) -> None:
    """Playwright's own wait evaluates a string in the page, which its policy forbids."""
    end = time.monotonic() + limit
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"{condition}; the page says {page.inner_text('body')}"
        time.sleep(0.02)


def trouble(page: Page) -> str:
    page.wait_for_selector("#failure:not([hidden])")
    return page.inner_text("#failure")


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


# ---- Pictures ----------------------------------------------------------------------------------------------------------


def test_the_cat_is_a_cat(visit: Callable[..., Page], lite0: Path) -> None:
    """Dropped, as a visitor drops it; the page has checked itself with the sample and says how fast and large it is."""
    page = visit(lite0, LITE0)
    assert "is the expected one" in page.inner_text("#verdict")
    give(page, "drop", "#stage", "cat.png", png(imagenet.cat()))
    found = scores(page)
    assert next(iter(found)) in CATS and len(CATS & found.keys()) >= 3 and sum(v for k, v in found.items() if k in CATS) > 0.7
    until(page, "document.querySelector('#latency span').textContent.startsWith('median of ')")
    facts = dict(zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True))
    assert facts["SIMD"] == "relaxed" and facts["Weights"] == "18.6 MB" and int(facts["Threads"]) >= 1
    assert 40 < int(facts["Code"].removesuffix(" KB")) < 200 and float(facts["Memory"].removesuffix(" MB")) > 18.5
    assert re.fullmatch(r"[\d.]+ (ms|s)", page.inner_text("#latency strong"))
    assert "ms" in page.inner_text("#took")


def test_the_camera_films_a_cat(visit: Callable[..., Page], lite0: Path) -> None:
    """Live, with the page free between frames; it can be stopped, and turned to a picture."""
    page = visit(lite0, LITE0)
    page.click("#camera")
    until(page, "/a second/.test(document.querySelector('#took').textContent)")
    assert next(iter(scores(page))) in CATS and page.inner_text("#camera") == "Stop"
    assert page.get_attribute("#outputs", "aria-live") == "off", "thirty results a second are not to be read out"
    longest = page.evaluate("""() => new Promise((done) => {
        let last = performance.now(), worst = 0, frames = 0;
        requestAnimationFrame(function next(now) {
            worst = Math.max(worst, now - last); last = now;
            if (++frames < 30) requestAnimationFrame(next); else done(worst);
        });
    })""")
    assert longest < 1000
    page.click("#camera")
    assert page.inner_text("#camera") == "Camera"
    assert page.evaluate("document.querySelector('#video').srcObject") is None
    page.click("#camera")
    until(page, "document.querySelector('#camera').textContent === 'Stop'")
    choose(page, "black.png", png(Image.new("RGB", (50, 50))))
    until(page, "document.querySelector('#camera').textContent === 'Camera'")


def test_digits_as_onnxruntime(visit: Callable[..., Page], lenet_folder: Path) -> None:
    """Pasted pictures of the model's own size reach it pixel by pixel: shares of classes as onnxruntime's."""
    import onnxruntime as ort
    images, labels = mnist.test_set()
    session = ort.InferenceSession(zoo.build("lenet5"), providers=["CPUExecutionProvider"])
    page = visit(lenet_folder)
    for image, label in zip(images[:5], labels[:5], strict=True):
        page.evaluate("document.querySelector('.scores .name').textContent = ''")
        give(page, "paste", "body", "digit.png", png(Image.fromarray((image[0] * 255).round().astype(np.uint8))))
        found = scores(page)
        expected = softmax(session.run(None, {"image": image[None]})[0][0])
        assert next(iter(found)) == f"class {label}"
        for name, share in found.items():
            assert share == pytest.approx(expected[int(name.split()[1])], abs=1e-3)


def test_every_preparation(visit: Callable[..., Page], negative: Path) -> None:
    """Ranges of values, orders of colours, and ways to fit, by what the model was given: 1 - its output."""
    h, w = SIZE
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (h, w, 3)).astype(np.uint8)
    page = visit(negative, {"mean": [0.1, 0.2, 0.3], "std": [2]})
    choose(page, "noise.png", png(Image.fromarray(pixels)))
    page.wait_for_selector("#result:not([hidden])")
    page.click("summary")
    unit, three = pixels / 255, np.array([1.0, 1, 1])
    scales = {"given": (np.array([0.1, 0.2, 0.3]), 2 * three), "unit": (0 * three, three), "signed": (0.5 * three, 0.5 * three),
              "imagenet": (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])), "bytes": (0 * three, three / 255)}
    assert page.locator("#scale option").evaluate_all("x => x.map((o) => o.value)") == list(scales)
    assert page.input_value("#scale") == "given", "what the command line says is the default"
    for scale, (mean, std) in scales.items():
        for colours in ("rgb", "bgr"):
            page.select_option("#scale", scale)
            page.select_option("#colours", colours)
            page.wait_for_timeout(150)
            expected = ((unit - mean) / std)[..., :: 1 if colours == "rgb" else -1].transpose(2, 0, 1)
            np.testing.assert_allclose(1 - download(page)[0], expected, atol=2e-4 * np.abs(expected).max())
    page.select_option("#scale", "unit")
    page.select_option("#colours", "rgb")

    tall = np.zeros((4 * h, w, 3), np.uint8)        # red above, green in the middle, blue below
    tall[:h, ..., 0] = tall[h:3 * h, ..., 1] = tall[3 * h:, ..., 2] = 255
    choose(page, "tall.png", png(Image.fromarray(tall)))
    for fit, middle, corner, top in (("crop", (0, 1, 0), (0, 1, 0), (0, 1, 0)), ("squeeze", (0, 1, 0), (1, 0, 0), (1, 0, 0)),
                                     ("pad", (0, 1, 0), (0x72 / 255,) * 3, (1, 0, 0))):
        page.select_option("#fit", fit)
        page.wait_for_timeout(150)
        seen = 1 - download(page)[0]
        for (y, x), colour in (((h // 2, w // 2), middle), ((1, 1), corner), ((1, w // 2), top)):
            np.testing.assert_allclose(seen[:, y, x], colour, atol=0.01, err_msg=fit)
    assert page.inner_text("#prepared") == "values 0 … 1 · RGB · with borders"


def test_a_large_picture_is_averaged(visit: Callable[..., Page], negative: Path) -> None:
    """Fine black and white lines become grey, not what a few of their pixels happen to be."""
    lines = np.zeros((SIZE[0] * 16, SIZE[1] * 16, 3), np.uint8)
    lines[::2] = 255
    page = visit(negative)
    assert page.input_value("#scale") == "unit", "the default for a model that makes pictures"
    choose(page, "lines.png", png(Image.fromarray(lines)))
    page.wait_for_selector("#result:not([hidden])")
    np.testing.assert_allclose(download(page), 0.5, atol=0.02)


def test_an_output_that_is_a_picture_is_shown_as_one(visit: Callable[..., Page], negative: Path) -> None:
    page = visit(negative)
    choose(page, "orange.png", png(Image.new("RGB", SIZE[::-1], (255, 128, 0))))
    page.wait_for_selector("figure canvas")
    shown = page.evaluate("""() => {
        const canvas = document.querySelector("figure canvas");
        return [canvas.width, canvas.height, ...canvas.getContext("2d").getImageData(5, 5, 1, 1).data];
    }""")
    assert shown == [SIZE[1], SIZE[0], 0, 127, 255, 255]
    page.click("#sample")
    until(page, "document.querySelector('#verdict').textContent.includes('is the expected one')")
    assert "black is" in page.inner_text("figcaption")


# ---- Arrays ------------------------------------------------------------------------------------------------------------


def test_arrays_of_every_dtype(visit: Callable[..., Page], arrays: Path, dtypes: Made, tmp_path: Path) -> None:
    """Inputs by .npy, .json, raw bytes, zeros and random numbers; every output comes back as .npy as onnxruntime has it."""
    page = visit(arrays)
    names = [s.name for s in dtypes.plan.inputs]
    assert [x.split("\n")[0] for x in page.locator("legend").all_inner_texts()] == [
        f"{s.name}{s.dtype} [{', '.join(map(str, s.shape))}]" for s in dtypes.plan.inputs]
    files = {}
    for name, array in zip(names, dtypes.inputs, strict=True):
        np.save(tmp_path / "x.npy", array)
        files[name] = {"ids": ("ids.json", json.dumps(array.tolist()).encode()), "mask": ("mask.bin", array.tobytes())}.get(
            name, ("x.npy", (tmp_path / "x.npy").read_bytes()))
    for n, name in enumerate(names):
        page.locator("fieldset select").nth(n).select_option("zeros")
        if name == "q":
            give(page, "drop", f"fieldset:nth-child({n + 1})", *files[name])
        else:
            page.locator("fieldset input[type=file]").nth(n).set_input_files(
                {"name": files[name][0], "mimeType": "", "buffer": files[name][1]})
        until(page, f"document.querySelectorAll('fieldset select')[{n}].value === 'file'")
    page.click("#tensors button.main")
    page.wait_for_selector("#result:not([hidden])")
    for n, expected in enumerate(dtypes.outputs):
        got = download(page, n)
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(got.astype(float), expected.astype(float), rtol=1e-2, atol=1e-4)
    for source in ("random", "zeros"):
        for n in range(len(names)):
            page.locator("fieldset select").nth(n).select_option(source)
        page.click("#tensors button.main")
    until(page, "document.querySelector('fieldset .values').textContent.startsWith('0  0')")
    page.wait_for_timeout(300)
    assert not download(page, 4).any(), "__proto__ of zeros"
    page.click("#sample")
    until(page, "document.querySelector('fieldset select').value === 'sample'")
    assert "is the expected one" in page.inner_text("#verdict")


# ---- What goes wrong ---------------------------------------------------------------------------------------------------


def test_files_that_do_not_fit(visit: Callable[..., Page], arrays: Path, negative: Path) -> None:
    """The reason is shown, and the next that fits makes it go away."""
    page = visit(arrays)
    choose(page, "x.json", b"[1, 2]", "fieldset:first-child input")
    assert "x.json holds 2 numbers; int64 [2, 5] takes 10" in trouble(page)
    choose(page, "x.json", json.dumps([1] * 10).encode(), "fieldset:first-child input")
    page.wait_for_selector("#failure", state="hidden")
    page = visit(negative)
    choose(page, "notes.png", b"not a picture")
    assert "notes.png cannot be read as a picture" in trouble(page)
    choose(page, "red.png", png(Image.new("RGB", (9, 9), "red")))
    page.wait_for_selector("#failure", state="hidden")


@pytest.mark.parametrize(("pattern", "change", "title"), [
    ("*.weights", lambda b: b[:-5] + b"wrong", "A file of the model is damaged"),
    ("*.weights", None, "A file of the model is missing"), ("index.js", None, "The model cannot be loaded"),
    ("sample/sample.json", None, "A file of the model is missing")])
def test_a_broken_package_says_so(visit: Callable[..., Page], lenet_folder: Path, tmp_path: Path, pattern: str, change: Any,
                                  title: str) -> None:
    copy = Path(shutil.copytree(lenet_folder, tmp_path / "copy"))
    for file in copy.glob(pattern):
        content = file.read_bytes()
        file.unlink()
        if change:
            file.write_bytes(change(content))
    page = visit(copy, ready=False)
    assert title in trouble(page) and page.is_hidden("main")
    shutil.copytree(lenet_folder, copy, dirs_exist_ok=True)
    page.click("#failure button")
    page.wait_for_selector("#sample:enabled")


def test_without_the_headers_one_thread_and_why(visit: Callable[..., Page], lenet_folder: Path) -> None:
    page = visit(lenet_folder, headers={})
    assert "does not send Cross-Origin-Opener-Policy" in page.inner_text("#why")
    assert page.locator("dd").all_inner_texts()[2] == "1"


def test_on_the_network_without_https(visit: Callable[..., Page], lenet_folder: Path) -> None:
    """As a phone sees it: neither live camera nor threads, and the page says why; all else works."""
    page = visit(lenet_folder, host="demo.test", viewport=PHONE, is_mobile=True, has_touch=True)
    assert "only on https and on localhost" in page.inner_text("#why")
    page.click("#camera")
    assert "No camera" in trouble(page) and "needs https or localhost" in trouble(page)
    choose(page, "white.png", png(Image.new("L", (28, 28), 255)))
    assert len(scores(page)) == 5 and page.is_hidden("#failure")


def test_a_strict_policy_of_the_server(visit: Callable[..., Page], lenet_folder: Path) -> None:
    """The page's own policy, sent with every answer, workers included; `visit` sees to it that nothing offends against it."""
    found = re.search(r'Content-Security-Policy" content="([^"]+)"', (lenet_folder / demo.PAGE).read_text())
    assert found and "unsafe-inline" not in found[1] and "'unsafe-eval'" not in found[1]
    page = visit(lenet_folder, headers={**server.ISOLATED, "Content-Security-Policy": found[1]})
    page.click("#sample")
    assert len(scores(page)) == 5


# ---- Looks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_too_wide_too_small_or_too_pale(visit: Callable[..., Page], arrays: Path, lenet_folder: Path, width: int,
                                                   scheme: str) -> None:
    """No horizontal scrolling; what is tapped is at least 44 pixels high and has a name; text stands out 4.5 : 1 (WCAG AA)."""
    for folder in (arrays, lenet_folder):
        page = visit(folder, viewport={"width": width, "height": 844}, color_scheme=scheme)
        page.click("#sample")
        page.wait_for_selector("#result:not([hidden])")
        page.evaluate("document.querySelector('details').open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        controls = page.locator("button:visible, select:visible, label.button:visible, summary:visible")
        small = controls.evaluate_all("x => x.filter((e) => e.getBoundingClientRect().height < 44).map((e) => e.outerHTML)")
        assert not small
        unnamed = page.locator("button:visible, select:visible, input").evaluate_all("""x => x.filter((e) =>
            !(e.ariaLabel || e.labels?.[0]?.textContent.trim() || e.textContent.trim())).map((e) => e.outerHTML)""")
        assert not unnamed
        pale = page.evaluate("""() => {
            const parse = (text) => text.match(/[\\d.]+/g).map(Number);
            const linear = (v) => v <= 10.3 ? v / 3294 : ((v / 255 + 0.055) / 1.055) ** 2.4;
            const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
            const ground = (e) => {
                const colour = e ? parse(getComputedStyle(e).backgroundColor) : [255, 255, 255];
                return colour[3] === 0 ? ground(e.parentElement) : colour;
            };
            return [...document.querySelectorAll("main *, header *, body > footer")].filter((e) => e.checkVisibility() &&
                [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).filter((e) => {
                const [a, b] = [parse(getComputedStyle(e).color), ground(e)].map(light).sort((x, y) => y - x);
                return (a + 0.05) / (b + 0.05) < 4.5;
            }).map((e) => e.outerHTML);
        }""")
        assert not pale
