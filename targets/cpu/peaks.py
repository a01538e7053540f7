"""This machine's ceilings, measured: multiply-adds of one core in registers, and the bandwidth at which it reads memory.

They are what `measure` compares kernels with. Measured once for a device and kept in the user's cache folder.
"""

from __future__ import annotations

import ctypes
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from ...schedules.device import Device
from . import toolchain

CACHE = Path.home() / ".cache" / "burnish" / "peaks"
ACCUMULATORS = 12       # enough independent chains for a latency of 4 cycles and two pipes, on 16 registers
STREAM_MIB = 256        # beyond any cache

SOURCE = """\
#define _POSIX_C_SOURCE 200809L
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
typedef float vector __attribute__((vector_size({lanes} * 4)));
static double now(void) {{ struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }}
static volatile float sink;

/* Multiply-adds per second, times two: the best of `rounds`. */
double peaks_flops(int rounds) {{
    const long steps = 1 << 20;
    double best = 0;
    for (int r = 0; r < rounds; r++) {{
        vector a[{n}], x = {{0}}, y = {{0}};
        for (int i = 0; i < {n}; i++) a[i] = x + (float)i;
        x += 0.999f; y += 1e-3f;
        double start = now();
        for (long s = 0; s < steps; s++) {{
            __asm__ volatile("" : "+{constraint}"(x));
#pragma clang loop unroll(full)
            for (int i = 0; i < {n}; i++) a[i] = __builtin_elementwise_fma(a[i], x, y);
        }}
        double rate = 2.0 * {lanes} * {n} * steps / (now() - start);
        for (int i = 1; i < {n}; i++) a[0] += a[i];
        sink = a[0][0];
        if (rate > best) best = rate;
    }}
    return best;
}}

/* Bytes read per second from an array of `bytes`: the best of `rounds`. */
double peaks_bandwidth(int64_t bytes, int rounds) {{
    int64_t n = bytes / sizeof(vector);
    vector *data = aligned_alloc(64, n * sizeof(vector));
    if (!data) return 0;
    for (int64_t i = 0; i < n; i++) data[i] = (vector){{0}} + 1.0f;
    double best = 0;
    for (int r = 0; r < rounds; r++) {{
        vector s[8] = {{{{0}}}};
        double start = now();
        for (int64_t i = 0; i + 8 <= n; i += 8)
            for (int j = 0; j < 8; j++) s[j] += data[i + j];
        double rate = n * sizeof(vector) / (now() - start);
        for (int j = 1; j < 8; j++) s[0] += s[j];
        sink = s[0][0];
        if (rate > best) best = rate;
    }}
    free(data);
    return best;
}}
"""


@dataclass(frozen=True)
class Peaks:
    """Of one core: float32 operations per second in registers, bytes per second read from memory."""

    flops: float
    bandwidth: float


def peaks(device: Device) -> Peaks:
    """The ceilings of this machine, which must be the `device`. Raises ToolchainError where the C compiler fails."""
    place = CACHE / f"{device.name}.json"
    if place.exists():
        try:
            return Peaks(**json.loads(place.read_text()))
        except (ValueError, TypeError):
            place.unlink()
    found = measure(device)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(asdict(found)))
    return found


def measure(device: Device, rounds: int = 12) -> Peaks:
    """About half a second of work on one core."""
    constraint = {"x86_64": "v", "aarch64": "w"}[device.arch]
    source = SOURCE.format(lanes=device.lanes, n=ACCUMULATORS, constraint=constraint)
    cpu = str(dict(device.llvm)["mcpu"]).replace("-", "_")
    flags = ("-std=c11", "-O2", "-fPIC", "-shared", f"-mcpu={cpu}", "-fno-sanitize=undefined")
    code = toolchain.build(toolchain.triple(device), flags, {"peaks.c": source}, {}, ())
    with tempfile.TemporaryDirectory(prefix="burnish-peaks-") as folder:
        path = Path(folder) / "libpeaks.so"
        path.write_bytes(code)
        library = ctypes.CDLL(str(path))
        for name in ("peaks_flops", "peaks_bandwidth"):
            getattr(library, name).restype = ctypes.c_double
        return Peaks(library.peaks_flops(rounds), library.peaks_bandwidth(ctypes.c_int64(STREAM_MIB << 20), rounds))
