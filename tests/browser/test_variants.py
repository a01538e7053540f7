"""What `tune` finds in a real Chromium is remembered there, for this code and browser only; what is stored is not trusted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from burnish.targets.web import chromium, server
from ways_model import write

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.skipif(chromium.program() is None, reason="no Chromium on the PATH")

BLANK = "<!doctype html><title>test</title>"
WHO = """async (m) => [...(await m.run({ x: new Float32Array(4096) })).who]"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = write(tmp_path_factory.mktemp("browser") / "ways")
    (folder / "blank.html").write_text(BLANK)
    with server.Server(server.files(folder)) as s:
        yield s.url


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """Of a profile of its own, with nothing stored."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(url + "blank.html")
        yield page


def run(page: Page, code: str) -> Any:
    """What `code` returns, as the body of an async function that sees `load`, `who` and `tell`, which changes what is stored."""
    return page.evaluate(f"""async () => {{
        const {{ load, BurnishError }} = await import("/index.js"), who = {WHO};
        const stored = (mode, act) => new Promise((done, fail) => {{
            const opening = indexedDB.open("burnish", 1);
            opening.onerror = () => fail(opening.error);
            opening.onsuccess = () => {{
                const t = opening.result.transaction("ways", mode), asked = act(t.objectStore("ways"));
                t.oncomplete = () => {{ opening.result.close(); done(asked.result); }};
            }};
        }});
        {code}
    }}""")


def test_what_is_tuned_is_remembered(page: Page) -> None:
    first = run(page, """
        const m = await load({ threads: 1, choices: [1, 1] }), made = await m.tune();
        return { ...made, who: await who(m) };
    """)
    assert first["choices"] == [2, 0] and first["who"] == [2, 0, 2]
    assert first["remembered"] and first["after"] < first["before"] / 2
    page.reload()
    again = run(page, """
        const m = await load({ threads: 1 }), start = performance.now(), made = await m.tune();
        return { ...made, who: await who(m), passed: performance.now() - start };
    """)
    assert again["who"] == [2, 0, 2] and again["done"] == again["total"] and again["changed"] == 0 and again["passed"] < 1000
    assert run(page, "return (await load({ threads: 1, build: 'simd' })).choices") == [0, 0]     # other code: other choices
    assert run(page, "return (await load({ threads: 1, choices: [1, 1] })).choices") == [1, 1]


def test_a_tune_that_was_cut_off_goes_on(page: Page) -> None:
    """The page is closed after the first kernel."""
    run(page, """
        const m = await load({ threads: 1, choices: [1, 1] });
        await new Promise((done) => { m.tune({ onProgress: done }); });
    """)
    page.reload()
    choices, rest = run(page, """
        const m = await load({ threads: 1 }), before = m.choices;
        return [before, await m.tune()];
    """)
    assert choices in ([2, 1], [2, 0]) and rest["choices"] == [2, 0] and rest["done"] == 2


@pytest.mark.parametrize("value", [
    "'nonsense'", "null", "{ ...kept, agent: 'another browser' }", "{ ...kept, choices: [9, 0] }", "{ ...kept, choices: [2] }",
    "{ ...kept, choices: ['2', {}] }", "{ ...kept, tuned: undefined }", "{ ...kept, choices: undefined }"])
def test_what_is_stored_is_not_trusted(page: Page, value: str) -> None:
    """The compiler's choice stands in for it, and a new tune replaces it."""
    assert run(page, f"""
        await (await load({{ threads: 1 }})).tune({{ budgetMs: 0 }});
        const [key] = await stored("readonly", (s) => s.getAllKeys()), kept = await stored("readonly", (s) => s.get(key));
        await stored("readwrite", (s) => s.put({{ ...kept, choices: [2, 1], tuned: [true, true] }}, key));
        const good = (await load({{ threads: 1 }})).choices;
        await stored("readwrite", (s) => s.put({value}, key));
        const m = await load({{ threads: 1 }}), before = m.choices;
        return [good, before, (await m.tune()).choices, (await load({{ threads: 1 }})).choices];
    """) == [[2, 1], [0, 0], [2, 0], [2, 0]]


def test_no_database_is_no_obstacle(page: Page) -> None:
    """It refuses to open, it never answers, or it is not there at all."""
    for broken in ("() => { throw new DOMException('no', 'SecurityError'); }", "() => ({})"):
        page.reload()
        passed, made = run(page, f"""
            IDBFactory.prototype.open = {broken};
            const start = performance.now(), m = await load({{ threads: 1 }}), passed = performance.now() - start;
            return [passed, await m.tune()];
        """)
        assert passed < 1500 and made["choices"] == [2, 0] and not made["remembered"]


def test_a_page_stays_smooth_while_it_is_tuned(page: Page) -> None:
    """Frames go on being painted; the page's own runs stay right."""
    frames, longest, wrong, choices = run(page, """
        const m = await load({ threads: 1, choices: [1, 1] });
        const x = Float32Array.from({ length: 4096 }, (_, n) => n);
        let frames = 0, longest = 0, last = performance.now(), wrong = 0, over = false;
        const frame = async () => {
            const now = performance.now();
            longest = Math.max(longest, now - last);
            last = now;
            const { y } = await m.run({ x });
            wrong += y.some((v, n) => v !== 2 * (2 * n + 1));
            frames += 1;
            if (!over) requestAnimationFrame(frame);
        };
        requestAnimationFrame(frame);
        const { choices } = await m.tune();
        over = true;
        return [frames, longest, wrong, choices];
    """)
    assert frames >= 10 and longest < 200 and wrong == 0 and choices == [2, 0]
