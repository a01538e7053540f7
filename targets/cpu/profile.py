"""Device profiles: this machine's, detected, and those of other machines, read from `devices/*.toml`."""

from __future__ import annotations

import os
import platform
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...schedules.device import Device
from .errors import DeviceError

DEVICES = Path(__file__).parent / "devices"
CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

# What the user calls a target, where that is not the name of its device profile.
TARGETS = {"linux-arm64": "cortex-a76", "linux-x64": "x86-64-v3"}


class Profile(BaseModel):
    """A file of `devices/`. triple, cpu, features: as LLVM names them; isa: what templates may ask for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arch: str = Field(pattern=r"^(x86_64|aarch64|wasm32)$")
    triple: str = Field(pattern=r"^[a-z0-9_]+(-[a-z0-9_]+){2,3}$")
    cpu: str = Field(pattern=r"^[a-z0-9_.-]+$")
    features: tuple[str, ...] = ()
    isa: tuple[str, ...]
    lanes: int = Field(ge=1, le=64)
    vector_registers: int = Field(ge=4, le=256)
    l1_kib: int = Field(ge=1)
    l2_kib: int = Field(ge=1)
    l3_kib: int = Field(default=0, ge=0)
    cores: int = Field(default=1, ge=1)
    source: str

    def device(self, name: str) -> Device:
        llvm: tuple[tuple[str, str | tuple[str, ...]], ...] = (("mtriple", self.triple), ("mcpu", self.cpu))
        if self.features:
            llvm = (*llvm, ("mattr", self.features))
        return Device(name, self.arch, llvm, self.isa, self.lanes, self.vector_registers,
                      self.l1_kib, self.l2_kib, self.l3_kib, self.cores, self.source)


def names() -> tuple[str, ...]:
    """Every device with a profile."""
    return tuple(sorted(path.stem for path in DEVICES.glob("*.toml")))


def load(name: str) -> Device:
    """The device `name` of `devices/`. Raises DeviceError where there is none or its file is not a profile."""
    if name not in names():
        raise DeviceError(f"no device {name!r}; there are {', '.join(names())}")
    return read(DEVICES / f"{name}.toml", name)


def read(path: Path, name: str) -> Device:
    """The device `name` of a target's profile. Raises DeviceError where the file is none."""
    try:
        return Profile.model_validate(tomllib.loads(path.read_text())).device(name)
    except (ValidationError, tomllib.TOMLDecodeError) as e:
        raise DeviceError(f"devices/{path.name} is not a device profile: {e}") from e


def find(target: str) -> Device:
    """The device of a target: "native" is this machine, "linux-arm64" and the like a usual one, else a device's name."""
    return detect() if target == "native" else load(TARGETS.get(target, target))


# ---- This machine ------------------------------------------------------------------------------------------------------


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def detect() -> Device:
    """This machine. Raises DeviceError where its architecture is neither x86-64 nor ARM64, or the system is not Linux."""
    if platform.system() != "Linux":
        raise DeviceError(f"cannot describe a {platform.system()} machine: name a device, one of {', '.join(names())}")
    info = CPUINFO.read_text()
    if platform.machine() in ("x86_64", "AMD64"):
        profile = x86(info)
    elif platform.machine() == "aarch64":
        profile = arm(info)
    else:
        raise DeviceError(f"no CPU target for {platform.machine()}")
    return profile.device(profile.cpu)


# Linux's names of CPU flags that LLVM spells otherwise.
_LLVM_NAMES = {"avx512_vnni": "avx512vnni", "avx512_bf16": "avx512bf16", "avx512_fp16": "avx512fp16", "avx_vnni": "avxvnni",
               "avx512_vbmi2": "avx512vbmi2", "avx512_bitalg": "avx512bitalg", "avx512_vpopcntdq": "avx512vpopcntdq",
               "avx512_vp2intersect": "avx512vp2intersect", "bmi1": "bmi", "abm": "lzcnt", "pni": "sse3",
               "sse4_1": "sse4.1", "sse4_2": "sse4.2"}

# Features that templates choose by, or that LLVM may use by itself in vector code.
_X86_ISA = frozenset({
    "avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe", "popcnt", "gfni", "avxvnni",
    "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512ifma", "avx512vbmi", "avx512vbmi2", "avx512vnni",
    "avx512bitalg", "avx512vpopcntdq", "avx512bf16", "avx512fp16", "avx512vp2intersect"})

# LLVM's CPU models, best first: vendor ("" for any) and the features without which its code would not run. The choice is made by
# features and not by model number, so that it holds for CPUs that are newer than this table and in machines that mask features.
_V2 = frozenset({"sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16"})
_V3 = _V2 | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_ICE = _V4 | {"avx512vnni", "avx512vbmi", "avx512vbmi2", "avx512ifma", "avx512bitalg", "avx512vpopcntdq", "gfni"}
_X86_MODELS: tuple[tuple[str, str, frozenset[str]], ...] = (
    ("znver5", "AuthenticAMD", _ICE | {"avx512bf16", "avxvnni", "avx512vp2intersect"}),
    ("znver4", "AuthenticAMD", _ICE | {"avx512bf16"}),
    ("sapphirerapids", "GenuineIntel", _ICE | {"avx512bf16", "avx512fp16", "avxvnni"}),
    ("icelake-server", "GenuineIntel", _ICE),
    ("cascadelake", "GenuineIntel", _V4 | {"avx512vnni"}),
    ("skylake-avx512", "GenuineIntel", _V4),
    ("x86-64-v4", "", _V4),
    ("alderlake", "GenuineIntel", _V3 | {"avxvnni", "gfni"}),
    ("x86-64-v3", "", _V3),
    ("x86-64-v2", "", _V2),
    ("x86-64", "", frozenset()),
)


def x86(cpuinfo: str) -> Profile:
    """The profile of the x86-64 machine whose /proc/cpuinfo this is (caches and cores are this machine's)."""
    fields = first_cpu(cpuinfo)
    flags = {_LLVM_NAMES.get(flag, flag) for flag in fields.get("flags", "").split()}
    vendor = fields.get("vendor_id", "")
    cpu, needs = next((name, needs) for name, who, needs in _X86_MODELS if who in ("", vendor) and needs <= flags)
    wide, avx = "avx512f" in needs, "avx" in needs
    isa = tuple(sorted(flags & _X86_ISA))
    # A generic model leaves out what lies beyond its level.
    extra = tuple(f"+{f}" for f in isa if f not in needs) if cpu.startswith("x86-64") and avx else ()
    return Profile(arch="x86_64", triple="x86_64-unknown-linux-gnu", cpu=cpu, features=extra if wide else without_avx512(extra),
                   isa=isa if wide else without_avx512(isa), lanes=16 if wide else 8 if avx else 4,
                   vector_registers=32 if wide else 16, cores=cpus(),
                   source=f"detected: {fields.get('model name', 'unknown CPU')}", **caches())


def without_avx512(features: Iterable[str]) -> tuple[str, ...]:
    """Pieces of AVX-512 are worth nothing where the whole level is not there."""
    return tuple(f for f in features if "avx512" not in f)


_ARM_ISA = {"asimd": "neon", "asimddp": "dotprod", "asimdhp": "fullfp16", "i8mm": "i8mm", "bf16": "bf16"}
# Implementer and part number (Arm's Main ID Register) -> LLVM's CPU model, and the features without which it would not run.
_DOT = frozenset({"neon", "dotprod", "fullfp16"})
_ARM_MODELS: Mapping[tuple[str, str], tuple[str, frozenset[str]]] = {
    ("0x41", "0xd03"): ("cortex-a53", frozenset({"neon"})), ("0x41", "0xd08"): ("cortex-a72", frozenset({"neon"})),
    ("0x41", "0xd05"): ("cortex-a55", _DOT), ("0x41", "0xd0b"): ("cortex-a76", _DOT), ("0x41", "0xd0c"): ("neoverse-n1", _DOT),
    ("0x41", "0xd41"): ("cortex-a78", _DOT), ("0x41", "0xd44"): ("cortex-x1", _DOT),
}


def arm(cpuinfo: str) -> Profile:
    """The profile of the ARM64 machine whose /proc/cpuinfo this is. SVE is not used: vectors are NEON's."""
    fields = first_cpu(cpuinfo)
    isa = {_ARM_ISA[f] for f in fields.get("Features", "").split() if f in _ARM_ISA} | {"neon"}
    cpu, needs = _ARM_MODELS.get((fields.get("CPU implementer", ""), fields.get("CPU part", "")), ("generic", frozenset()))
    if not needs <= isa:
        cpu, needs = "generic", frozenset()
    return Profile(arch="aarch64", triple="aarch64-unknown-linux-gnu", cpu=cpu, isa=tuple(sorted(isa)), lanes=4,
                   vector_registers=32, features=tuple(f"+{f}" for f in sorted(isa - needs)), cores=cpus(),
                   source=f"detected: part {fields.get('CPU part', 'unknown')}", **caches())


def first_cpu(cpuinfo: str) -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo."""
    pairs = (line.split(":", 1) for line in cpuinfo.strip().split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def caches() -> dict[str, int]:
    """KiB of the data caches that CPU 0 sees; where the system does not say, small ones, for which blocks are never too large."""
    found = {"l1_kib": 32, "l2_kib": 256, "l3_kib": 0}
    for index in CACHES.glob("index*"):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction" and f"l{level}_kib" in found:
            found[f"l{level}_kib"] = int(size[:-1]) * {"K": 1, "M": 1024, "G": 1 << 20}[size[-1]]
    return found
