"""What a user asks of a compression, checked and in numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from ...passes.compress.treatment import Precision, Rank, Sparsity, Treatment
from ..errors import BurnishError

Prefer = Literal["speed", "size"]
SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


class RequestRefused(BurnishError):
    """The request contradicts itself, or cannot be read."""


@dataclass(frozen=True)
class Request:
    """quantize, sparsity, low_rank, shift, slice: what to do to every layer that can take it, or, with a budget, what may be done
    to one. max_drop: share of the score that may be lost (or by which outputs may differ), max_size: bytes of weights,
    max_latency: seconds of one run: the budget. prefer: what a compressed kernel must be to take the place of its dense
    sibling."""

    quantize: Precision | None = None
    sparsity: Sparsity | None = None
    low_rank: Rank | None = None
    shift: int = 0
    slice: float = 0.0
    max_drop: float | None = None
    max_size: int | None = None
    max_latency: float | None = None
    prefer: Prefer | None = None
    recover: bool = True

    @classmethod
    def parse(cls, *, quantize: str | None = None, sparsity: str | None = None, low_rank: str | None = None, shift: int = 0,
              slice: str | None = None, max_drop: str | None = None, max_size: str | None = None, max_latency: str | None = None,
              prefer: str | None = None, recover: bool = True) -> Request:
        """From what stands on a command line. Raises RequestRefused."""
        if quantize is not None and quantize not in get_args(Precision)[1:]:
            raise RequestRefused(f"--quantize {quantize}: there are {', '.join(get_args(Precision)[1:])}")
        if prefer is not None and prefer not in get_args(Prefer):
            raise RequestRefused(f"--prefer {prefer}: there are {', '.join(get_args(Prefer))}")
        if shift not in (0, 1, 2):
            raise RequestRefused(f"--shift {shift}: weights have one or two powers of two")
        try:
            zeros = Sparsity.parse(sparsity) if sparsity else None
        except ValueError as e:
            raise RequestRefused(f"--sparsity: {e}") from None
        made = cls(cast(Precision | None, quantize), zeros, rank(low_rank), shift, share("--slice", slice) or 0.0,
                   share("--max-drop", max_drop), size(max_size), latency(max_latency), cast(Prefer | None, prefer), recover)
        made.check()
        return made

    def check(self) -> None:
        """Raises RequestRefused where methods exclude each other."""
        if self.shift and self.quantize is not None:
            raise RequestRefused(f"--shift {self.shift} with --quantize {self.quantize}: weights that are powers of two have "
                                 "4 bits already, choose one of them")
        if self.quantize == "integer-only" and self.low_rank:
            raise RequestRefused("--quantize integer-only with --low-rank: factors have no integer-only form, choose one of them")
        if self.quantize == "integer-only" and self.searches:
            raise RequestRefused("--quantize integer-only is for the whole model, a budget is for choosing layers: leave out the "
                                 "budget")

    @property
    def searches(self) -> bool:
        """Is there a budget, for which treatments are chosen layer by layer?"""
        return any(limit is not None for limit in (self.max_drop, self.max_size, self.max_latency))

    @property
    def compresses(self) -> bool:
        return self.searches or self.slice > 0 or self.treatment != Treatment()

    @property
    def treatment(self) -> Treatment:
        return Treatment(self.quantize or "float", self.sparsity, self.low_rank, self.shift)

    @property
    def goal(self) -> Prefer:
        """As asked for; otherwise size where only the weights are made smaller, for which there is no other reason."""
        return self.prefer or ("size" if self.shift or self.quantize in ("w8", "w4") else "speed")


def share(option: str, text: str | None) -> float | None:
    """"1%" or "0.01", between 0 and 1."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(%?)", text.strip())
    value = float(found[1]) / (100 if found[2] else 1) if found else -1
    if not 0 <= value < 1:
        raise RequestRefused(f"{option} {text}: write a share such as 1% or 0.01")
    return value


def rank(text: str | None) -> Rank | None:
    """"auto", or a share of the full rank."""
    return "auto" if text == "auto" else share("--low-rank", text)


def size(text: str | None) -> int | None:
    return None if text is None else int(_quantity("--max-size", text, {k.upper(): v for k, v in SIZES.items()}, "4MB or 800KB"))


def latency(text: str | None) -> float | None:
    return None if text is None else _quantity("--max-latency", text, {k.upper(): v for k, v in TIMES.items()}, "3ms or 800us")


def _quantity(option: str, text: str, units: Mapping[str, float], example: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)", text.strip())
    if not found or found[2].upper() not in units or float(found[1]) == 0:
        raise RequestRefused(f"{option} {text}: write {example}")
    return float(found[1]) * units[found[2].upper()]
