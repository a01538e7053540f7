"""The C toolchain: zig, from PyPI, compiles and links for every CPU target on any host.

Same sources and objects, same bytes: no build id, no paths, no times, and nothing of the host's headers or libraries.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from ...schedules.clang import zig
from ...schedules.device import Device
from .errors import ToolchainError

GLIBC = "2.17"      # the oldest glibc that a library asks for: that of CentOS 7, and the first for ARM64
TIMEOUT = 600       # seconds: zig builds its C library's start files on first use

_COMPILE = ("-std=c11", "-O2", "-fno-ident", "-ffunction-sections", "-fdata-sections", "-fno-sanitize=undefined",
            "-fno-asynchronous-unwind-tables", "-Wall", "-Wextra", "-Werror")
_LINK = ("-s", "-Wl,--gc-sections", "-Wl,-z,noexecstack", "-Wl,--build-id=none")
_PAGES = {"aarch64": ("-Wl,-z,max-page-size=16384",)}       # Android and Apple systems use pages of 16 KiB


def versions() -> dict[str, str]:
    """What built the library, for its manifest."""
    return {"ziglang": version("ziglang")}


def triple(device: Device, static: bool = False) -> str:
    """zig's name of the device's target; `static` for a program that needs no C library where it runs."""
    arch, _, system, *_ = str(dict(device.llvm)["mtriple"]).split("-")
    if system != "linux" or arch not in ("x86_64", "aarch64"):
        raise ToolchainError(f"no CPU library can be built for {dict(device.llvm)['mtriple']}")
    return f"{arch}-linux-musl" if static else f"{arch}-linux-gnu.{GLIBC}"


def shared_library(device: Device, sources: Mapping[str, str], objects: Mapping[str, bytes], include: Iterable[Path],
                   name: str) -> bytes:
    """The content of `lib<name>.so`, of which others see the symbols `<name>_…`. sources: C files by name, headers among them;
    objects: object files by name; include: folders whose `.c` files belong to it. Raises ToolchainError."""
    script = {"exports.map": f"{{ global: {name}_*; local: *; }};\n"}
    flags = (*_COMPILE, "-fPIC", "-shared", "-fvisibility=hidden", *_LINK, "-Wl,--version-script=exports.map",
             f"-Wl,-soname,lib{name}.so", *_PAGES.get(device.arch, ()), "-lpthread")
    return build(triple(device), flags, {**sources, **script}, objects, include)


def program(device: Device, sources: Mapping[str, str], objects: Mapping[str, bytes], include: Iterable[Path]) -> bytes:
    """As `shared_library`, but a static program: it runs on any Linux of that architecture, and under qemu-user, by itself."""
    return build(triple(device, static=True), (*_COMPILE, "-static", *_LINK), sources, objects, include)


def executable(device: Device, sources: Path) -> bytes:
    """The folder's C files as a program that can load libraries (a static one cannot); it needs a C library where it runs."""
    return build(triple(device), (*_COMPILE, *_LINK, "-ldl"), {}, {}, (sources,))


def kernel_library(objects: Sequence[bytes]) -> bytes:
    """The objects as a shared library that shows all their symbols, by zig's own linker: milliseconds, where `cc` takes a tenth
    of a second. What they miss (memcpy, libm) is looked for in the program that loads it. Raises ToolchainError."""
    with tempfile.TemporaryDirectory(prefix="burnish-ld-") as name:
        folder = Path(name)
        names = [f"k{n}.o" for n in range(len(objects))]
        for file, content in zip(names, objects, strict=True):
            (folder / file).write_bytes(content)
        ld("ld.lld", "-shared", "-Bsymbolic", "-z", "noexecstack", "-o", "result", *names, folder=folder)
        return (folder / "result").read_bytes()


def build(target: str, flags: Sequence[str], sources: Mapping[str, str], objects: Mapping[str, bytes],
          include: Iterable[Path]) -> bytes:
    """Runs zig in an empty folder, so that no path of this machine can end up in the result."""
    with tempfile.TemporaryDirectory(prefix="burnish-cc-") as name:
        folder = Path(name)
        files = {path.name: path.read_bytes() for source in include for path in source.iterdir() if path.is_file()}
        files |= {file: text.encode() for file, text in sources.items()}
        for file, content in (files | dict(objects)).items():
            (folder / file).write_bytes(content)
        inputs = [*sorted(f for f in files if f.endswith(".c")), *objects]
        cc("-target", target, *flags, "-o", "result", *inputs, folder=folder)
        return (folder / "result").read_bytes()


def cc(*arguments: str, folder: Path) -> None:
    """One call of zig's C compiler. Its global cache (start files, stubs of the C library) stays where zig keeps it for the
    user: filling it takes 5 to 40 s once for each target. What it compiles for us is cached nowhere."""
    command = [sys.executable, "-m", "ziglang", "cc", *arguments]
    with tempfile.TemporaryDirectory(prefix="burnish-zig-") as cache:
        _run("the C compiler", command, folder, environment(cache))


def ld(*arguments: str, folder: Path) -> None:
    """One call of zig's own linker; the first argument says for which format: "ld.lld" or "wasm-ld"."""
    _run("the linker", [str(zig()), *arguments], folder)


def _run(who: str, command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> None:
    """Raises ToolchainError where it fails or takes too long."""
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, errors="replace",
                              stdin=subprocess.DEVNULL, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as e:
        raise ToolchainError(f"{who} did not end within {TIMEOUT} s") from e
    if done.returncode != 0:
        raise ToolchainError(f"{who} failed: {first_error(done.stderr)}", done.stderr)


def environment(local_cache: str) -> dict[str, str]:
    """zig takes its local cache's place only from the environment; nothing else of ours is told that way."""
    return {**os.environ, "ZIG_LOCAL_CACHE_DIR": local_cache}


def first_error(log: str) -> str:
    """The line that says what is wrong."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if re.search(r"\berror\b", line)), lines[-1] if lines else "no message")
