"""What is done to one layer of a model, as data: precision, sparsity, rank, shift."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal, Self

Precision = Literal["float", "int8", "integer-only", "w8", "w4"]
Rank = float | Literal["auto"]

GROUP = 16      # output channels that share their zeros: one vector of AVX-512, two of AVX2, four of NEON and WebAssembly


@dataclass(frozen=True)
class Sparsity:
    """Which weights of a matrix [k, n] are zero. The unit is a block of `step` consecutive steps of the reduction by `group`
    consecutive output channels; a unit is kept or zero as a whole. Of each group of channels, `kept` of every `period` units in a
    row are kept (N:M; the last period may be shorter), or, where `period` is 0, the fraction `share` of all its units.

    step: 1 for float32 kernels, 4 for integer ones, whose instruction sums four products.
    """

    kept: int = 0
    period: int = 0
    share: float = 0.0
    group: int = GROUP
    step: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """"2:4", "block:75%" (three of four blocks are zero), either with "/32" for groups of 32 channels. Raises ValueError."""
        found = re.fullmatch(r"(?:(\d+):(\d+)|block:(\d+(?:\.\d+)?)%)(?:/(\d+))?", text.strip())
        if found is None:
            raise ValueError(f"{text!r} is no sparsity: write 2:4, 1:4 or block:75%")
        kept, period, zeros, group = found.groups()
        channels = int(group or GROUP)
        if not 1 <= channels <= 1024:
            raise ValueError(f"{text!r}: groups have 1 to 1024 channels")
        if zeros is not None:
            if not 0 < float(zeros) < 100:
                raise ValueError(f"{text!r}: between 0% and 100% of the blocks can be zero")
            return cls(share=1 - float(zeros) / 100, group=channels)
        if not 0 < int(kept) < int(period) <= 64:
            raise ValueError(f"{text!r}: N:M keeps N of every M, 0 < N < M <= 64")
        return cls(int(kept), int(period), group=channels)

    @property
    def density(self) -> float:
        """The share of weights that is kept."""
        return self.kept / self.period if self.period else self.share

    def units(self, k: int) -> int:
        """How many units of a reduction of k steps are kept in each group of channels."""
        count = math.ceil(k / self.step)
        if not self.period:
            return max(1, round(count * self.share))
        return count // self.period * self.kept + min(count % self.period, self.kept)

    def __str__(self) -> str:
        pattern = f"{self.kept}:{self.period}" if self.period else f"block:{100 * (1 - self.share):g}%"
        return pattern + (f"/{self.group}" if self.group != GROUP else "")


@dataclass(frozen=True)
class Treatment:
    """rank: of a factorisation, as a share of the full rank, or "auto": what keeps nearly all energy (None: whole); shift: terms
    of powers of two (0: none)."""

    precision: Precision = "float"
    sparsity: Sparsity | None = None
    rank: Rank | None = None
    shift: int = 0

    @property
    def integer(self) -> bool:
        """Are the activations integers, too?"""
        return self.precision in ("int8", "integer-only")

    @property
    def units(self) -> Sparsity | None:
        """The sparsity with the step that the precision asks for."""
        return replace(self.sparsity, step=4 if self.integer else 1) if self.sparsity else None

    def __str__(self) -> str:
        parts: list[str] = [self.precision] if self.precision != "float" else []
        parts += [str(self.sparsity)] if self.sparsity else []
        parts += [f"rank {self.rank if self.rank == 'auto' else f'{self.rank:.0%}'}"] if self.rank else []
        parts += [f"{self.shift}-term shift"] if self.shift else []
        return " + ".join(parts) or "as it is"
