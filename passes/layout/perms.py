"""Orders of axes.

A storage order `p` of a value with axes 0 … r-1 says that axis p[i] of the value is axis i of the array in memory, as in
`numpy.transpose(value, p)`. Channels-last of [N, C, H, W] is (0, 2, 3, 1).
"""

from __future__ import annotations

from collections.abc import Sequence

Perm = tuple[int, ...]
Shape = tuple[int, ...]


def identity(rank: int) -> Perm:
    return tuple(range(rank))


def channels_last(rank: int) -> Perm:
    """The order [N, spatial…, C]; the identity below rank 3."""
    return (0, *range(2, rank), 1) if rank > 2 else identity(rank)


def compose(first: Perm, second: Perm) -> Perm:
    """transpose(transpose(x, first), second) == transpose(x, compose(first, second))."""
    return tuple(first[i] for i in second)


def inverse(p: Perm) -> Perm:
    return tuple(p.index(i) for i in range(len(p)))


def permuted(items: Sequence[int], p: Perm) -> tuple[int, ...]:
    return tuple(items[i] for i in p)


def same_memory(p: Perm, q: Perm, shape: Shape) -> bool:
    """Do both orders lay the elements out alike? Axes of size 1 may stand anywhere."""
    return [a for a in p if shape[a] != 1] == [a for a in q if shape[a] != 1]


def without(p: Perm, axes: Sequence[int]) -> Perm:
    """The order of what is left when `axes` are removed from the value."""
    left = [a for a in range(len(p)) if a not in axes]
    return tuple(left.index(a) for a in p if a in left)


def through_reshape(p: Perm, source: Shape, target: Shape) -> Perm | None:
    """The order in which Reshape(source -> target) finds its result when its input is stored in order `p`, so that the stored
    arrays too are a mere reshape of each other; None where they are not.

    Axes are matched in the smallest groups of equal product; every group must lie together and in order in memory. Where axes of
    size 1 leave a choice, channels-last is taken, since that is what spatial ops ask for.
    """
    if 0 in source or 0 in target:
        return None
    group_of: dict[int, list[int]] = {}                      # first axis of a group in the source -> its axes in the target
    followers: dict[int, list[int]] = {}                     # … -> its axes in the source
    wide = [a for a in range(len(source)) if source[a] != 1]
    into = [a for a in range(len(target)) if target[a] != 1]
    while wide:
        axes, parts = [wide.pop(0)], [into.pop(0)]
        a, b = source[axes[0]], target[parts[0]]
        while a != b:
            if a < b:
                axes.append(wide.pop(0))
                a *= source[axes[-1]]
            else:
                parts.append(into.pop(0))
                b *= target[parts[-1]]
        group_of[axes[0]], followers[axes[0]] = parts, axes
    order = [a for a in p if source[a] != 1]
    found: list[int] = []
    while order:
        axes = followers.get(order[0], [])
        if not axes or order[:len(axes)] != axes:
            return None
        found += group_of[axes[0]]
        order = order[len(axes):]
    for choice in (channels_last(len(target)), identity(len(target))):
        if [a for a in choice if target[a] != 1] == found:
            return choice
    result = list(found)                                     # an axis of size 1 goes in front of the axis that follows it
    for a in reversed(range(len(target))):
        if target[a] == 1:
            result.insert(result.index(a + 1) if a + 1 < len(target) else len(result), a)
    return tuple(result)
