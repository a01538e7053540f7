"""Writes an artifact: a folder that holds a compiled model and all that is needed to use it. Same input, same bytes."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...schedules.device import Device
from ..plan import KernelCode, Launch, Plan, Signature
from . import driver, manifest, toolchain
from .errors import ArtifactError

Arrays = Sequence[np.ndarray]


def write(plan: Plan, kernels: Sequence[KernelCode], weights: bytes | np.ndarray, inputs: Arrays, outputs: Arrays, device: Device,
          out_dir: str | Path, *, passes: Sequence[str] = (), tools: Mapping[str, str] | None = None,
          info: Mapping[str, Any] | None = None, program: bool = False, check: Callable[[Path], None] | None = None) -> Path:
    """Builds the library and writes everything to `out_dir`; returns it. inputs, outputs: the sample and what it should give.

    The folder appears whole or not at all: it is built beside its place and then renamed, so an artifact that a process has
    loaded can be replaced. program: also a static program `<name>`, which runs where a library cannot be loaded (an emulator, a
    phone's shell). check: called with the finished folder before it is put in place; what it raises ends the writing with nothing
    left behind. Raises ArtifactError where `out_dir` holds something else than an artifact or the sample does not fit the
    plan, ToolchainError where the C compiler fails.
    """
    place = Path(out_dir).resolve()
    refuse_to_overwrite(place)
    check_sample("input", plan.inputs, inputs)
    check_sample("output", plan.outputs, outputs)
    payload = weights if isinstance(weights, bytes) else weights.tobytes()
    if len(payload) != plan.weights:
        raise ArtifactError(f"the plan has {plan.weights} bytes of weights, {len(payload)} came")

    files = contents(plan, kernels, payload, inputs, outputs, device, program)
    record = describe(plan, kernels, device, files, passes, tools or {}, info or {})
    files[manifest.FILE] = (record.model_dump_json(indent=1) + "\n").encode()

    install(files, place, check, (record.identifier,) if program else ())
    return place


def install(files: Mapping[str, bytes], place: Path, check: Callable[[Path], None] | None, programs: Sequence[str] = ()) -> None:
    """Writes the files beside `place`, lets `check` see the folder, and puts it in place. programs: files that may be run."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as temporary:
        fresh = Path(temporary) / "new"
        for name, content in files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(content)
        for name in programs:
            (fresh / name).chmod(0o755)
        if check is not None:
            check(fresh)
        put_in_place(fresh, place, Path(temporary) / "old")


def refuse_to_overwrite(place: Path, read: Callable[[Path], object] = manifest.read) -> None:
    """Only an artifact or an empty folder may be replaced. read: raises ArtifactError for what is no artifact of the kind."""
    if place.is_dir():
        if any(place.iterdir()):
            try:
                read(place)
            except ArtifactError as e:
                raise ArtifactError(f"{place} holds other files, which are not overwritten: choose another folder") from e
    elif place.exists():
        raise ArtifactError(f"{place} is a file")


def put_in_place(fresh: Path, place: Path, old: Path) -> None:
    """Two renames: between them, for some microseconds, there is nothing at `place`."""
    if place.exists():
        os.rename(place, old)
    try:
        os.rename(fresh, place)
    except OSError:
        if old.exists():
            os.rename(old, place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_sample(kind: str, signatures: Sequence[Signature], arrays: Arrays) -> None:
    if [(s.shape, s.dtype) for s in signatures] != [(a.shape, str(a.dtype)) for a in arrays]:
        raise ArtifactError(f"the sample's {kind}s are {[f'{a.dtype}{list(a.shape)}' for a in arrays]}, the plan's "
                            f"{[f'{s.dtype}{list(s.shape)}' for s in signatures]}")


# ---- The files ---------------------------------------------------------------------------------------------------------


def contents(plan: Plan, kernels: Sequence[KernelCode], weights: bytes, inputs: Arrays, outputs: Arrays, device: Device,
             program: bool) -> dict[str, bytes]:
    """Every file but the manifest, by its path in the folder."""
    name = driver.identifier(plan.name)
    weight_id = int.from_bytes(hashlib.sha256(weights).digest()[:8], "little")
    header, example = driver.header(plan), driver.example(plan)
    sources = {f"{name}.h": header, f"{name}.c": driver.source(plan, device, weight_id)}
    objects = {f"k{n}.o": k.code for n, k in enumerate(kernels)}
    include = [driver.RUNTIME]
    files = {
        f"lib{name}.so": toolchain.shared_library(device, sources, objects, include, name),
        f"{name}.weights": weights_header(len(weights), weight_id) + weights,
        f"{name}.h": header.encode(),
        "driver.c": sources[f"{name}.c"].encode(),
        "example.c": example.encode(),
        "Makefile": makefile(name).encode(),
        "README.md": readme(plan, device, program).encode(),
        "sample.npz": npz({f"input_{n}": a for n, a in enumerate(inputs)} | {f"output_{n}": a for n, a in enumerate(outputs)}),
    }
    for kind, arrays in (("input", inputs), ("output", outputs)):
        files |= {f"sample/{kind}_{n}.bin": a.tobytes() for n, a in enumerate(arrays)}
    if program:
        files[name] = toolchain.program(device, sources | {"example.c": example}, objects, include)
    return files


def weights_header(size: int, weight_id: int) -> bytes:
    """The 64 bytes that `runtime/weights.c` checks."""
    return struct.pack("<8sIIQQ32x", b"BURNISHW", 1, 0, size, weight_id)


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """As numpy.savez, but without the time of day."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, np.asanyarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0)), data.getvalue())
    return out.getvalue()


def describe(plan: Plan, kernels: Sequence[KernelCode], device: Device, files: Mapping[str, bytes], passes: Sequence[str],
             tools: Mapping[str, str], info: Mapping[str, Any]) -> manifest.Manifest:
    return manifest.Manifest(**shared(plan, files, passes, tools, info), device=machine(device),
                             kernels=tuple(kernel(k, code_bytes(k)) for k in kernels))


def shared(plan: Plan, files: Mapping[str, bytes], passes: Sequence[str], tools: Mapping[str, str],
           info: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of manifest.Made, which the manifests of all targets have."""
    return {
        "name": plan.name, "identifier": driver.identifier(plan.name),
        "inputs": tuple(map(tensor, plan.inputs)), "outputs": tuple(map(tensor, plan.outputs)),
        "arena": plan.arena, "scratch": plan.scratch, "weights": plan.weights, "prepared": plan.prepared,
        "launches": tuple(map(launch, plan.launches)), "setup": tuple(map(launch, plan.setup)),
        "passes": tuple(passes), "tools": dict(sorted({**toolchain.versions(), **tools}.items())),
        "info": dict(sorted({**dict(plan.info), **info}.items())),
        "files": {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}}


def tensor(s: Signature) -> manifest.Tensor:
    return manifest.Tensor(name=s.name, dtype=s.dtype, shape=s.shape)


def machine(device: Device) -> manifest.Machine:
    return manifest.Machine(name=device.name, arch=device.arch, llvm=dict(device.llvm), isa=device.isa, lanes=device.lanes,
                            vector_registers=device.vector_registers)


def kernel(k: KernelCode, code_bytes: int) -> manifest.Kernel:
    return manifest.Kernel(symbol=k.symbol, code_bytes=code_bytes, template=k.template, knobs=dict(k.knobs), task=k.task,
                           origin=k.origin)


def launch(x: Launch) -> manifest.Launch:
    return manifest.Launch(kernel=x.kernel, nodes=x.nodes, tiles=x.tiles, scratch=x.scratch, flops=x.flops, bytes=x.bytes,
                           args=tuple((p.where, p.offset, p.start) for p in x.args),
                           variants=tuple(v.kernel for v in x.variants))


def code_bytes(kernel: KernelCode) -> int:
    """Size of the kernel's function, from the symbol table of its ELF64 object; 0 where there is none."""
    data = kernel.code
    section_at, = struct.unpack_from("<Q", data, 40)
    count, = struct.unpack_from("<H", data, 60)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, section_at + 64 * n) for n in range(count)]
    for _, kind, _, _, offset, size, link, _, _, _ in sections:
        if kind != 2:       # SHT_SYMTAB
            continue
        names = sections[link][4]
        for at in range(offset, offset + size, 24):
            name, _, _, _, _, length = struct.unpack_from("<IBBHQQ", data, at)
            start = names + name
            if data[start:data.index(0, start)] == kernel.symbol.encode():
                return int(length)
    return 0


def makefile(name: str) -> str:
    return f"""\
# `make` builds the example, `make run` runs it on the sample.
CFLAGS ?= -O2 -Wall

example: example.c {name}.h lib{name}.so
\t$(CC) -std=c11 $(CFLAGS) example.c -o $@ -L. -l{name} -lm '-Wl,-rpath,$$ORIGIN'

run: example
\t./example

clean:
\trm -f example

.PHONY: run clean
"""


def readme(plan: Plan, device: Device, program: bool) -> str:
    name = driver.identifier(plan.name)
    rows = [f"| {kind} {n} | `{s.name}` | {s.dtype} | {' x '.join(map(str, s.shape)) or 'scalar'} |"
            for kind, them in (("input", plan.inputs), ("output", plan.outputs)) for n, s in enumerate(them)]
    table = "\n".join(rows)
    alone = (f"| `{name}` | a static program: `./{name} {name}.weights THREADS IN… OUT…` on raw files, or the sample without "
             "arguments |\n" if program else "")
    return f"""\
# {driver.comment(plan.name)}

A model compiled by burnish for {device.name} ({device.arch}). It needs nothing but a C library.

| | name | dtype | shape |
|---|---|---|---|
{table}

    import burnish
    model = burnish.load("this folder")
    y = model(x)

In C: `make run` builds `example.c` and compares the sample's output with the expected one.

| file | |
|---|---|
| `lib{name}.so`, `{name}.h` | the library and its documented interface |
| `{name}.weights` | the weights, mapped read-only |
{alone}| `driver.c` | the generated source of the library, to read: which kernel computes which ONNX node |
| `manifest.json` | kernels, sizes, versions, SHA-256 of every file |
| `sample.npz`, `sample/` | an input and the expected output, for numpy and as raw bytes |
"""
