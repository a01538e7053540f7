"""Recognition of ops in the pieces in which exporters write them."""

from ..base import GraphPass
from .attention import FuseAttention
from .gelu import FuseGelu
from .group_norm import FuseGroupNorm
from .hard_swish import FuseHardSigmoid, FuseHardSwish
from .layer_norm import FuseLayerNorm
from .rms_norm import FuseRMSNorm
from .silu import FuseSiLU
from .softmax import FuseSoftmax

# In this order: RMSNorm ends as LayerNorm does, attention contains a softmax, hard swish may contain a hard sigmoid.
RECOGNITION: tuple[type[GraphPass], ...] = (
    FuseGelu, FuseSiLU, FuseHardSigmoid, FuseHardSwish, FuseSoftmax, FuseLayerNorm, FuseRMSNorm, FuseGroupNorm,
    FuseAttention)
