"""Device profiles: the files, and the choice of LLVM's CPU model from features."""

from __future__ import annotations

from pathlib import Path

import pytest
from burnish.targets.cpu import profile
from burnish.targets.cpu.errors import DeviceError

V3 = "ssse3 sse4_1 sse4_2 pni popcnt cx16 avx avx2 bmi1 bmi2 f16c fma abm movbe"
V4 = V3 + " avx512f avx512bw avx512cd avx512dq avx512vl"
ICE = V4 + " avx512_vnni avx512vbmi avx512_vbmi2 avx512ifma avx512_bitalg avx512_vpopcntdq gfni"


def cpuinfo(vendor: str, flags: str) -> str:
    return f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: a CPU\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: none\n"


@pytest.mark.parametrize(("vendor", "flags", "cpu", "lanes", "registers"), [
    ("AuthenticAMD", ICE + " avx512_bf16 avx_vnni avx512_vp2intersect", "znver5", 16, 32),
    ("AuthenticAMD", ICE + " avx512_bf16", "znver4", 16, 32),
    ("GenuineIntel", ICE + " avx512_bf16 avx512_fp16 avx_vnni", "sapphirerapids", 16, 32),
    ("GenuineIntel", ICE, "icelake-server", 16, 32),
    ("GenuineIntel", V4 + " avx512_vnni", "cascadelake", 16, 32),
    ("GenuineIntel", V4, "skylake-avx512", 16, 32),
    ("SomeoneElse", ICE, "x86-64-v4", 16, 32),
    ("AuthenticAMD", V3, "x86-64-v3", 8, 16),
    ("GenuineIntel", V3 + " avx512f avx512_vnni", "x86-64-v3", 8, 16),    # a machine that masks half of AVX-512
    ("GenuineIntel", V3.replace("avx avx2", "avx"), "x86-64-v2", 4, 16),
    ("", "", "x86-64", 4, 16),
])
def test_the_model_is_chosen_by_features(vendor: str, flags: str, cpu: str, lanes: int, registers: int) -> None:
    p = profile.x86(cpuinfo(vendor, flags))
    assert (p.cpu, p.lanes, p.vector_registers) == (cpu, lanes, registers)
    assert lanes == 16 or not any("avx512" in f for f in (*p.isa, *p.features))


def test_a_generic_model_gets_the_features_beyond_its_level() -> None:
    p = profile.x86(cpuinfo("SomeoneElse", ICE))
    assert "+avx512vnni" in p.features and "+avx2" not in p.features and "avx512vnni" in p.isa


def test_arm() -> None:
    a76 = "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"
    assert profile.arm(a76).device("x").llvm == (("mtriple", "aarch64-unknown-linux-gnu"), ("mcpu", "cortex-a76"))
    masked = profile.arm(a76.replace(" asimddp", ""))
    assert masked.cpu == "generic" and masked.isa == ("fullfp16", "neon")
    new = profile.arm("Features\t: fp asimd asimdhp asimddp i8mm bf16 sve2\nCPU implementer\t: 0x99\nCPU part\t: 0x1\n")
    assert (new.cpu, new.features) == ("generic", ("+bf16", "+dotprod", "+fullfp16", "+i8mm", "+neon"))


def test_this_machine_and_every_file() -> None:
    here = profile.detect()
    assert here.cores == profile.cpus() >= 1 and here.l1_kib >= 8 and here.l2_kib >= here.l1_kib
    assert {"zen5", "x86-64-v3", "cortex-a76", "wasm32"} <= set(profile.names())
    for name in profile.names():
        device = profile.load(name)
        assert device.name == name and device.source
    assert profile.find("linux-arm64").name == "cortex-a76" and profile.find("native") == here
    assert (profile.load("wasm32").lanes, profile.load("wasm32").vector_registers) == (4, 15)


def test_unknown_and_broken_profiles_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match=r"no device '\.\./zen5'; there are cortex-a76"):
        profile.load("../zen5")
    text = (profile.DEVICES / "zen5.toml").read_text()
    monkeypatch.setattr(profile, "DEVICES", tmp_path)
    for broken in (text.replace("lanes = 16", "lanes = 0"), text + "speed = 1\n", "lanes", text.replace('"znver5"', "5")):
        (tmp_path / "mine.toml").write_text(broken)
        with pytest.raises(DeviceError, match=r"mine\.toml"):
            profile.load("mine")
