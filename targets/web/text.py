"""The texts of a web package that name the model's own inputs and outputs: types and README, from the templates in `files/`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..cpu.driver import comment
from ..plan import Plan, Signature
from .driver import package_name

FILES = Path(__file__).parent / "files"

# The JavaScript array that holds a numpy dtype: the loader's own table says the same.
ARRAYS = {
    "float64": "Float64Array", "float32": "Float32Array", "float16": "Uint16Array", "bool": "Uint8Array",
    "int8": "Int8Array", "int16": "Int16Array", "int32": "Int32Array", "int64": "BigInt64Array",
    "uint8": "Uint8Array", "uint16": "Uint16Array", "uint32": "Uint32Array", "uint64": "BigUint64Array"}


def read(name: str) -> str:
    return (FILES / name).read_text()


def fill(template: str, /, **values: str) -> str:
    """A file of `files/` with a value for every @NAME@ in it."""
    return re.sub(r"@([A-Z]+)@", lambda m: values[m[1]], read(template))


def types(plan: Plan) -> str:
    """`index.d.ts`."""
    return fill("index.d.ts", INPUTS=fields(plan.inputs), OUTPUTS=fields(plan.outputs))


def fields(signatures: Sequence[Signature]) -> str:
    return "".join(f"  /** {s.dtype}[{', '.join(map(str, s.shape))}] */\n  {json.dumps(s.name)}: {ARRAYS[s.dtype]};\n"
                   for s in signatures)


def readme(plan: Plan, sizes: Mapping[str, int], memory: int, more: int) -> str:
    """sizes: bytes by file; memory: bytes; more: bytes for each thread but the first."""
    rows = [f"| {kind} | `{code(s.name)}` | {s.dtype} | {' x '.join(map(str, s.shape)) or 'scalar'} | {ARRAYS[s.dtype]} |"
            for kind, them in (("input", plan.inputs), ("output", plan.outputs)) for s in them]
    team = "loaded for more than one thread"
    what = {".wasm": "the code: one build is loaded", ".weights": "the weights", "tune.js": "`tune`, loaded when it is called",
            "threads.js": team, "worker.js": team, ".js": "the loader"}
    return fill(
        "README.md", TITLE=comment(plan.name), PACKAGE=package_name(plan.name), TABLE="\n".join(rows),
        INPUT=", ".join(f"{key(s.name)}: new {ARRAYS[s.dtype]}(…)" for s in plan.inputs),
        OUTPUT=", ".join(key(s.name) if key(s.name) == s.name else f"{key(s.name)}: output{n}"
                         for n, s in enumerate(plan.outputs)),
        TUNING=read("tuning.md") if plan.tunable else "", MEMORY=f"{memory / 2**20:.1f}", MORE=f"{more / 2**10:.0f}",
        SIZES="\n".join(f"| `{name}` | {size:,} | {what.get(name) or what[Path(name).suffix]} |" for name, size in sizes.items()))


def key(name: str) -> str:
    """The name as a key of an object literal."""
    return name if re.fullmatch(r"[A-Za-z_$][\w$]*", name, re.ASCII) else json.dumps(name)


def code(name: str) -> str:
    """The name inside a table's `…`."""
    return comment(name).replace("`", "'").replace("|", "\\|")
