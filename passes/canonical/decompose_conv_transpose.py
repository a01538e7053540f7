"""A transposed convolution is a convolution whose outputs interleave."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import Builder, NodePass, Stage, attr, constant, initializer, shape


class DecomposeConvTranspose(NodePass):
    """y[o] = sum_i x[i] w[o + p - s i]. With o + p = s q + r this is y = sum_j x[q - j] w[s j + r]: for each phase r in 0 … s-1 a
    convolution with the flipped sub-kernel w_r[j] = w[s j + r] of ceil(k / s) taps. One Conv computes all phases as channels
    (oc, r…); DepthToSpace interleaves them; a Slice cuts the borders (Shi et al. 2016, sub-pixel convolution). Stride 1 is a Conv
    with the flipped kernel.

    Weights must be constant, and dilated kernels have stride 1; else the node stays.
    """

    stage = Stage.CANONICAL
    ops = frozenset({"ConvTranspose"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        x, y = node.inputs[0], node.outputs[0]
        dims, out, w = shape(x), shape(y), constant(node.inputs[1])
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        strides, dilations, pads = attr(node, "strides"), attr(node, "dilations"), attr(node, "pads")
        if dims is None or out is None or pads is None or strides is None or dilations is None or "auto_pad" in node.attributes:
            return False
        if w is None or (bias is None and len(node.inputs) > 2 and node.inputs[2] is not None):
            self.miss(node, "its weights are computed at run time")
            return False
        if any(s > 1 and d > 1 for s, d in zip(strides, dilations, strict=True)):
            self.miss(node, "stride and dilation at once")
            return False
        rank, groups, phases = len(dims) - 2, attr(node, "group", 1), int(np.prod(strides))
        taps = [-(-k // s) for k, s in zip(w.shape[2:], strides, strict=True)]
        left, right, crop = [], [], []
        for n, o, p, s, t, d in zip(dims[2:], out[2:], pads[:rank], strides, taps, dilations, strict=True):
            reach = (t - 1) * d                                     # how far back a phase looks
            first, last = p // s, (p + o - 1) // s                  # the q of the first and the last output
            left.append(min(max(reach - first, 0), reach))
            start = reach - left[-1]                                # the q of the Conv's first output
            right.append(max(last - start + 1 - (n + left[-1] - reach), 0))
            crop.append(p - s * start)
        q = [n + a + b - (t - 1) * d for n, a, b, t, d in zip(dims[2:], left, right, taps, dilations, strict=True)]
        weight = _phases(w, groups, strides, taps)
        if groups == 1:     # phases slowest: each keeps its channels together
            weight = np.ascontiguousarray(weight.reshape(out[1], phases, *weight.shape[1:]).swapaxes(0, 1)).reshape(weight.shape)
        inputs = [x, initializer(model, weight, f"{y.name}_weight")]
        if bias is not None:
            inputs.append(initializer(model, np.tile(bias, phases) if groups == 1 else np.repeat(bias, phases), f"{y.name}_bias"))
        build = Builder(node, model)
        value = build.make("Conv", *inputs, shape=(dims[0], out[1] * phases, *q), group=groups, kernel_shape=taps,
                           strides=[1] * rank, dilations=dilations, pads=left + right)
        if phases > 1:
            value = _interleave(build, value, dims[0], out[1], q, strides, groups == 1)
        if [a * s for a, s in zip(q, strides, strict=True)] != list(out[2:]):
            ends = [c + o for c, o in zip(crop, out[2:], strict=True)]
            value = build.make("Slice", value, build.integers(crop), build.integers(ends), build.integers(range(2, rank + 2)))
        build.put(value)
        return True


def _phases(w: np.ndarray, groups: int, strides: list[int], taps: list[int]) -> np.ndarray:
    """[ic, oc/g, k…] to the Conv weight [oc s…, ic/g, taps…], flipped."""
    rank = len(strides)
    padded = np.pad(w, [(0, 0), (0, 0), *((0, t * s - k) for t, s, k in zip(taps, strides, w.shape[2:], strict=True))])
    pairs = (n for pair in zip(taps, strides, strict=True) for n in pair)
    split = padded.reshape(groups, w.shape[0] // groups, w.shape[1], *pairs)
    js, rs = [3 + 2 * i for i in range(rank)], [4 + 2 * i for i in range(rank)]
    grouped = split.transpose(0, 2, *rs, 1, *js).reshape(-1, w.shape[0] // groups, *taps)
    return np.ascontiguousarray(np.flip(grouped, axis=tuple(range(2, 2 + rank))))


def _interleave(build: Builder, value: ir.Value, n: int, channels: int, q: list[int], strides: list[int],
                phases_slowest: bool) -> ir.Value:
    """[n, oc s…, q…] or, phases_slowest, [n, s… oc, q…] to [n, oc, q s…]."""
    rank, wide = len(q), [a * s for a, s in zip(q, strides, strict=True)]
    if rank == 2 and strides[0] == strides[1]:
        mode = "DCR" if phases_slowest else "CRD"
        return build.make("DepthToSpace", value, shape=(n, channels, *wide), blocksize=strides[0], mode=mode)
    if phases_slowest:
        apart = (n, *strides, channels, *q)
        perm = [0, 1 + rank, *(a for i in range(rank) for a in (2 + rank + i, 1 + i))]
    else:
        apart = (n, channels, *strides, *q)
        perm = [0, 1, *(a for i in range(rank) for a in (2 + rank + i, 2 + i))]
    mixed = build.make("Transpose", build.reshape(value, apart), perm=perm, shape=[apart[a] for a in perm])
    return build.reshape(mixed, (n, channels, *wide))
