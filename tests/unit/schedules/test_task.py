"""A task read back from its JSON is the same task, and what is no task's JSON is refused with the reason."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from burnish.schedules import expr as x
from burnish.schedules.task import Buffer, Stage, Store, Task

from .trials import task as matmul

I0, R0 = x.var("i0"), x.var("r0")


def everything() -> Task:
    """Every kind of expression, numbers that JSON has not or mixes up, nested parameters."""
    f, n = x.load(0, (I0, R0), "float32"), x.load(1, (I0,), "int64")
    value = x.select(x.Expr("isnan", (f,), "bool"), x.const(math.nan, "float32"), x.const(-0.0, "float32"))
    value = value + x.const(0.0, "float32")
    value = value * x.cast(n, "float32") + x.const(-math.inf, "float32") + x.exp(f) + x.const(0.1, "float32")
    flag = x.logical("and", x.logical_not(n > x.const(1 << 62, "int64")), f < 1.0)
    stages = (Stage("max", value), Stage("argmin_last", x.select(flag, f, x.binary("pow", f, 2.0))))
    out = x.select(x.var("s1") > 0, x.var("s0", "float32"), x.Expr("reinterpret", (x.var("s1"),), "float32"))
    buffers = (Buffer((3, 5), "float32", "input"), Buffer((3,), "int64", "constant"), Buffer((3,), "float32", "output"))
    return Task("rows", buffers, (Store(2, (3,), (I0,), out),), {"space": (3,), "reduce": (5,), "lanes_on": "reduce",
                "deep": ((1, 2), (3.5, None), True)}, {"x": f}, stages)


@pytest.mark.parametrize("task", [everything(), matmul(0), matmul(3),
                                  Task("generic", (Buffer((), "int8", "output"),), (Store(0, (), (), x.const(1, "int8")),))],
                         ids=lambda task: task.family)
def test_there_and_back(task: Task) -> None:
    written = json.dumps(task.data)
    again = Task.of(json.loads(written))
    assert again == task and again.key == task.key and json.dumps(again.data) == written and str(again) == str(task)
    assert again.params == task.params and again.buffers == task.buffers


def test_the_key_is_made_anew() -> None:
    """Other JSON of the same task: rows twice, in another order, and ones that nobody uses."""
    data = json.loads(json.dumps(matmul(0).data))
    table = data["expressions"]
    data["expressions"] = [["const", "int8", 3, []], *([op, t, v, [a + 1 for a in args]] for op, t, v, args in table)]
    data["operands"] = {k: v + 1 for k, v in data["operands"].items()}
    data["stores"] = [[b, s, [i + 1 for i in index], v + 1] for b, s, index, v in data["stores"]]
    assert Task.of(data) == matmul(0)
    data["stores"][0][3] = 1
    assert Task.of(data) != matmul(0)


Path = tuple[str | int, ...]
BROKEN: list[tuple[Path, object, str]] = [
    ((), [], "a task has family, params"), (("family",), 3, "family cannot be 3"), (("family",), "a b", "family cannot be 'a b'"),
    (("params",), [1], "params cannot be"), (("params",), {"a b": 1}, "params cannot be"),
    (("params", "m"), math.inf, "parameter m cannot be inf"), (("params", "m"), 1 << 63, "parameter m"),
    (("params", "m"), {"a": 1}, "parameter m"), (("params", "m"), [[[[[1]]]]], "parameter m"),
    (("buffers",), None, "buffers cannot be None"), (("buffers", 0), [[1], "float32"], "buffer 0 has not 3 parts"),
    (("buffers", 1, 0, 0), -1, "shape of buffer 1"), (("buffers", 1, 0, 0), True, "shape of buffer 1"),
    (("buffers", 0, 1), "float99", "dtype of buffer 0 cannot be 'float99'"), (("buffers", 0, 1), ["int8"], "dtype of buffer 0"),
    (("buffers", 0, 2), "secret", "role of buffer 0"), (("buffers", 0, 0), [7], "there is no buffer 0 of 3 axes"),
    (("operands", "x"), 999, "operand x: there is no expression 999"), (("operands", "x"), True, "operand x: there is no"),
    (("operands",), [], "operands cannot be"), (("stages",), [["mean", 0]], "op of stage 0 cannot be 'mean'"),
    (("stages",), [["sum"]], "stage 0 has not 2 parts"), (("stages",), [["sum", -1]], "stage 0: there is no expression -1"),
    (("stores", 0, 0), 9, "buffer of store 0"), (("stores", 0, 1), [2.5], "space of store 0"),
    (("stores", 0, 2), [0], "index of store 0"), (("stores", 0, 3), None, "store 0: there is no expression None"),
    (("expressions",), {}, "the expressions are no list"), (("expressions", 0), ["var"], "expression 0 is not"),
    (("expressions", 0, 0), "eval", "expression 0: there is no op 'eval' of 0 arguments"),
    (("expressions", 0, 0), ["var"], "expression 0: there is no op"), (("expressions", 0, 1), "int", "there is no dtype 'int'"),
    (("expressions", 0, 2), "__import__('os')", "is no value of a var"), (("expressions", 0, 2), 3, "3 is no value of a var"),
    (("expressions", 0, 3), [0], "expression 0: its arguments are not"), (("expressions", 3, 2), -1, "-1 is no value of a load"),
    (("expressions", 3, 3), [0, 1, 3], "expression 3: its arguments are not"),
    (("expressions", 3, 3), [0, 1, "2"], "expression 3: its arguments are not"),
    (("expressions", 3, 3), [0, 1], "there is no buffer 0 of 2 axes"), (("expressions", 3, 2), 99, "there is no buffer 99"),
]


@pytest.mark.parametrize("path, value, said", BROKEN)
def test_what_is_no_task(path: Path, value: object, said: str) -> None:
    data = json.loads(json.dumps(matmul(0).data))
    if path:
        inner: Any = data
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
    else:
        data = value
    with pytest.raises(ValueError) as e:
        Task.of(data)
    assert said in str(e.value) and len(str(e.value)) < 200


@pytest.mark.parametrize("row", [
    ["const", "float32", 1, []], ["const", "float32", math.inf, []], ["const", "float32", "1.0", []], ["const", "bool", 1, []],
    ["const", "int32", True, []], ["const", "int32", 1.0, []], ["const", "int64", 1 << 64, []], ["add", "int32", 1, [0, 0]],
    ["lt", "int32", None, [0, 0]], ["exp", "float32", None, [0, 0]], ["select", "int32", None, [0, 0]]])
def test_rows_that_no_task_has(row: list[object]) -> None:
    with pytest.raises(ValueError, match="expression 1: "):
        x.from_rows([["var", "int32", "i0", []], row])


def mutations(rng: random.Random) -> Callable[[Any], Any]:
    """One random change somewhere in a value of JSON."""
    odd = [None, -1, 0, 1e308, "", "i0", [], {}, True, 1 << 70, [[]], "nan"]

    def change(value: Any) -> Any:
        if isinstance(value, list | dict) and value and rng.random() < 0.85:
            at = rng.choice(list(range(len(value)) if isinstance(value, list) else value))
            value[at] = change(value[at])
            return value
        return rng.choice(odd)

    return change


def test_random_changes_are_refused_or_make_another_task() -> None:
    rng = random.Random(0)
    change, refused = mutations(rng), 0
    for n in range(3000):
        data = change(copy.deepcopy(json.loads(json.dumps((everything() if n % 2 else matmul(0)).data))))
        try:
            again = Task.of(data)
        except ValueError:
            refused += 1
        else:
            assert Task.of(json.loads(json.dumps(again.data))) == again
    assert 1500 < refused < 3000
