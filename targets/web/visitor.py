"""What a page says of the browser that it runs in, and which device that is. It may be anybody's page: all of it is checked."""

from __future__ import annotations

import platform
import re
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...schedules.device import Device
from ...schedules.records import Fingerprint
from ..cpu.errors import DeviceError
from . import profile, runner

Text = Annotated[str, Field(max_length=64)]
IOS = "iPhone|iPad|iPod"
# What a userAgent holds, and the engine or system that it tells of; the first that fits. Every browser on iOS is Apple's inside.
ENGINES = ((IOS, "jsc"), ("Firefox/", "spidermonkey"), ("Chrome/", "v8"), ("Safari/", "jsc"))
SYSTEMS = (("Android", "android"), (IOS, "ios"), ("Windows", "windows"), ("Mac OS X", "macos"), ("CrOS", "chromeos"),
           ("Linux", "linux"))
PROCESSORS = (("x86_64|x86|Win64|x64|i686", "x86"), (f"aarch64|arm|{IOS}", "arm"))
HOLDERS = {"v8": "chromium", "spidermonkey": "firefox", "jsc": "safari"}
VERSIONS = r"(?:Firefox|Chrome|Version|OS)[/ ](\d+(?:[._]\d+)*)"


class Hello(BaseModel):
    """The first message of a page. secret: what it was given when it came before; agent: its userAgent; version: of its engine
    in full, architecture, model: of the device, each where the browser tells; cores: that it may use; simd, relaxed: does it take
    such code? resolution: of its clock, in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["hello"]
    secret: Text
    agent: Annotated[str, Field(max_length=512)]
    version: Annotated[str, Field(max_length=32, pattern=r"^[\d.]*$")]
    architecture: Text
    model: Text
    cores: Annotated[int, Field(ge=1, le=1024)]
    simd: bool
    relaxed: bool
    resolution: Annotated[float, Field(gt=0, le=1.0)]

    @property
    def engine(self) -> str:
        return _first(ENGINES, self.agent)

    @property
    def build(self) -> str | None:
        """Which of the builds the browser would take; None where it can run none."""
        return "relaxed-simd" if self.relaxed and self.simd else "simd" if self.simd else None

    @property
    def tools(self) -> dict[str, str]:
        """The version of what holds the engine, as records keep it."""
        told = re.search(VERSIONS, self.agent)
        return {HOLDERS.get(self.engine, "browser"): self.version or (told[1] if told else "unknown")}

    @property
    def device(self) -> Device:
        """That kernels are made for. Raises DeviceError where the browser can run none."""
        if self.build is None:
            raise DeviceError("this browser has no WebAssembly SIMD, which every kernel needs: try a newer one")
        return profile.load(self.build)

    def fingerprint(self, local: bool) -> Fingerprint:
        """The engine on this kind of processor; on a phone, whose browsers tell its name, of this model. local: did it come over
        the loopback? Then it is this machine, which is known better, unless it is a phone on a cable."""
        system = _first(SYSTEMS, self.agent)
        if local and system == platform.system().lower():
            here = runner.fingerprint(self.device)
            return replace(here, core=here.core.replace("v8", self.engine, 1))
        processor = _first(PROCESSORS, f"{self.architecture} {self.agent}")
        model = re.sub(r"[^\w.+]+", "-", self.model, flags=re.A).strip("-")
        core = "-".join(filter(None, (self.engine, processor, model)))
        return replace(Fingerprint.of(self.device, system), core=core[:64])


def _first(names: tuple[tuple[str, str], ...], text: str) -> str:
    return next((name for words, name in names if re.search(words, text)), "unknown")
