"""How long an artifact takes, and where the time goes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..targets.cpu import loader, peaks, profile
from .driver import Progress, silent
from .sample import sample_inputs

WARM_UP_S = 0.3
SHORTEST_S = 1e-8       # the clock knows nothing shorter


@dataclass(frozen=True)
class LaunchShare:
    """One launch: median seconds, share of all launches, what it needs, how near it is to the nearer ceiling of the machine (of
    as many cores as there are threads), and its rate: operations a second if that ceiling is computing, else bytes a second."""

    kernel: str
    nodes: tuple[str, ...]
    seconds: float
    share: float
    flops: int
    bytes: int
    compute_bound: bool
    of_peak: float
    rate: float


@dataclass(frozen=True)
class Measurement:
    """Seconds of whole runs; peaks of one core, in operations and bytes per second."""

    threads: int
    rounds: int
    median: float
    p10: float
    p90: float
    peak_flops: float
    peak_bandwidth: float
    launches: tuple[LaunchShare, ...]


def measure(artifact: Path, threads: int | None, rounds: int, seed: int, progress: Progress = silent) -> Measurement:
    """Times `rounds` whole runs, each followed by one that times every launch, on random input. A launch's ceiling is the larger
    of its operations at the peak rate and its bytes at memory's bandwidth (Williams et al. 2009, the roofline)."""
    ceiling = peaks.peaks(profile.detect())
    with loader.load(artifact, threads) as model:
        inputs = list(sample_inputs(model.inputs, seed).values())
        start = time.perf_counter()
        while time.perf_counter() - start < WARM_UP_S:
            model(*inputs)
        whole, parts = [], []
        for n in range(rounds):
            start = time.perf_counter()
            model(*inputs)
            whole.append(time.perf_counter() - start)
            times = model.profile(*inputs)
            parts.append([t.seconds for t in times])
            progress("measure", n + 1, rounds)
        used = model.threads
    medians = np.median(np.array(parts), axis=0) if times else np.zeros(0)
    total = float(medians.sum()) or 1.0
    launches = []
    for t, s in zip(times, medians.tolist(), strict=True):
        compute, memory = t.flops / (ceiling.flops * used), t.bytes / ceiling.bandwidth
        bound, known = compute >= memory, max(s, SHORTEST_S)
        launches.append(LaunchShare(t.kernel, t.nodes, s, s / total, t.flops, t.bytes, bound, max(compute, memory) / known,
                                    (t.flops if bound else t.bytes) / known))
    p10, median, p90 = np.percentile(whole, (10, 50, 90))
    return Measurement(used, rounds, float(median), float(p10), float(p90), ceiling.flops, ceiling.bandwidth, tuple(launches))
