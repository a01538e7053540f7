"""All passes in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from .base import GraphPass
from .canonical.decompose_batchnorm import DecomposeBatchNorm
from .canonical.decompose_conv_transpose import DecomposeConvTranspose
from .canonical.decompose_einsum import DecomposeEinsum
from .canonical.decompose_gemm import DecomposeGemm
from .canonical.decompose_normalizations import DecomposeNormalizations
from .canonical.decompose_pools import DecomposePools
from .canonical.decompose_variadic import DecomposeVariadic
from .canonical.expand_functions import KEPT, ExpandFunctions, Ops
from .canonical.explicit_padding import ExplicitPadding
from .canonical.fold_affine import FoldAffine
from .canonical.fold_constants import FoldConstants
from .canonical.fold_pad import FoldPad
from .canonical.infer_shapes import InferShapes, dynamic
from .canonical.inline_functions import InlineFunctions
from .canonical.inline_if import InlineIf
from .canonical.join_slices import JoinSlices
from .canonical.lift_constants import LiftConstants
from .canonical.merge_equal import MergeEqual
from .canonical.merge_reshapes import MergeReshapes
from .canonical.merge_transposes import MergeTransposes
from .canonical.remove_dead_code import RemoveDeadCode
from .canonical.remove_no_ops import RemoveNoOps
from .canonical.split_to_slices import SplitToSlices
from .canonical.upgrade_opset import UpgradeOpset
from .fuse.attention import FuseAttention
from .fuse.factor_pair import FuseFactorPair
from .fuse.gelu import FuseGelu
from .fuse.group_norm import FuseGroupNorm
from .fuse.hard_swish import FuseHardSigmoid, FuseHardSwish
from .fuse.layer_norm import FuseLayerNorm
from .fuse.rms_norm import FuseRMSNorm
from .fuse.silu import FuseSiLU
from .fuse.softmax import FuseSoftmax
from .layout.absorb_flatten import AbsorbFlatten
from .layout.nhwc import ChannelsLast
from .quantized.absorb_clip import AbsorbClip
from .quantized.average_pools import IntegerAverages
from .quantized.expand_qlinear import ExpandQLinear
from .quantized.fold_pad import FoldIntegerPad
from .quantized.fold_requantization import FoldRequantization
from .quantized.integer_products import IntegerProducts
from .quantized.move_scales import CancelQuantize, HoistQuantize, SinkDequantize
from .quantized.note_bounds import NoteBounds
from .quantized.unsigned import UnsignedActivations


@dataclass(frozen=True)
class Phase:
    """Passes that run in order, again and again until none changes anything, at most `rounds` times."""

    name: str
    passes: tuple[Callable[[Ops], GraphPass], ...]      # given the ops to keep as they are
    rounds: int = 1


def plain(*passes: Callable[[], GraphPass]) -> tuple[Callable[[Ops], GraphPass], ...]:
    """Passes that do not ask which ops are kept."""
    return tuple(lambda keep, make=make: make() for make in passes)


CANONICAL = "canonical"
RECOGNISE = (FuseGelu, FuseHardSigmoid, FuseHardSwish, FuseSiLU, FuseLayerNorm, FuseRMSNorm, FuseGroupNorm, FuseSoftmax)
PIPELINE = (
    Phase("read", plain(RemoveDeadCode, InlineFunctions, LiftConstants, ExpandQLinear, lambda: InferShapes(again=True))),
    Phase("fold", plain(FoldConstants, InlineIf, LiftConstants), rounds=16),
    Phase("upgrade", plain(UpgradeOpset)),
    # Bytes meet bytes before anything else sees the scales between them.
    Phase("quantized", plain(SinkDequantize, HoistQuantize, CancelQuantize, AbsorbClip, RemoveDeadCode), rounds=16),
    Phase("integer", plain(UnsignedActivations, IntegerProducts, IntegerAverages, RemoveDeadCode)),
    # Recognition comes before the folding that would dissolve what it looks for (GELU's half into the next matmul's weights).
    Phase("recognise", plain(RemoveNoOps, *RECOGNISE, RemoveDeadCode), rounds=4),
    Phase(CANONICAL, (
        *plain(RemoveNoOps, ExplicitPadding, DecomposeBatchNorm, DecomposeGemm, DecomposePools, DecomposeNormalizations,
               DecomposeVariadic, DecomposeEinsum),
        ExpandFunctions,
        *plain(LiftConstants, SinkDequantize, FoldConstants, InlineIf, FoldPad, FoldIntegerPad, FoldAffine,
               DecomposeConvTranspose, MergeReshapes, MergeTransposes, RemoveNoOps, MergeEqual, RemoveDeadCode)), rounds=16),
    Phase("fuse", plain(*RECOGNISE, FuseAttention, MergeTransposes, RemoveNoOps, RemoveDeadCode), rounds=4),
    Phase("requantize", plain(FoldRequantization, RemoveDeadCode)),
    Phase("layout", plain(ChannelsLast, AbsorbFlatten)),
    # A LayerNorm over the channels of a map shows itself once the channels are the last axis.
    Phase("tidy", plain(FuseLayerNorm, SplitToSlices, FoldConstants, MergeReshapes, MergeTransposes, JoinSlices, RemoveNoOps,
                        FuseFactorPair, MergeEqual, RemoveDeadCode), rounds=8),
    Phase("bounds", plain(NoteBounds)),
)


def run(model: ir.Model, keep: Ops = KEPT, progress: Callable[[str], None] | None = None) -> list[str]:
    """Brings the model, in place, into the form that the compiler lowers. Inputs must have static shapes.

    keep: (domain, op) of ops that ONNX defines as functions and that stay as they are. progress: called with each pass's name.
    Returns the names of the passes that changed something, in the order of their first change. Raises Unsupported for a node
    without a newest form, and an ExceptionGroup of Unsupported, one for each node where static shapes end.
    """
    return _run(PIPELINE, model, keep, progress)


def canonicalize(model: ir.Model, keep: Ops = KEPT, progress: Callable[[str], None] | None = None) -> list[str]:
    """The part of `run` that gives every model one form, before ops are fused and channels put last: what compression works on.
    Its result may be given to `run`."""
    return _run(PIPELINE[:next(n for n, phase in enumerate(PIPELINE) if phase.name == CANONICAL) + 1], model, keep, progress)


def _run(phases: tuple[Phase, ...], model: ir.Model, keep: Ops, progress: Callable[[str], None] | None) -> list[str]:
    applied: dict[str, None] = {}
    for phase in phases:
        for _ in range(phase.rounds):
            changed = False
            for make in phase.passes:
                step = make(keep)
                if progress is not None:
                    progress(step.name)
                if step(model).modified:
                    changed = True
                    applied[step.name] = None
            if not changed:
                break
        if phase.name == CANONICAL:
            found = dynamic(model)
            if found:
                raise ExceptionGroup("values without a static shape", found)
    return list(applied)
