"""One form of each op, whatever opset a model was written in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ..base import GraphPass, Stage, Unsupported, attr, constant, initializer, op, replace, shape

OPSET = 26      # the newest that onnxruntime 1.31, the oracle of every stage, loads

# op: (opset that made inputs of these attributes, ((attribute, input, dtype), …)); dtype None: that of input 0
_REDUCE = (18, (("axes", 1, np.int64),))
_INPUTS: dict[str, tuple[int, tuple[tuple[str, int, type | None], ...]]] = {
    "Squeeze": (13, (("axes", 1, np.int64),)),
    "Unsqueeze": (13, (("axes", 1, np.int64),)),
    "Split": (13, (("split", 1, np.int64),)),
    "Slice": (10, (("starts", 1, np.int64), ("ends", 2, np.int64), ("axes", 3, np.int64))),
    "TopK": (10, (("k", 1, np.int64),)),
    "Pad": (11, (("pads", 1, np.int64), ("value", 2, None))),
    "Clip": (11, (("min", 1, None), ("max", 2, None))),
    "Upsample": (9, (("scales", 1, np.float32),)),
    "ReduceSum": (13, (("axes", 1, np.int64),)),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
                     "ReduceLogSumExp", "ReduceSumSquare"), _REDUCE),
}
_SCALARS = frozenset({"Clip", "Pad"})       # whose float attributes become 0-D


class UpgradeOpset(GraphPass):
    """A node of opset 7 or later takes the form that it has in opset 26, with the same meaning:

    attributes that became inputs (axes, pads, min/max, split, k, starts/ends, scales) become constant inputs;
    Softmax, LogSoftmax, Hardmax of opset < 13, at axis a: reshape to [prod(d[:a]), prod(d[a:])], along axis 1, reshape back;
    Upsample and Resize-10 become Resize with asymmetric coordinates and floor; Scatter becomes ScatterElements; …

    Dtypes and shapes must be known. Nodes of subgraphs are upgraded too. A model in a newer opset keeps it where a node needs it.
    Raises Unsupported for a form that has no newer equal.
    """

    stage = Stage.CANONICAL

    def run(self, model: ir.Model) -> bool:
        version = model.opset_imports.get("", OPSET)
        if version == OPSET or (version > OPSET and not _expressible(model)):
            return False
        for node in list(model.graph.all_nodes()):
            if node.domain != "":
                continue
            if version < OPSET:
                self._inputs(node, version, model)
                special = _SPECIAL.get(node.op_type)
                if special is not None and version < special[0]:
                    special[1](node, version, model)
        model.graph.opset_imports[""] = OPSET
        for function in model.functions.values():
            function.opset_imports[""] = OPSET
        for node in model.graph.all_nodes():
            if node.domain == "":
                node.version = OPSET
        return True

    @staticmethod
    def _inputs(node: ir.Node, version: int, model: ir.Model) -> None:
        since, attributes = _INPUTS.get(node.op_type, (0, ()))
        if version >= since:
            return
        for name, index, dtype in attributes:
            value = attr(node, name)
            node.attributes.pop(name, None)
            if value is None:
                continue
            given = node.inputs[0]
            if dtype is None and (given is None or given.dtype is None):
                raise Unsupported(node, "the dtype of its input is unknown")
            array = np.asarray(value, dtype if dtype is not None or given is None or given.dtype is None else given.dtype.numpy())
            array = array if array.ndim or node.op_type in _SCALARS else array[None]
            if len(node.inputs) <= index:
                node.resize_inputs(index + 1)
            node.replace_input_with(index, initializer(model, array, f"{node.outputs[0].name}_{name}"))


def _expressible(model: ir.Model) -> bool:
    """Can every node of a newer model stand in OPSET?"""
    for node in model.graph.all_nodes():
        if node.domain == "":
            try:
                schema = onnx.defs.get_schema(node.op_type, OPSET)
            except onnx.defs.SchemaError:
                return False
            if schema.deprecated or not set(node.attributes) <= set(schema.attributes):
                return False
    return True


# ---- What needs more than an attribute moved: (node as it was in opset `version`) -> in place -----------------------------


def _softmax(node: ir.Node, version: int, model: ir.Model) -> None:
    x, y = node.inputs[0], node.outputs[0]
    dims = shape(x)
    if dims is None:
        raise Unsupported(node, "the coerced form of opset < 13 needs a static shape", "fix the dynamic dimensions")
    axis = attr(node, "axis", 1) % max(len(dims), 1)
    if axis == len(dims) - 1:
        node.attributes["axis"] = ir.AttrInt64("axis", -1)
        return
    flat = (int(np.prod(dims[:axis])), int(np.prod(dims[axis:])))
    to_flat = initializer(model, np.array(flat, np.int64), f"{y.name}_flat")
    back = initializer(model, np.array(dims, np.int64), f"{y.name}_shape")
    rows = op("Reshape", [x, to_flat], y, name=f"{y.name}_rows", shape=flat)
    normal = op(node.op_type, [rows.outputs[0]], y, name=f"{y.name}_normal", shape=flat, axis=1)
    result = op("Reshape", [normal.outputs[0], back], y, name=f"{y.name}_result", shape=dims)
    replace(node, [rows, normal, result], result.outputs[0])


def _resize(node: ir.Node, version: int, model: ir.Model) -> None:
    """asymmetric coordinates: x_in = x_out / scale; nearest takes the floor where it enlarges and the ceiling where it shrinks
    (onnx's own tests of Resize-10, and onnxruntime), so that a resize that does both becomes two."""
    mode, y = attr(node, "mode", "nearest"), node.outputs[0]
    if mode not in ("nearest", "linear", "bilinear", "cubic"):
        raise Unsupported(node, f"mode {mode}")
    asymmetric: dict[str, Any] = {"mode": mode.removeprefix("bi"), "coordinate_transformation_mode": "asymmetric"}
    scales = constant(node.inputs[1])
    if mode != "nearest" or scales is None or (scales >= 1).all():
        rounding: dict[str, Any] = {"nearest_mode": "floor"} if mode == "nearest" else {}
        new = [op("Resize", [node.inputs[0], None, node.inputs[1]], y, name=f"{y.name}_resize", **asymmetric, **rounding)]
    else:
        new, x, dims = [], node.inputs[0], np.array(shape(node.inputs[0]) or (), np.int64)
        for part, rounding_mode in ((np.minimum(scales, 1), "ceil"), (np.maximum(scales, 1), "floor")):
            if (part != 1).any():
                given = initializer(model, part, f"{y.name}_scales_{rounding_mode}")
                dims = np.floor(dims * part).astype(np.int64)
                new.append(op("Resize", [x, None, given], y, name=f"{y.name}_{rounding_mode}", shape=dims.tolist() or None,
                              nearest_mode=rounding_mode, **asymmetric))
                x = new[-1].outputs[0]
    replace(node, new, new[-1].outputs[0])


def _resize_11(node: ir.Node, version: int, model: ir.Model) -> None:
    if version == 10:
        return _resize(node, version, model)
    if len(node.inputs) > 3 and node.inputs[3] is not None:     # opset 11, 12: scales is an empty tensor beside sizes
        node.replace_input_with(2, None)
    if attr(node, "coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        raise Unsupported(node, "coordinate mode tf_half_pixel_for_nn has left ONNX", "export in opset 13 or later")
    return None


def _scatter(node: ir.Node, version: int, model: ir.Model) -> None:
    y = node.outputs[0]
    new = op("ScatterElements", node.inputs, y, name=y.name or "scatter", axis=attr(node, "axis", 0))
    replace(node, [new], new.outputs[0])


def _batch_normalization(node: ir.Node, version: int, model: ir.Model) -> None:
    if attr(node, "spatial", 1) == 0:
        raise Unsupported(node, "statistics per element (spatial = 0)", "export in opset 9 or later")
    if sum(bool(v.uses()) or v.is_graph_output() for v in node.outputs) > 1:
        raise Unsupported(node, "is in training mode", "export the model in inference mode")
    node.attributes.pop("spatial", None)
    node.resize_outputs(1)


def _dropout(node: ir.Node, version: int, model: ir.Model) -> None:
    node.attributes.pop("ratio", None)      # since opset 12 an input; without training_mode it has no effect


def _split(node: ir.Node, version: int, model: ir.Model) -> None:
    if len(node.inputs) < 2:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))


def _grid_sample(node: ir.Node, version: int, model: ir.Model) -> None:
    mode = attr(node, "mode", "bilinear")
    node.attributes["mode"] = ir.AttrString("mode", {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))


def _roi_align(node: ir.Node, version: int, model: ir.Model) -> None:
    node.attributes["coordinate_transformation_mode"] = ir.AttrString("coordinate_transformation_mode", "output_half_pixel")


def _group_normalization(node: ir.Node, version: int, model: ir.Model) -> None:
    dims, groups = shape(node.inputs[0]), attr(node, "num_groups")
    for i in (1, 2):
        value = constant(node.inputs[i])
        if value is None or dims is None:
            raise Unsupported(node, "scale and bias per group (opset < 21) are computed at run time", "export in opset 21")
        node.replace_input_with(i, initializer(model, np.repeat(value, dims[1] // groups), f"{node.outputs[0].name}_per_channel"))


def _dft(node: ir.Node, version: int, model: ir.Model) -> None:
    axis = initializer(model, np.asarray(attr(node, "axis", 1), np.int64), f"{node.outputs[0].name}_axis")
    node.attributes.pop("axis", None)
    node.resize_inputs(3)
    node.replace_input_with(2, axis)


def _scan(node: ir.Node, version: int, model: ir.Model) -> None:
    raise Unsupported(node, "Scan of opset 8 (with a batch axis)", "export in opset 9 or later")


_SPECIAL: dict[str, tuple[int, Callable[[ir.Node, int, ir.Model], None]]] = {
    "Softmax": (13, _softmax), "LogSoftmax": (13, _softmax), "Hardmax": (13, _softmax),
    "Upsample": (10, _resize), "Resize": (13, _resize_11), "Scatter": (OPSET, _scatter),
    "BatchNormalization": (14, _batch_normalization), "Dropout": (12, _dropout), "Split": (18, _split),
    "GridSample": (20, _grid_sample), "RoiAlign": (16, _roi_align), "GroupNormalization": (21, _group_normalization),
    "DFT": (20, _dft), "Scan": (9, _scan),
}
