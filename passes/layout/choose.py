"""Which nodes are written channels-last: the choice that transposes the fewest elements, found as a minimum cut.

Every node with another form is a binary variable: on the source's side it takes that form, on the sink's side it stays. A value
that its maker stores in one order and a reader wants in another costs a Transpose, shared by all who read that order; what ties
two nodes is an edge of that capacity. (Binary energies as cuts: Kolmogorov and Zabih, "What energy functions can be minimized
via graph cuts?", PAMI 2004, section 4.)
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

import networkx as nx
import onnx_ir as ir

from ..base import shape
from .forms import INSISTENT, Form, asks
from .perms import Perm, identity, same_memory
from .views import Read

LAST, FIRST = "channels last", "as it is"
LAUNCH = 1024       # what a Transpose costs beyond its elements, in elements
VIEW = 1            # a Reshape that only moves axes of size 1: free, but needless


def choose(forms: dict[ir.Node, Form], reads: Iterable[Read]) -> set[ir.Node]:
    """The nodes that take their other form."""
    cut = _Cut()
    for node in forms:
        if node.op_type in INSISTENT:
            cut.graph.add_edge(LAST, node)                  # no capacity: infinite
        elif asks(node):
            cut.graph.add_edge(LAST, node, capacity=math.prod(shape(node.outputs[0]) or ()) // 2)
    reads = [r for r in reads if shape(r.root) is not None and (r.reader in forms or r.root.producer() in forms)]
    for read in reads:
        producer = read.root.producer()
        plain = identity(len(read.plain))
        if producer in forms:
            cut.read(producer, read, (plain, forms[producer].outputs[read.root.index() or 0]), read.reader in forms)
        else:
            cut.read(FIRST, read, (plain, plain), read.reader in forms)
    last = cut.last_side()
    return {node for node in forms if node in last}


class _Cut:
    """An edge a -> b falls due where a is on the side of LAST and b on the side of FIRST."""

    def __init__(self) -> None:
        self.graph = nx.DiGraph()
        self.graph.add_nodes_from([LAST, FIRST])

    def read(self, maker: Hashable, read: Read, stored: tuple[Perm, Perm], free: bool) -> None:
        """What a reading costs, given how its maker stores the value in its two forms; all readers of an order share the cost.

        Where the exact cost is not submodular (a reader that fits the *other* form of its maker) it is taken for dearer than it
        is.
        """
        dims = shape(read.root) or ()
        reader: Hashable = read.reader if free else FIRST
        if free:
            shared = "last", read.root, read.other
            kept, changed = (_cost(s, read.other, dims) for s in stored)
            if kept or changed:
                self.graph.add_edge(reader, shared)
                self.graph.add_edge(shared, FIRST if changed else maker, capacity=max(kept, changed))
        shared = "first", read.root, read.plain
        kept, changed = (_cost(s, read.plain, dims) for s in stored)
        if changed:
            self.graph.add_edge(LAST if kept else maker, shared, capacity=changed)
            self.graph.add_edge(shared, reader)
        elif kept and shared not in self.graph:
            self.graph.add_edge(LAST, shared, capacity=kept)
            self.graph.add_edge(shared, maker)

    def last_side(self) -> set[Hashable]:
        _, (last, _) = nx.minimum_cut(self.graph, LAST, FIRST)
        return last


def _cost(stored: Perm, wanted: Perm, dims: tuple[int, ...]) -> int:
    if stored == wanted:
        return 0
    return VIEW if same_memory(stored, wanted, dims) else LAUNCH + math.prod(dims)
