"""Graph -> Graph: one file per pass, one explicit list in `pipeline`."""

from .base import Unsupported
from .pipeline import canonicalize, run

__all__ = ["Unsupported", "canonicalize", "run"]
