"""Packages with variants, in a real Node: choices change which kernels run, not what they compute; `tune` finds the fastest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from burnish.compiler import api
from burnish.compiler.driver import Compiled
from burnish.compiler.errors import VerificationError
from burnish.compiler.sample import Oracle
from burnish.targets.plan import Launch, Place, Plan, Signature, Variant
from burnish.targets.web import node, package, profile
from burnish.targets.web.target import WebTarget
from ways_model import EXPECTED, SIZE, X, kernels, plan, write
from web_model import content, from_c, javascript, needs_node

pytestmark = needs_node

START = "const x = Float32Array.from({ length: 4096 }, (_, n) => n); const who = async (m) => [...(await m.run({ x })).who];"
IS_RIGHT = "((y) => y.every((v, n) => v === 2 * (2 * n + 1)))((await m.run({ x })).y)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("web") / "ways")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("web") / "single", variants=False)


@pytest.mark.parametrize("build", profile.BUILDS)
def test_every_way_computes_the_same(folder: Path, build: str) -> None:
    """A kernel that has fewer ways takes its last."""
    for way, made_by in enumerate(([0, 0, 0], [1, 1, 1], [2, 1, 2], [2, 1, 2])):
        y, who = node.run(folder, [X], build, way=way) or ()
        np.testing.assert_array_equal(y, EXPECTED)
        assert list(who) == made_by


def test_choices_are_the_callers(folder: Path) -> None:
    assert javascript(folder, START + """
        const m = await load({ choices: [2, 1] }), copy = m.choices;
        copy[0] = 0;
        return [m.choices, await who(m), (await load()).choices, await who(await load({ choices: [0, 1] }))];
    """) == [[2, 1], [2, 1, 2], [0, 0], [0, 1, 0]]
    for wrong in ("[1]", "[3, 0]", "[0, -1]", "[0, 0.5]", "[0, 0, 0]", '["1", 0]', '"10"'):
        code, message = javascript(folder, f"return fails(() => load({{ choices: {wrong} }}))")
        assert code == "OPTION" and "3, 2" in message


def test_tune_finds_the_fastest(folder: Path) -> None:
    """From the compiler's choice, and from the worst; what is tuned is not tuned again, unless that is asked for."""
    for start in ("[0, 0]", "[1, 1]"):
        got = javascript(folder, START + f"""
            const m = await load({{ choices: {start} }}), seen = [];
            const made = await m.tune({{ onProgress: (p) => seen.push([p.done, p.total]) }});
            const right = {IS_RIGHT}, after = await who(m), again = await m.tune();
            const thorough = await m.tune({{ again: true }});
            return [made, seen, right, after, again, thorough];
        """)
        made, seen, right, after, again, thorough = got
        assert made["choices"] == [2, 0] and right and after == [2, 0, 2]
        assert made["changed"] == (1 if start == "[0, 0]" else 2) and made["ended"] == "finished" and not made["remembered"]
        assert 0 < made["after"] < made["before"] / 2 and seen == [[1, 2], [2, 2]] and made["done"] == made["total"] == 2
        assert again["changed"] == 0 and again["before"] is None and again["ended"] == "finished"      # None: NaN in JSON
        assert thorough["changed"] == 0 and 0 < thorough["after"] <= thorough["before"]


def test_the_clock_may_be_coarse(folder: Path) -> None:
    """1 ms, as of a browser that hides from trackers: a kernel of a few microseconds is still told from others."""
    assert javascript(folder, START + """
        const precise = performance.now.bind(performance);
        performance.now = () => Math.floor(precise());
        const m = await load({ choices: [1, 1] });
        return (await m.tune({ budgetMs: 20000 })).choices;
    """) == [2, 0]


def test_the_page_stays_usable_and_right(folder: Path) -> None:
    """While a model is tuned, timers run, and so does the model, whose results stay right."""
    wrong, runs, longest, choices = javascript(folder, START + f"""
        const m = await load({{ choices: [1, 1] }});
        let wrong = 0, runs = 0, longest = 0, last = performance.now(), over = false;
        const beat = async () => {{
            while (!over) {{
                await new Promise((done) => setTimeout(done, 1));
                longest = Math.max(longest, performance.now() - last);
                if (!{IS_RIGHT}) wrong++;
                runs++;
                last = performance.now();
            }}
        }};
        const beating = beat(), {{ choices }} = await m.tune();
        over = true;
        await beating;
        return [wrong, runs, longest, choices];
    """)
    assert wrong == 0 and runs >= 10 and longest < 150 and choices == [2, 0]


def test_the_budget_is_kept(folder: Path) -> None:
    """To within a slice and a run, whatever it is."""
    for budget in (0, 30, 150):
        made, passed, right = javascript(folder, START + f"""
            const m = await load({{ choices: [1, 1] }}), start = performance.now();
            const made = await m.tune({{ budgetMs: {budget} }}), passed = performance.now() - start;
            return [made, passed, {IS_RIGHT}];
        """)
        assert right and made["ended"] == "budget" and made["done"] < 2 and passed < budget + 100
        assert made["before"] >= made["after"] > 0


def test_an_abort_keeps_the_best_so_far(folder: Path) -> None:
    made, right, early, rest = javascript(folder, START + f"""
        const m = await load({{ choices: [1, 1] }}), stop = new AbortController();
        const made = await m.tune({{ signal: stop.signal, onProgress: () => stop.abort() }}), right = {IS_RIGHT};
        return [made, right, await m.tune({{ signal: AbortSignal.abort() }}), await m.tune()];
    """)
    assert made["ended"] == "aborted" and made["done"] == 1 and made["changed"] == 1 and made["after"] is None and right
    assert made["choices"] == [2, 1] and early["ended"] == "aborted" and early["choices"] == [2, 1] and early["done"] == 1
    assert rest["ended"] == "finished" and rest["changed"] == 1 and rest["done"] == 2 and rest["choices"] == [2, 0]


def test_what_cannot_be_tuned_says_so(folder: Path, single: Path) -> None:
    busy, gone, done, after = javascript(folder, """
        const m = await load(), first = m.tune({ budgetMs: 200 }), busy = await fails(() => m.tune());
        const { done } = await first, next = m.tune();
        setTimeout(() => m.dispose(), 20);
        return [busy[0], (await fails(() => next))[0], done, (await fails(() => m.tune()))[0]];
    """)
    assert (busy, gone, after) == ("BUSY", "DISPOSED", "DISPOSED") and done < 2
    assert javascript(single, """
        const m = await load({ choices: [] });
        return [m.choices, (await fails(() => m.tune()))[0], (await fails(() => load({ choices: [0] })))[0]];
    """) == [[], "NOT_TUNABLE", "OPTION"]


@pytest.mark.parametrize("doubled, right", [("2 * x[n]", True), ("3 * x[n]", False)])
def test_a_wrong_way_is_found_before_the_package_appears(doubled: str, right: bool, tmp_path: Path) -> None:
    """Whichever way a device may choose has been compared with onnxruntime's outputs."""
    nobody = Place("arena", 8 * SIZE)       # who made it is not told: that does differ
    silent = replace(plan(), outputs=plan().outputs[:1], arena=8 * SIZE + 64,
                     launches=tuple(replace(x, args=(*x.args[:2], nobody)) for x in plan().launches))
    model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    made = Compiled(model, (), (), silent, tuple(kernels(doubled).values()), np.zeros(0, np.uint8), ())
    arguments = made, tmp_path / "out", [X], Oracle((EXPECTED,), (0.0,)), WebTarget(), {}
    if right:
        assert api.write(*arguments).error == 0
    else:
        with pytest.raises(VerificationError, match="y: error"):
            api.write(*arguments)
    assert (tmp_path / "out").exists() == right


def test_only_packages_with_variants_have_what_tunes(folder: Path, single: Path) -> None:
    assert set(content(folder)) > {"ways.js", "tune.js"} and not {"ways.js", "tune.js"} & set(content(single))
    for place, has in ((folder, True), (single, False)):
        assert ("tune(" in (place / "README.md").read_text()) == has == ("ways.js" in (place / "package.json").read_text())
        assert ('import("./ways.js")' in (place / "index.js").read_text().split("const FILES")[0].split("const WAYS")[1]) == has


def test_threads_may_be_tuned(tmp_path: Path) -> None:
    """Each kernel over four tiles, which threads share out."""
    source = """
        void %s(const float *x, float *y, int begin, int end) {
            for (volatile int again = 0; again < %d; again++)
                for (int n = begin * 1024; n < end * 1024; n++) ((volatile float *)y)[n] = 3 * x[n];
        }"""
    code = from_c({f"triple_{n}": source % (f"triple_{n}", again) for n, again in enumerate((400, 2))})
    launches = tuple(Launch("triple_0", (a, b), 4, 0, (), 10**6, 10**6, (Variant("triple_1", 4, 0),))
                     for a, b in ((Place("input", 0), Place("arena", 0)), (Place("arena", 0), Place("output", 0))))
    nine = Plan("nine", (Signature("x", (SIZE,), "float32"),), (Signature("y", (SIZE,), "float32"),), launches, 4 * SIZE, 0, 0)
    place = package.write(nine, code, b"", [X], [9 * X], profile.devices(), tmp_path / "nine")
    threads, choices, wrong = javascript(place, """
        const x = Float32Array.from({ length: 4096 }, (_, n) => n), m = await load({ threads: 2 });
        const { choices } = await m.tune({ budgetMs: 20000 });
        const { y } = await m.run({ x });
        return [m.threads, choices, y.filter((v, n) => v !== 9 * n).length];
    """)
    assert (threads, choices, wrong) == (2, [1], 0)
