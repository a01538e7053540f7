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
from .forms import INSISTENT, SEEDS, Form
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
        elif node.op_type in SEEDS:
            cut.pay(LAST, node, math.prod(shape(node.outputs[0]) or ()) // 2)
    lone: set[Hashable] = set()
    for read in reads:
        dims = shape(read.root)
        maker: Hashable = read.root.producer() if read.root.producer() in forms else FIRST
        reader: Hashable = read.reader if read.reader in forms else FIRST
        if dims is None or maker is reader is FIRST:
            continue
        plain = identity(len(dims))
        producer = read.root.producer()
        other = forms[producer].outputs[read.root.index() or 0] if producer in forms else plain
        costs = [[_cost(stored, wanted, dims) for wanted in (read.plain, read.other)] for stored in (plain, other)]
        if costs[0][0] == 0 and (costs[1][1] == 0 or reader is FIRST):
            cut.tie(maker, reader, read, costs[0][1], costs[1][0])
        elif reader is not FIRST or (read.root, read.plain) not in lone:
            cut.pair(maker, reader, costs)
            if reader is FIRST:
                lone.add((read.root, read.plain))           # one Transpose for all readers that stay as they are
    return cut.last_side() & forms.keys()


def _cost(stored: Perm, wanted: Perm, dims: tuple[int, ...]) -> int:
    if stored == wanted:
        return 0
    return VIEW if same_memory(stored, wanted, dims) else LAUNCH + math.prod(dims)


class _Cut:
    def __init__(self) -> None:
        self.graph = nx.DiGraph()
        self.graph.add_nodes_from([LAST, FIRST])

    def pay(self, last: Hashable, first: Hashable, cost: int) -> None:
        """`cost` falls due where the one node is channels-last while the other stays as it is."""
        if cost <= 0 or last is first or last is FIRST:
            return
        edge = self.graph.get_edge_data(last, first)
        if edge is None:
            self.graph.add_edge(last, first, capacity=cost)
        elif "capacity" in edge:
            edge["capacity"] += cost

    def tie(self, maker: Hashable, reader: Hashable, read: Read, to_other: int, to_plain: int) -> None:
        """Equal choices are free; a Transpose is paid once for all readers of the same order."""
        if reader is not FIRST and to_other:
            shared = ("wanted", read.root, read.other)
            self.graph.add_edge(reader, shared)
            self.graph.add_edge(shared, maker, capacity=to_other)
        if maker is not FIRST and to_plain:
            shared = ("kept", read.root, read.plain)
            self.graph.add_edge(maker, shared, capacity=to_plain)
            self.graph.add_edge(shared, reader)

    def pair(self, maker: Hashable, reader: Hashable, costs: list[list[int]]) -> None:
        """Any table costs[maker][reader] (0: as it is, 1: channels-last). Where it is not submodular, the rarest case (only the
        reader changes) is taken for dearer than it is."""
        (a, b), (c, d) = costs
        b = max(b, a + d - c)
        self.lean(maker, c - a)
        self.lean(reader, d - c)
        self.pay(reader, maker, b + c - a - d)

    def lean(self, node: Hashable, cost: int) -> None:
        """`cost` falls due where the node is channels-last (a negative one: where it is not)."""
        if node is not FIRST:
            self.pay(*((node, FIRST) if cost > 0 else (LAST, node)), abs(cost))

    def last_side(self) -> set[Hashable]:
        _, (last, _) = nx.minimum_cut(self.graph, LAST, FIRST)
        return last
