"""`burnish inspect`: what is in an artifact of any target."""

from __future__ import annotations

import gzip
from collections import Counter

from ..targets.cpu import manifest
from . import targets, ui
from .options import ArtifactDir, Json


def inspect(artifact: ArtifactDir, json: Json = False) -> None:
    """Show what is in an artifact: inputs, outputs, memory, code, and whether every file is what the compiler wrote.

    The kernels are those of the first build, by size."""
    folder = artifact.resolve()
    record = targets.read(folder)
    manifest.verify(folder, record)
    code = {name: (folder / c.file).read_bytes() for name, c in record.codes.items()}
    packed = {name: len(gzip.compress(c)) for name, c in code.items()}
    if json:
        sizes = {name: {"file": c.file, "bytes": len(code[name]), "gzip": packed[name]} for name, c in record.codes.items()}
        ui.print_json({**record.model_dump(), "code": sizes, "memory": record.memory})
        return
    best, *_ = record.codes.values()
    ui.say(f"{record.name} for {', '.join(record.codes)} ({best.device.arch})", "bold")
    for kind, tensors in (("input", record.inputs), ("output", record.outputs)):
        for t in tensors:
            ui.say(f"  {kind:8s} {t}")
    ui.say(f"  memory   {ui.size(record.memory)} (weights {ui.size(record.weights)}, made of them {ui.size(record.prepared)}, "
           f"arena {ui.size(record.arena)}, scratch {ui.size(record.scratch)})")
    for name, c in record.codes.items():
        ui.say(f"  code     {c.file}: {ui.size(len(code[name]))}, {ui.size(packed[name])} with gzip")
    ui.say(f"  made by  {', '.join(f'{k} {v}' for k, v in record.tools.items())}")
    uses = Counter(x.kernel for x in (*record.setup, *record.launches))
    table = ui.table("code", "launches", "kernel", "made by", "chosen by", numbers=2)
    for k in sorted(best.kernels, key=lambda k: -k.code_bytes):
        ui.row(table, ui.size(k.code_bytes), str(uses[k.symbol]), k.symbol,
               " ".join([k.template, *(f"{n}={v}" for n, v in k.knobs.items())]), k.origin)
    ui.out.print(table)
    ui.say(f"all {len(record.files)} files are as the compiler wrote them (SHA-256)")
