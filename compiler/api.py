"""What `import burnish` offers: compile a model, load an artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from ..schedules.select import Pick
from ..schedules.tuner import Result, Settings, State
from ..targets.cpu import loader
from ..targets.cpu.driver import identifier
from ..targets.cpu.loader import Model
from ..targets.target import Rig, Target
from . import importer, targets
from .driver import Compiled, Lowered, Progress, build_model, lower_model, sha256, silent
from .errors import BurnishError, TuningRefused, VerificationError
from .planner import signature
from .sample import Oracle, oracle, sample_inputs
from .targets import WEB
from .tune import choose, existing, to_keep
from .tune import tune as tune_lowered
from .variants import MOST, alternatives
from .verify import verify

Watch = Callable[[State], None]
INEXACT = "without Winograd, whose rounding is too much for this model"
TOOLS = ("burnish", "apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "onnx-ir", "onnxruntime")


@dataclass(frozen=True)
class Artifact:
    """A compiled model on disk. error: the largest difference to onnxruntime on the sample, relative to an output's scale; None
    where nothing here can run the artifact. code and weights in bytes. note: what the user may want to know of how it was
    made."""

    path: Path
    error: float | None
    code: int
    weights: int
    kernels: int
    launches: int
    note: str = ""

    def load(self, threads: int | None = None) -> Model:
        return load(self.path, threads)


def compile(model: str | Path, output: str | Path, *, target: str = "native",
            shapes: Mapping[str, Sequence[int]] | None = None, workers: int | None = None, seed: int = 0,
            tuned: Result | None = None, exact: bool = False, records: str | None = None,
            variants: int = 1, beside: Mapping[str, bytes] | None = None, progress: Progress | None = None) -> Artifact:
    """Compiles the ONNX file `model` into the folder `output`, verified against onnxruntime.

    target: "native" (this machine's CPU), "linux-arm64", a device of `targets/cpu/devices`, or "wasm" (an npm package); shapes:
    {input: shape} for inputs with free dimensions; workers: processes that build kernels, by default one for each CPU; seed: of
    the sample input; tuned: what `tune` has just found; exact: only algorithms that round as the definition does (no Winograd);
    records: the database of tuning records, a file or an SQLAlchemy URL, by default the user's own, whose best candidates are
    used, or "none"; variants: kernels that a "wasm" package holds for each heavy task, of which its `tune` takes the fastest;
    beside: files that go into the folder, too; progress: called with (step, done, total).

    Raises ImportRefused (a broken or hostile file), Refused (unsupported ops, all of them at once), BuildError, VerificationError
    (all of them BurnishError), RecordsError, or an error of the target; then nothing is written.
    """
    if variants > 1 and target != WEB:
        raise TuningRefused(f"an artifact for {target} cannot choose its kernels where it runs: leave out the variants")
    if not 1 <= variants <= MOST:
        raise TuningRefused(f"a kernel has 1 to {MOST} variants, not {variants}")
    say = progress or silent
    source = Path(model)
    say("import", 0, 1)
    graph = importer.load(source, {k: tuple(v) for k, v in (shapes or {}).items()})
    original = graph.clone()
    to = targets.find(target)
    devices = to.devices
    to.refuse_to_overwrite(Path(output).resolve())
    inputs = sample_inputs([signature(v) for v in graph.graph.inputs], seed)
    say("import", 1, 1)
    lowered = front(graph, original, inputs, say)
    say("run onnxruntime", 0, 1)
    expected = oracle(original, inputs)
    say("run onnxruntime", 1, 1)
    say("choose kernels", 0, 1)
    chosen = tuned.found if tuned else {}
    info: dict[str, str | int] = {"model": source.name, "model_sha256": sha256(source), "seed": seed, "target": target}

    def made(picks: Mapping[str, Pick]) -> Artifact:
        others = alternatives(lowered.groups, devices[0], picks, variants, known)
        compiled = build_model(lowered, devices, identifier(source.stem), say, workers, picks, others)
        return write(compiled, output, list(inputs.values()), expected, to, info, say, beside or {})

    with existing(records) or nullcontext() as database:
        pick = partial(choose, lowered, to, database=database, chosen=chosen)
        picks = pick(exact=exact)
        known = database.lookup(picks, to.fingerprint()) if database is not None and variants > 1 else {}
        try:
            return made(picks)
        except VerificationError:
            if all(p.candidate.maker.exact for p in picks.values()):
                raise
            return replace(made(pick(exact=True)), note=INEXACT)


def tune(model: str | Path, *, budget: float = 60.0, shapes: Mapping[str, Sequence[int]] | None = None,
         workers: int | None = None, seed: int = 0, exact: bool = False, records: str | None = None,
         target: str = "native", farm: str | None = None, rig: AbstractContextManager[Rig] | None = None,
         watch: Watch | None = None) -> Result:
    """Tunes the kernels of the ONNX file `model` on this machine; `compile` then finds them among the records.

    budget: seconds of wall time; farm: URL of a Dask scheduler, to tune on its workers; rig: where kernels are measured, if not
    here; entered once the model has been read, for a browser has to be waited for; watch: called with the tuner's State. The
    other arguments and errors are those of `compile`; DeviceError where nothing here can run them. What is measured is stored
    at once: a run that was cut off, or one more, goes on from there; where it cannot be stored, the result's notes say so.
    """
    place = rig or nullcontext(targets.find(target).rig())
    graph = importer.load(Path(model), {k: tuple(v) for k, v in (shapes or {}).items()})
    inputs = sample_inputs([signature(v) for v in graph.graph.inputs], seed)
    lowered = front(graph, graph.clone(), inputs)
    settings = Settings(budget, seed, exact)
    with ExitStack() as stack:
        database = stack.enter_context(to_keep(records))
        found = stack.enter_context(place)
        measurer = None
        if farm is not None:
            from .farm import Farm  # an extra
            measurer = stack.enter_context(Farm.connect(farm, found.device, seed))
        return tune_lowered(lowered, inputs, found, settings, database, workers, measurer, watch or unseen)


def unseen(state: State) -> None:
    """Nobody watches the tuner."""


def front(graph: ir.Model, original: ir.Model, inputs: Mapping[str, np.ndarray], say: Progress = silent) -> Lowered:
    """The graph as tasks, before onnxruntime spends time or memory on the original. Where this fails as nothing should,
    onnxruntime decides who is wrong: OracleError where it cannot run the model either, else the failure, a bug of burnish."""
    try:
        return lower_model(graph, say)
    except (BurnishError, MemoryError):
        raise
    except Exception:
        oracle(original, inputs)
        raise


def write(compiled: Compiled, output: str | Path, inputs: list[np.ndarray], expected: Oracle, target: Target,
          info: Mapping[str, str | int], say: Progress = silent, beside: Mapping[str, bytes] = MappingProxyType({})) -> Artifact:
    """The artifact of a compiled model, verified before it is put in place. beside: files to go with it."""
    errors: list[float | None] = []
    names, ways = [s.name for s in compiled.plan.outputs], compiled.plan.ways

    def check(folder: Path) -> None:
        say("verify", 0, ways)
        for way in range(ways):     # whichever kernels a device will choose
            got = target.run(folder, inputs, way)
            errors.append(None if got is None else verify(names, got, expected))
            say("verify", way + 1, ways)
        for file, content in beside.items():
            (folder / file).write_bytes(content)

    say("link", 0, 1)
    path = target.write(compiled.plan, compiled.builds, compiled.weights, inputs, expected.outputs, Path(output),
                        passes=compiled.passes, tools={t: version(t) for t in TOOLS}, info=info, check=check)
    say("link", 1, 1)
    plan = compiled.plan
    error = max((e for e in errors if e is not None), default=None)
    return Artifact(path, error, target.code_bytes(path), plan.weights, len(compiled.builds[0]), len(plan.launches))


def load(path: str | Path, threads: int | None = None) -> Model:
    """The model in an artifact folder: callable on numpy arrays, by position or input name. threads: by default as many as CPUs
    that this process may use. Raises ArtifactError for a damaged folder or one for another machine."""
    return loader.load(path, threads)
