"""Writes a web package: a folder that is an npm package, with a compiled model in WebAssembly. Same input, same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...schedules.device import Device
from ..cpu import driver as c
from ..cpu.artifact import Arrays, check_sample, install, kernel, machine, refuse_to_overwrite, shared
from ..cpu.errors import ArtifactError
from ..plan import KernelCode, Plan, Signature
from . import demo, driver, manifest, module, profile, text, toolchain

HASH = 8        # hexadecimal digits of the SHA-256 in the names of files that may be cached for ever
# Bytes that the loader hashes at once, while the next ones arrive. Chromium hashes 104 MB in 62 ms by pieces of this size; in 120
# by those of 1 MiB and more, for which it allocates and frees memory each time.
PIECE = 1 << 18


@dataclass(frozen=True)
class Code:
    """A linked build: its module, where its heap begins, the pages of memory that it takes with one thread."""

    file: str
    content: bytes
    heap_base: int
    pages: int


def write(plan: Plan, builds: Mapping[str, Sequence[KernelCode]], weights: bytes | np.ndarray, inputs: Arrays, outputs: Arrays,
          devices: Mapping[str, Device], out_dir: str | Path, *, passes: Sequence[str] = (),
          tools: Mapping[str, str] | None = None, info: Mapping[str, Any] | None = None,
          check: Callable[[Path], None] | None = None) -> Path:
    """Links the builds and writes everything to `out_dir`; returns it. builds: the kernels of each of `profile.BUILDS`, all
    made for this plan; devices: what each is for; inputs, outputs: the sample and what it should give.

    The folder appears whole or not at all. check: called with the finished folder before it is put in place; what it raises ends
    the writing with nothing left behind. Raises ArtifactError where `out_dir` holds something else than a web package or the
    sample does not fit the plan, ToolchainError where the linker fails or the model needs more memory than a module can have.
    """
    place = Path(out_dir).resolve()
    refuse_to_overwrite(place, manifest.read)
    check_sample("input", plan.inputs, inputs)
    check_sample("output", plan.outputs, outputs)
    check_names("input", plan.inputs)
    check_names("output", plan.outputs)
    payload = weights if isinstance(weights, bytes) else weights.tobytes()
    if len(payload) != plan.weights:
        raise ArtifactError(f"the plan has {plan.weights} bytes of weights, {len(payload)} came")
    if set(builds) != set(profile.BUILDS) or set(devices) != set(builds):
        raise ArtifactError(f"a package has the builds {', '.join(profile.BUILDS)}; kernels came for {', '.join(builds)}, "
                            f"devices for {', '.join(devices)}")

    ways = (False, True) if driver.is_shared(plan) else (False,)
    made_from = {name(build, threads): (build, threads) for threads in ways for build in profile.BUILDS}
    linked = {n: link(plan, n, builds[build], threads) for n, (build, threads) in made_from.items()}
    files = contents(plan, linked, payload, inputs, outputs)
    record = manifest.Manifest(**shared(plan, files, passes, tools or {}, info or {}), package=driver.package_name(plan.name),
                               builds={n: describe(x, builds[made_from[n][0]], devices[made_from[n][0]])
                                       for n, x in linked.items()})
    files[manifest.FILE] = (record.model_dump_json(indent=1) + "\n").encode()
    install(files, place, check, (demo.SERVER,))
    return place


def check_names(kind: str, signatures: Sequence[Signature]) -> None:
    names = [s.name for s in signatures]
    if len(set(names)) != len(names):
        raise ArtifactError(f"two {kind}s have the same name, by which JavaScript tells them apart: {', '.join(names)}")


def name(build: str, threads: bool) -> str:
    """Of a build for one thread or for several, whose kernels are the same."""
    return f"{build}-threads" if threads else build


def link(plan: Plan, name: str, kernels: Sequence[KernelCode], threads: bool) -> Code:
    objects = {f"k{n}.o": k.code for n, k in enumerate(kernels)}
    content = toolchain.link(driver.source(plan), objects, driver.exports(plan, threads), threads)
    heap = module.exported_address(content, "__heap_base")
    return Code(f"{c.identifier(plan.name)}.{name}.{short(content)}.wasm", content, heap,
                driver.pages(heap, driver.layout(plan).size))


def short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:HASH]


def describe(code: Code, kernels: Sequence[KernelCode], device: Device) -> manifest.Build:
    return manifest.Build(
        file=code.file, pages=code.pages, heap_base=code.heap_base,
        device=machine(device), kernels=tuple(kernel(k, module.code_bytes(k.code, k.symbol)) for k in kernels))


# ---- The files ---------------------------------------------------------------------------------------------------------


def contents(plan: Plan, linked: Mapping[str, Code], weights: bytes, inputs: Arrays, outputs: Arrays) -> dict[str, bytes]:
    """Every file but the manifest, by its path in the folder."""
    weights_file = f"{c.identifier(plan.name)}.{short(weights)}.weights"
    files = {code.file: code.content for code in linked.values()}
    files |= {weights_file: weights, "index.js": index_js(plan, linked, weights_file, weights).encode(),
              "index.d.ts": text.types(plan).encode(), "LICENSE": text.read("LICENSE").encode()}
    parts = ("threads.js", "worker.js", *(("ways.js", "tune.js") if plan.tunable else ()))
    files |= {name: text.read(name).encode() for name in parts}
    files |= sample(plan, inputs, outputs)
    sizes = {name: len(files[name]) for name in ("index.js", *parts, *(x.file for x in linked.values()), weights_file)}
    files |= demo.contents(plan, sizes)
    files["README.md"] = text.readme(plan, sizes, max(x.pages for x in linked.values()) * driver.PAGE,
                                      driver.stride(plan)).encode()
    files["package.json"] = package_json(plan, files).encode()
    return files


def index_js(plan: Plan, linked: Mapping[str, Code], weights_file: str, weights: bytes) -> str:
    at = driver.layout(plan)

    def described(signatures: Sequence[Signature], places: Sequence[int]) -> list[dict[str, Any]]:
        return [{"name": s.name, "dtype": s.dtype, "shape": s.shape, "at": place, "length": int(np.prod(s.shape, dtype=np.int64))}
                for s, place in zip(signatures, places, strict=True)]

    model = {
        "inputs": described(plan.inputs, at.inputs), "outputs": described(plan.outputs, at.outputs),
        "weights": {**file(weights_file, weights), "at": at.weights}, "piece": PIECE,
        "builds": {b: {**file(x.file, x.content), "heap": x.heap_base} for b, x in linked.items()},
        "kernels": [{"launches": n, "ways": len(plan.launches[n[0]].ways)} for n in plan.tunable.values()],
        "setup": driver.needs(plan), "launches": len(plan.launches),
        "threads": driver.MAX_THREADS if driver.is_shared(plan) else 1,
        "dots": any(module.has_relaxed_dot(x.content) for x in linked.values()),
        "bytes": at.size, "scratch": at.scratch, "stride": driver.stride(plan),
    }
    names = [*(x.file for x in linked.values()), weights_file]
    urls = "".join(f'  "{name}": () => new URL("./{name}", import.meta.url),\n' for name in names)
    ways = '() => import("./ways.js")' if plan.tunable else "null"
    return text.fill("index.js", MODEL=json.dumps(model), FILES=urls, WAYS=ways)


def file(name: str, content: bytes) -> dict[str, Any]:
    """What the loader checks: the size, and the SHA-256 of the SHA-256 of each piece."""
    hashes = (hashlib.sha256(content[at:at + PIECE]).digest() for at in range(0, len(content), PIECE))
    return {"file": name, "bytes": len(content), "sha256": hashlib.sha256(b"".join(hashes)).hexdigest()}


def sample(plan: Plan, inputs: Arrays, outputs: Arrays) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    listed: dict[str, list[dict[str, Any]]] = {}
    for kind, signatures, arrays in (("input", plan.inputs, inputs), ("output", plan.outputs, outputs)):
        names = [f"{kind}_{n}.bin" for n in range(len(arrays))]
        files |= {f"sample/{name}": a.tobytes() for name, a in zip(names, arrays, strict=True)}
        listed[f"{kind}s"] = [{"name": s.name, "dtype": s.dtype, "shape": s.shape, "file": name}
                              for s, name in zip(signatures, names, strict=True)]
    return files | {"sample/sample.json": (json.dumps(listed, indent=1) + "\n").encode()}


def package_json(plan: Plan, files: Mapping[str, bytes]) -> str:
    return json.dumps({
        "name": driver.package_name(plan.name), "version": "1.0.0",
        "description": f"{c.comment(plan.name)}, compiled to WebAssembly by burnish", "license": "SEE LICENSE IN LICENSE",
        "type": "module", "main": "./index.js", "types": "./index.d.ts",
        "exports": {".": {"types": "./index.d.ts", "default": "./index.js"}, "./package.json": "./package.json",
                    "./manifest.json": "./manifest.json", "./sample/*": "./sample/*"},
        "bin": {driver.package_name(plan.name): f"./{demo.SERVER}"},
        "files": sorted({name.split("/")[0] for name in files} | {manifest.FILE}),
        "sideEffects": False, "engines": {"node": ">=20.16"},
    }, indent=2) + "\n"
