"""The templates, in the order in which they are asked: the first that does not refuse a task makes it."""

from __future__ import annotations

from ..device import Device
from ..task import Task
from ..template import Template
from .attention import Attention
from .coded_conv import CodedConv, CodedDepthwise, CodedNarrowConv
from .coded_gemm import CodedGemm
from .conv import DirectConv
from .conv_narrow import NarrowConv
from .depthwise import Depthwise
from .gemm import ComputedGemm, Gemm
from .generic import Generic
from .int_conv import IntConv
from .int_depthwise import IntDepthwise
from .int_gemm import IntGemm
from .pair import Pair
from .recurrent import Recurrent
from .rows import Rows
from .scan import Scan
from .scatter import Scatter
from .scattered_gemm import ScatteredGemm
from .sort import Sort
from .sparse_conv import SparseConv, SparseIntConv
from .sparse_gemm import SparseGemm, SparseIntGemm
from .winograd import Winograd

TEMPLATES: tuple[Template, ...] = (
    Gemm(), IntGemm(), ComputedGemm(), CodedGemm(), NarrowConv(), DirectConv(), IntConv(), Winograd(), Depthwise(),
    IntDepthwise(), Attention(), Rows(), Generic(), Scan(), Sort(), Scatter(), Recurrent(), Pair(), SparseGemm(),
    SparseConv(), SparseIntGemm(), SparseIntConv(), ScatteredGemm(), CodedNarrowConv(), CodedConv(), CodedDepthwise(),
)


def choose(task: Task, device: Device) -> Template | None:
    """The template that makes `task` on `device`; None where every template of its family refuses."""
    return next((t for t in TEMPLATES if t.family == task.family and t.refuses(task, device) is None), None)
