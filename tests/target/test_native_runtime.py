"""The CPU target from Plan to running library: threads, memory, errors, C, another machine."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from burnish.targets.cpu import artifact, driver, emulator, loader, profile, toolchain
from burnish.targets.cpu.errors import ArtifactError
from native_model import COLUMNS, ROWS, Sample, reference, sample

NAME = "model_3_layer_net"


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same(made: Sample, folder: Path, threads: int) -> None:
    rng = np.random.default_rng(threads)
    with loader.load(folder, threads) as model:
        assert model.threads == threads
        for _ in range(200):
            x = rng.standard_normal((ROWS, COLUMNS), np.float32)
            y, n = model(x)
            for got, expected in zip((y, n), reference(x, made.weights), strict=True):
                np.testing.assert_array_equal(got, expected)
            assert y.ctypes.data % 64 == 0


def test_memory_is_flat_over_a_thousand_runs(made: Sample, folder: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    with loader.load(folder, 2) as model:
        for _ in range(50):
            model(*made.inputs)
        before = resident()
        for _ in range(1000):
            y, _ = model(*made.inputs)
        assert resident() - before < 256 << 10
        np.testing.assert_array_equal(y, made.outputs[0])


def test_instances_and_callers_in_many_threads_do_not_disturb_each_other(made: Sample, folder: Path) -> None:
    """Two instances, one of them called by two threads."""
    wrong: list[str] = []

    def work(model: loader.Model, seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(150):
            x = rng.standard_normal((ROWS, COLUMNS), np.float32)
            if not np.array_equal(model(x)[0], reference(x, made.weights)[0]):
                wrong.append(repr(model))

    with loader.load(folder, 2) as a, loader.load(folder, 3) as b:
        threads = [threading.Thread(target=work, args=(m, seed)) for seed, m in enumerate((a, a, b))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not wrong


def test_profile_gives_every_launch_its_time(made: Sample, folder: Path) -> None:
    with loader.load(folder, 2) as model:
        times = model.profile(*made.inputs)
    assert [t.kernel for t in times] == ["k_add", "k_relu", "k_double"]
    assert times[2].nodes == ("mul ü",) and all(0 < t.seconds < 1 for t in times)


def test_a_model_from_before_a_fork_says_so(made: Sample, folder: Path) -> None:
    with loader.load(folder, 2) as model:
        child = os.fork()
        if child == 0:
            try:
                model(*made.inputs)
            except RuntimeError as e:
                model.close()
                os._exit(7 if "fork" in str(e) else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


# ---- What the C functions answer ---------------------------------------------------------------------------------------


def create(folder: Path, weights: Path, threads: int = 2) -> int:
    library = ctypes.CDLL(str(folder / f"lib{NAME}.so"))
    model = ctypes.c_void_p()
    code = getattr(library, f"{NAME}_create")(ctypes.byref(model), os.fsencode(weights), ctypes.c_int(threads))
    if model:
        getattr(library, f"{NAME}_destroy")(model)
    assert (code == 0) == bool(model)
    return int(code)


def test_bad_weights_and_arguments_are_error_codes(folder: Path, tmp_path: Path) -> None:
    code = {name: number for name, number, _ in driver.errors()}
    good = (folder / f"{NAME}.weights").read_bytes()
    bad = tmp_path / "weights"
    assert create(folder, folder / f"{NAME}.weights") == code["OK"]
    assert create(folder, bad) == code["WEIGHTS_OPEN"]
    assert create(folder, tmp_path) == code["WEIGHTS_OPEN"]
    for content, error in ((b"", "SIZE"), (good[:-1], "SIZE"), (good + b"\0", "SIZE"), (b"X" + good[1:], "FORMAT"),
                           (good[:8] + b"\2" + good[9:], "FORMAT"), (good[:24] + bytes(8) + good[32:], "MISMATCH"),
                           (good[:16] + b"\1" + good[17:], "SIZE")):
        bad.write_bytes(content)
        assert create(folder, bad) == code[f"WEIGHTS_{error}"], error
    assert create(folder, folder / f"{NAME}.weights", -1) == code["ARGUMENT"]
    assert create(folder, folder / f"{NAME}.weights", 10**6) == code["ARGUMENT"]

    library = ctypes.CDLL(str(folder / f"lib{NAME}.so"))
    assert getattr(library, f"{NAME}_run")(None, None, None) == code["ARGUMENT"]
    text = getattr(library, f"{NAME}_error")
    text.restype = ctypes.c_char_p
    for _, number, words in driver.errors():
        assert text(number).decode() == words


@pytest.mark.parametrize("shared", [(True, True), (True, False), (False, True), (False, False)])
def test_the_setup_runs_before_the_first_run(made: Sample, tmp_path: Path, shared: tuple[bool, bool]) -> None:
    """Shared out or not, by more threads than there are CPUs, and with nothing but the setup to share out."""
    setup = tuple(replace(x, flops=10**9 * s) for x, s in zip(made.plan.setup, shared, strict=True))
    alone = tuple(replace(x, flops=1) for x in made.plan.launches)
    for plan, threads in ((replace(made.plan, setup=setup), 5), (replace(made.plan, setup=setup, launches=alone), 1)):
        folder = artifact.write(plan, *made.arguments[1:], tmp_path / "net")
        for _ in range(50):
            with loader.load(folder, 5, verify=False) as model:
                assert model.threads == threads
                np.testing.assert_array_equal(model(*made.inputs)[0], made.outputs[0])


def test_too_little_memory_is_an_error_code(made: Sample, tmp_path: Path) -> None:
    folder = artifact.write(replace(made.plan, prepared=1 << 50), *made.arguments[1:], tmp_path / "net")
    code = {name: number for name, number, _ in driver.errors()}
    assert create(folder, folder / f"{NAME}.weights") == code["MEMORY"]


def test_the_library_needs_libc_only_and_shows_its_interface_only(folder: Path) -> None:
    library = str(folder / f"lib{NAME}.so")
    dynamic = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    needed = [line.split("[")[1].split("]")[0] for line in dynamic.splitlines() if "(NEEDED)" in line]
    assert set(needed) <= {"libc.so.6", "libpthread.so.0"} and "libc.so.6" in needed
    symbols = subprocess.run(["readelf", "--dyn-syms", "-W", library], capture_output=True, text=True, check=True).stdout
    fields = [line.split() for line in symbols.splitlines() if " GLOBAL " in line or " WEAK " in line]
    public = {f[7] for f in fields if f[6] != "UND"}
    functions = "create", "run", "profile", "destroy", "threads", "input", "output", "launch_info", "error"
    assert public == {f"{NAME}_{f}" for f in functions}
    versions = {tuple(map(int, f[7].split("@GLIBC_")[1].split("."))) for f in fields if "@GLIBC_" in f[7]}
    assert max(versions) <= (2, 17)
    segments = subprocess.run(["readelf", "-lW", library], capture_output=True, text=True, check=True).stdout
    assert [line.split()[6] for line in segments.splitlines() if "GNU_STACK" in line] == ["RW"]
    assert Path(library).stat().st_size < 40_000


def test_the_example_builds_with_the_system_compiler_and_runs(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    command = ["make", "run", "CFLAGS=-O1 -Wall -Wextra -Werror -pedantic"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" ok") == 2
    (copy / "sample/output_0.bin").write_bytes(bytes(ROWS * COLUMNS * 4))
    assert subprocess.run(["./example"], cwd=copy, capture_output=True, check=False).returncode == 1


def test_sanitizers_find_nothing(made: Sample, tmp_path: Path) -> None:
    """Driver, runtime and example under the system compiler's sanitizers of threads, addresses and undefined behaviour."""
    sources = {f"{NAME}.h": driver.header(made.plan), f"{NAME}.c": driver.source(made.plan, made.device, 0),
               "example.c": driver.example(made.plan)}
    for file, text in sources.items():
        (tmp_path / file).write_text(text)
    for kernel in made.kernels:
        (tmp_path / f"{kernel.symbol}.o").write_bytes(kernel.code)
    (tmp_path / f"{NAME}.weights").write_bytes(artifact.weights_header(made.plan.weights, 0) + made.weights.tobytes())
    (tmp_path / "in").write_bytes(made.inputs[0].tobytes())
    for checks in ("thread", "address,undefined"):
        program = f"./{checks[:3]}"
        subprocess.run(["cc", "-std=c11", "-g", "-O1", f"-fsanitize={checks}", "-fno-sanitize-recover=all", "-I", driver.RUNTIME,
                        *sorted(driver.RUNTIME.glob("*.c")), *(f for f in sources if f.endswith(".c")),
                        *(f"{k.symbol}.o" for k in made.kernels), "-o", program, "-lm", "-lpthread"], cwd=tmp_path, check=True)
        command = [program, f"{NAME}.weights", "3", "in", "y", "n"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        if "unexpected memory mapping" in done.stderr:
            continue    # gcc's thread sanitizer knows fewer address layouts than newer kernels have
        assert done.returncode == 0, done.stderr
        np.testing.assert_array_equal(np.fromfile(tmp_path / "y", np.float32).reshape(ROWS, COLUMNS), made.outputs[0])


@pytest.mark.skipif(not emulator.available("aarch64"), reason="qemu-aarch64 (Debian's qemu-user) is not installed")
def test_arm64_runs_under_qemu(tmp_path: Path) -> None:
    arm = sample(profile.load("cortex-a76"), "arm")
    folder = artifact.write(*arm.arguments, tmp_path / "arm", program=True)
    for threads in (1, 3):
        for got, expected in zip(emulator.run(folder, arm.inputs, threads), arm.outputs, strict=True):
            np.testing.assert_array_equal(got, expected)
    segments = subprocess.run(["readelf", "-lW", folder / "libarm.so"], capture_output=True, text=True, check=True).stdout
    assert {line.split()[-1] for line in segments.splitlines() if " LOAD " in line} == {"0x4000"}
    if profile.detect().arch != "aarch64":
        with pytest.raises(ArtifactError, match="made for aarch64"):
            loader.load(folder)


def test_a_library_for_a_better_cpu_says_so(made: Sample, tmp_path: Path) -> None:
    """A library that asks for what no x86-64 CPU so far has (AMX and AVX-VNNI apart, every AVX-512 extension and FP16)."""
    if profile.detect().arch != "x86_64" or "avx512fp16" in profile.detect().isa:
        pytest.skip("needs an x86-64 CPU without avx512fp16")
    better = replace(made.device, isa=(*made.device.isa, "avx512fp16"))
    folder = artifact.write(made.plan, made.kernels, made.weights, made.inputs, made.outputs, better, tmp_path / "better")
    with pytest.raises(ArtifactError, match="lacks instructions"):
        loader.load(folder)


def test_the_toolchain_names_the_first_error(made: Sample) -> None:
    with pytest.raises(toolchain.ToolchainError, match="undeclared identifier 'oops'"):
        toolchain.build(toolchain.triple(made.device), ("-c",), {"a.c": "int f(void) { return oops; }"}, {}, ())


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_a_short_life_ends(made: Sample, tmp_path: Path, shared: int) -> None:
    """With none, the first or the last launch shared among more threads than there are CPUs, no worker misses the end."""
    launches = tuple(replace(x, flops=10**9 * (shared > 0 and n == 2 * (shared - 1))) for n, x in enumerate(made.plan.launches))
    folder = artifact.write(replace(made.plan, launches=launches), *made.arguments[1:], tmp_path / "net")
    for _ in range(100):
        with loader.load(folder, 5, verify=False) as model:
            y, _ = model(*made.inputs)
            assert model.threads == (5 if shared else 1)
        np.testing.assert_array_equal(y, made.outputs[0])
