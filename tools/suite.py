"""The cases of ONNX's own backend test suite (package onnx, offline): models, inputs, expected outputs, tolerances."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted", "real")
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"      # topologies whose weights are made by ConstantOfShape

# Inputs that decide a shape or a place, by op. A compiler for static shapes takes them as constants, which is also how exporters
# write them; the suite feeds nearly all of them at run time. They are the only inputs whose value the compiler sees.
PARAMETERS: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,), "BlackmanWindow": (0,), "CenterCropPad": (1,), "Col2Im": (1, 2), "ConstantOfShape": (0,), "CumProd": (1,),
    "CumSum": (1,), "DFT": (1, 2), "Dropout": (1, 2), "Expand": (1,), "HammingWindow": (0,), "HannWindow": (0,), "Loop": (0,),
    "MaxUnpool": (2,), "MelWeightMatrix": (0, 1, 2, 3, 4), "OneHot": (1,), "Pad": (1, 3), "Range": (0, 1, 2), "Reshape": (1,),
    "Resize": (1, 2, 3), "STFT": (1, 3), "Slice": (1, 2, 3, 4), "Split": (1,), "Squeeze": (1,), "Tile": (1,), "TopK": (1,),
    "Unsqueeze": (1,), "Upsample": (1,)} | {f"Reduce{r}": (1,) for r in (
        "L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")}


@dataclass(frozen=True)
class Case:
    """One case: a serialised model and its data sets, (inputs, expected outputs) each. Values are arrays; lists are sequences."""

    name: str
    kind: str
    model: bytes
    data_sets: tuple[tuple[list[Any], list[Any]], ...]
    rtol: float
    atol: float

    @property
    def ops(self) -> tuple[str, ...]:
        nodes = onnx.load_model_from_string(self.model).graph.node
        return tuple(sorted({n.op_type for n in nodes if n.op_type != "Constant"}))


def load(kinds: Sequence[str] = KINDS) -> list[Case]:
    """Every case of these kinds, as `BackendTest(…).include("_cpu$")` would run it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [case for kind in kinds for case in _load(kind)]


def _load(kind: str) -> Iterator[Case]:
    for test in load_model_tests(kind=kind):
        if kind == "real":
            model, sets = _light(LIGHT / os.path.basename(str(test.url)))
        elif test.model is not None:
            model, sets = test.model, [([_value(v) for v in i], [_value(v) for v in o]) for i, o in test.data_sets or ()]
        else:
            model, sets = _stored(Path(str(test.model_dir)))
        yield Case(f"{test.name}_cpu", kind, model.SerializeToString(), tuple(sets), test.rtol, test.atol)


def _stored(folder: Path) -> tuple[onnx.ModelProto, list[tuple[list[Any], list[Any]]]]:
    model = onnx.load(folder / "model.onnx")
    sets = []
    for data in sorted(folder.glob("test_data_set*")):
        sides = []
        for side, infos in (("input", model.graph.input), ("output", model.graph.output)):
            count = len(list(data.glob(f"{side}_*.pb")))
            sides.append([_read(data / f"{side}_{n}.pb", infos[n].type) for n in range(count)])
        sets.append((sides[0], sides[1]))
    return model, sets


def _light(path: Path) -> tuple[onnx.ModelProto, list[tuple[list[Any], list[Any]]]]:
    """Ramps as inputs, as the suite's runner makes them; the expected outputs lie beside the model."""
    model = onnx.load(path)
    known = {i.name for i in model.graph.initializer}
    inputs = [Runner.generate_dummy_data(i, name=i.name) for i in model.graph.input if i.name not in known]
    outputs = [_read(path.with_name(f"{path.stem}_output_{n}.pb"), o.type) for n, o in enumerate(model.graph.output)]
    return model, [(inputs, outputs)]


def _read(path: Path, kind: onnx.TypeProto) -> Any:
    return _value(_parse(path.read_bytes(), kind))


def _parse(data: bytes, kind: onnx.TypeProto) -> Any:
    match kind.WhichOneof("value"):
        case "sequence_type": return onnx.SequenceProto.FromString(data)
        case "optional_type": return onnx.OptionalProto.FromString(data)
        case _: return onnx.TensorProto.FromString(data)


def _value(item: Any) -> Any:
    match item:
        case onnx.TensorProto(): return numpy_helper.to_array(item)
        case onnx.SequenceProto(): return numpy_helper.to_list(item)
        case onnx.OptionalProto(): return numpy_helper.to_optional(item)
        case np.generic(): return np.asarray(item)
        case _: return item


def with_constants(case: Case, inputs: list[Any]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The model with its parameters (see PARAMETERS) as constants of this data set's values, and the inputs that are left."""
    model = onnx.load_model_from_string(case.model)
    known = {i.name for i in model.graph.initializer}
    given = dict(zip([i.name for i in model.graph.input if i.name not in known], inputs, strict=False))
    parameters = {name for node in model.graph.node for n, name in enumerate(node.input) if n in PARAMETERS.get(node.op_type, ())}
    for info in [i for i in model.graph.input if i.name in parameters and isinstance(given.get(i.name), np.ndarray)]:
        model.graph.initializer.append(numpy_helper.from_array(given.pop(info.name), info.name))
        model.graph.input.remove(info)
    return model, given
