"""Rewritings of indices against plain evaluation, on random expressions of the kind that reshapes make."""

import random

from burnish.schedules import expr as x
from burnish.schedules.affine import lanewise, split, within

EXTENTS = {"i0": 3, "i1": 24, "i2": 96}


def evaluate(e, env):
    value = {}
    operators = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "floordiv": lambda a, b: a // b,
                 "floormod": lambda a, b: a % b, "neg": lambda a: -a, "max": max, "min": min}
    for node in x.post_order([e]):
        args = [value[id(a)] for a in node.args]
        leaf = {"const": lambda node: node.value, "var": lambda node: env[node.value]}.get(node.op)
        value[id(node)] = leaf(node) if leaf else operators[node.op](*args)
    return value[id(e)]


def some_index(rng, depth=4):
    if depth == 0 or rng.random() < 0.2:
        return x.var(rng.choice(list(EXTENTS))) if rng.random() < 0.8 else x.const(rng.randrange(9), "int32")
    left, d = some_index(rng, depth - 1), rng.choice((2, 3, 8, 16, 32, 64))
    return rng.choice((lambda: left + some_index(rng, depth - 1), lambda: left * d, lambda: left // d, lambda: left % d,
                       lambda: x.maximum(left, d)))()


def test_rewritings_keep_the_value():
    rng = random.Random(3)
    for _ in range(300):
        e = some_index(rng)
        env = {name: rng.randrange(n) for name, n in EXTENTS.items()}
        want = evaluate(e, env)
        assert evaluate(within(e, EXTENTS), env) == want
        if (parts := split(e, "i1")) is not None:
            assert "i1" not in x.variables([parts[1]]) and parts[0] * env["i1"] + evaluate(parts[1], env) == want
        lanes, align = rng.choice(((16, 16), (16, 48), (8, 4), (4, 1)))
        base = rng.randrange(0, 96, align)
        for lane in range(lanes):
            split_env = {**env, "base": base, "lane": lane}
            assert evaluate(lanewise(e, "i2", lanes, align), split_env) == evaluate(e, {**env, "i2": base + lane})


def test_lanes_that_agree_on_a_quotient_share_it():
    i = x.var("i2")
    assert str(lanewise(i // 64 * 128 + i % 64, "i2", 16, 16)) == "((((base // 64) * 128) + (base % 64)) + lane)"
    assert "lane" in str(lanewise(i // 24, "i2", 16, 16))       # 16 lanes from 16 cross 24


def test_known_extents_drop_quotients():
    i = x.var("i1")
    assert str(within(i // 24 * 5 + i % 24 + (i + 1) // 24, EXTENTS)) == "(i1 + ((i1 + 1) // 24))"
