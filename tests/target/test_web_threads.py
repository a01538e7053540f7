"""Threads of web packages, in a real Node: the same bytes from any number of them, asleep between runs, gone when disposed of."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from burnish.schedules.numerics import relative_error
from burnish.targets.plan import Launch, Place, Plan, Signature
from burnish.targets.web import driver, manifest, node, package, profile
from web_model import Made, from_c, javascript, needs_node

pytestmark = needs_node


def test_any_number_of_threads_gives_the_same_bytes(lenet: Made, lenet_folder: Path) -> None:
    for build in profile.BUILDS:
        (one,) = node.run(lenet_folder, lenet.inputs, build) or ()
        assert relative_error(one, lenet.outputs[0]) < 1e-4
        for threads in (2, 3, 5):
            np.testing.assert_array_equal(node.run(lenet_folder, lenet.inputs, build, threads=threads), [one])
    found = manifest.read(lenet_folder).builds
    assert list(found) == ["relaxed-simd", "simd", "relaxed-simd-threads", "simd-threads"]
    assert found["simd"].kernels == found["simd-threads"].kernels


def test_run_after_run(lenet_folder: Path) -> None:
    """Runs close together find the workers spinning, those after a pause find them asleep; inputs differ from run to run."""
    assert javascript(lenet_folder, """
        const one = await load({ threads: 1 }), m = await load({ threads: 3 }), given = [], expected = [];
        for (let n = 0; n < 3; n++) {
            given.push({ image: Float32Array.from({ length: 784 }, Math.random) });
            expected.push((await one.run(given[n])).logits);
        }
        let wrong = 0;
        for (let n = 0; n < 600; n++) {
            if (n % 50 === 0) await new Promise((done) => setTimeout(done, 30));
            const { logits } = await m.run(given[n % 3]);
            if (!logits.every((x, k) => x === expected[n % 3][k])) wrong++;
        }
        return [m.threads, wrong];
    """) == [3, 0]


def test_idle_threads_take_no_time(lenet_folder: Path) -> None:
    """Processor time of the process in half a second between runs: a worker that spins would take all of it."""
    threads, taken = javascript(lenet_folder, """
        const m = await load({ threads: 3 });
        for (let n = 0; n < 1000; n++) await m.run({ image });
        await new Promise((done) => setTimeout(done, 500));         // V8 still compiles
        const before = process.cpuUsage();
        await new Promise((done) => setTimeout(done, 500));
        const { user, system } = process.cpuUsage(before);
        return [m.threads, (user + system) / 1e6];
    """)
    assert threads == 3 and taken < 0.1


@pytest.mark.parametrize("threads", [1, 3])
def test_a_thousand_runs_leave_memory_as_it_was(lenet_folder: Path, threads: int) -> None:
    found, before, after, heap = javascript(lenet_folder, f"""
        const m = await load({{ threads: {threads} }}), before = m.memoryBytes;
        const used = () => (gc(), process.memoryUsage()).heapUsed + process.memoryUsage().external;
        const runs = async (n) => {{ while (n--) await m.run({{ image }}); return used(); }};
        const start = await runs(200), end = await runs(1000);
        return [m.threads, before, m.memoryBytes, end - start];
    """, "--expose-gc")
    assert found == threads and before == after and heap < 100_000
    one = manifest.read(lenet_folder).builds["relaxed-simd"]
    assert threads > 1 or before == one.pages * driver.PAGE


def test_models_come_and_go(lenet_folder: Path) -> None:
    """`dispose` ends the workers: thirty models with threads leave no thread behind."""
    before, most, after = javascript(lenet_folder, """
        const alive = () => fs.readdirSync("/proc/self/task").length;
        await (await load({ threads: 3 })).dispose();
        await new Promise((done) => setTimeout(done, 300));
        const before = alive();
        let most = 0;
        for (let n = 0; n < 30; n++) {
            const m = await load({ threads: 3 });
            await m.run({ image });
            most = Math.max(most, alive());
            m.dispose();
            m.dispose();
            await new Promise((done) => setTimeout(done, 20));
        }
        await new Promise((done) => setTimeout(done, 300));
        return [before, most, alive()];
    """)
    assert after <= before and before + 2 <= most < before + 30


def test_a_program_ends_though_threads_wait(lenet_folder: Path, tmp_path: Path) -> None:
    """Without `dispose`: waiting workers keep no program alive."""
    script = tmp_path / "script.mjs"
    script.write_text(f"""
        import {{ load }} from {json.dumps((lenet_folder / "index.js").as_uri())};
        const m = await load({{ threads: 3 }});
        await m.run({{ image: new Float32Array(784) }});
        console.log(m.threads);""")
    path, version = node.program() or ("", (0, 0, 0))
    done = subprocess.run([path, *node.flags(version), str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


def test_threads_as_asked_for(lenet_folder: Path, tmp_path: Path) -> None:
    got = javascript(lenet_folder, """
        const cpus = (await import("node:os")).availableParallelism();
        const found = [];
        for (const threads of [undefined, 1, 2, 99]) {
            const m = await load({ threads });
            found.push(m.threads);
            m.dispose();
        }
        const wrong = [0, -1, 1.5, "2", NaN, null];
        return [cpus, found, await Promise.all(wrong.map((threads) => fails(() => load({ threads }))))];
    """)
    assert got[1] == [min(got[0], 4), 1, 2, driver.MAX_THREADS]
    assert all(code == "OPTION" and "threads" in message for code, message in got[2])


def test_nothing_to_share_is_one_thread(tmp_path: Path) -> None:
    """And the package then has no code for threads."""
    source = "void k_five(float *y, int b, int e) { while (b < e) y[b++] = 5; }"
    launch = Launch("k_five", (Place("output", 0),), 2, 0, (), 9, 9)
    plan = Plan("c", (), (Signature("five", (2,), "float32"),), (launch,), 0, 0, 0)
    place = package.write(plan, from_c({"k_five": source}), b"", (), [np.float32([5, 5])], profile.devices(), tmp_path / "c")
    assert javascript(place, "const m = await load({ threads: 4 }); return [m.threads, (await m.run()).five[1]]") == [1, 5]
    assert tuple(manifest.read(place).builds) == profile.BUILDS and not list(place.glob("*-threads*"))


def test_stacks_and_scratch_are_apart(tmp_path: Path) -> None:
    """Every tile fills an array on the stack, or in scratch, and reads it again: one that threads share would be seen."""
    work = """
        for (int n = b; n < e; n++) {
            for (int k = 0; k < 4000; k++) own[k] = n + k;
            int wrong = 0;
            for (int k = 0; k < 4000; k++) wrong += own[k] != n + k;
            y[n] = wrong;
        }"""
    kernels = {"k_stack": f"void k_stack(int *y, int b, int e) {{ volatile int own[4000]; {work} }}",
               "k_scratch": f"void k_scratch(int *y, volatile int *own, int b, int e) {{ {work} }}"}
    launches = tuple(Launch(k, (Place("output", n),), 1000, scratch, (), 1 << 20, 1 << 20)
                     for n, (k, scratch) in enumerate((("k_stack", 0), ("k_scratch", 16000))))
    plan = Plan("apart", (), (Signature("a", (1000,), "int32"), Signature("b", (1000,), "int32")), launches, 0, 16000, 0)
    place = package.write(plan, from_c(kernels), b"", (), [np.zeros(1000, np.int32)] * 2, profile.devices(), tmp_path / "apart")
    assert javascript(place, """
        const m = await load({ threads: 4 });
        let wrong = 0;
        for (let n = 0; n < 20; n++) {
            for (const y of Object.values(await m.run())) wrong += y.reduce((a, b) => a + b);
        }
        return wrong;
    """) == 0


# ---- What goes wrong ---------------------------------------------------------------------------------------------------


WARNINGS = "const said = []; console.warn = (...words) => said.push(words.join(' '));"


def test_a_page_that_is_not_isolated_is_told_why(lenet_folder: Path) -> None:
    """As in a browser without the headers, where SharedArrayBuffer is missing: the browser's own tests do it for real."""
    got = javascript(lenet_folder, f"""
        {WARNINGS}
        delete globalThis.SharedArrayBuffer;
        const two = await load({{ threads: 2 }}), line = [...said], one = await load({{ threads: 1 }});
        return [two.threads, (await two.run({{ image }})).logits.length, line, said.length, one.threads];
    """)
    threads, length, lines, said, one = got
    assert (threads, length, said, one) == (1, 10, 1, 1)
    assert "Cross-Origin-Opener-Policy: same-origin" in lines[0] and "Cross-Origin-Embedder-Policy: require-corp" in lines[0]
    assert "\n" not in lines[0]


@pytest.mark.parametrize("worker", [None, "throw new Error('no');", "import './gone.js';"])
def test_without_workers_there_is_one_thread(lenet_folder: Path, tmp_path: Path, worker: str | None) -> None:
    copy = Path(shutil.copytree(lenet_folder, tmp_path / "copy"))
    if worker is None:
        (copy / "worker.js").unlink()
    else:
        (copy / "worker.js").write_text(worker)
    threads, length, lines = javascript(copy, f"""
        {WARNINGS}
        const m = await load({{ threads: 3 }});
        return [m.threads, (await m.run({{ image }})).logits.length, said];
    """)
    assert (threads, length) == (1, 10)
    assert len(lines) == 1 and "workers cannot be started" in lines[0]


def test_one_thread_needs_no_code_for_more(lenet_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(lenet_folder, tmp_path / "copy"))
    (copy / "threads.js").unlink()
    one, (code, message), (option, _) = javascript(copy, """
        const m = await load({ threads: 1 });
        return [m.threads, await fails(() => load({ threads: 2 })), await fails(() => load({ threads: 0 }))];
    """)
    assert (one, code, option) == (1, "FILE_MISSING", "OPTION") and "threads.js" in message


@pytest.mark.parametrize(("pattern", "code"), [("*.weights", "FILE_DAMAGED"), ("*.relaxed-simd-threads.*.wasm", "FILE_DAMAGED")])
def test_damaged_files_are_found_with_threads(lenet_folder: Path, tmp_path: Path, pattern: str, code: str) -> None:
    copy = Path(shutil.copytree(lenet_folder, tmp_path / "copy"))
    (file,) = copy.glob(pattern)
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (found, message), alive = javascript(copy, """
        const error = await fails(() => load({ threads: 3 }));
        await new Promise((done) => setTimeout(done, 300));
        return [error, process.getActiveResourcesInfo().filter((x) => /Worker|MessagePort/.test(x)).length];
    """)
    assert (found, alive) == (code, 0) and file.name in message


def test_loading_with_threads_can_be_given_up(lenet_folder: Path) -> None:
    assert javascript(lenet_folder, """
        const stop = new AbortController(), reason = async (what) => { try { await what(); } catch (e) { return e; } };
        const said = await reason(() => load({ threads: 3, signal: stop.signal, onProgress: () => stop.abort("enough") }));
        await new Promise((done) => setTimeout(done, 300));
        return [said, process.getActiveResourcesInfo().filter((x) => /Worker|MessagePort/.test(x)).length];
    """) == ["enough", 0]
