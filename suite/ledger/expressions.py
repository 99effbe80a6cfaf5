"""Arithmetic written as text: evaluated from a short list of node types, with dimensions checked on the way.

An expression is data of the ledger, so nothing in it may reach Python: numbers, names that are given,
``+ - * / // % **`` and calls of the functions that are given, and nothing else.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger.units import NONE, Dimension

LONGEST = 400  # characters; a longer expression wants to be two steps
LARGEST_POWER = 64


@dataclass(frozen=True)
class Quantity:
    """A number in SI with its dimension."""

    value: float
    dimension: Dimension = NONE


Function = Callable[..., Quantity]


@cache
def parse(text: str) -> ast.expr:
    """The expression's tree, of allowed nodes only. Raises BadInput naming what is not allowed."""
    if len(text) > LONGEST:
        raise BadInput(f"expression is {len(text)} characters long", right=f"at most {LONGEST}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise BadInput(f"expression {text!r} cannot be read") from error
    for node in ast.walk(tree):
        check(node, text)
    return tree


def check(node: ast.AST, text: str) -> None:
    if isinstance(node, ast.operator | ast.unaryop | ast.Load):
        if not isinstance(node, ast.Load) and type(node) not in ARITHMETIC and type(node) not in SIGNS:
            raise BadInput(f"expression {text!r} uses {type(node).__name__}", right="+ - * / // % **")
        return
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return
    if isinstance(node, ast.BinOp | ast.UnaryOp | ast.Name):
        return
    right = "numbers, names, + - * / // % ** and listed functions"
    raise BadInput(f"expression {text!r} uses {type(node).__name__}", right=right)


def names(text: str) -> tuple[set[str], set[str]]:
    """(names of values, names of functions) an expression uses."""
    tree = parse(text)
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    heads = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    values = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in heads}
    return values, called


def evaluate(text: str, values: Mapping[str, Quantity], functions: Mapping[str, Function]) -> Quantity:
    """The expression's value. Raises BadInput on an unknown name, mixed dimensions or a result that is no number."""
    try:
        result = walk(parse(text), values, functions)
    except (ArithmeticError, ValueError, TypeError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"expression {text!r} fails: {error}") from error
    if isinstance(result.value, complex) or not math.isfinite(result.value):
        raise BadInput(f"expression {text!r} gives {result.value}", right="a finite number")
    return result


def walk(node: ast.expr, values: Mapping[str, Quantity], functions: Mapping[str, Function]) -> Quantity:
    match node:
        case ast.Constant():
            return Quantity(node.value)  # type: ignore[arg-type]
        case ast.Name():
            if node.id not in values:
                raise BadInput(f"name {node.id!r} is unknown", right=f"one of {', '.join(sorted(values))}")
            return values[node.id]
        case ast.UnaryOp():
            inner = walk(node.operand, values, functions)
            return Quantity(SIGNS[type(node.op)](inner.value), inner.dimension)
        case ast.BinOp():
            return combine(type(node.op), walk(node.left, values, functions), walk(node.right, values, functions))
        case ast.Call(func=ast.Name(id=name)):
            if name not in functions:
                raise BadInput(f"function {name!r} is unknown", right=f"one of {', '.join(sorted(functions))}")
            return functions[name](*(walk(arg, values, functions) for arg in node.args))
    raise AssertionError(f"parse() let {type(node).__name__} through")


def combine(kind: type[ast.operator], left: Quantity, right: Quantity) -> Quantity:
    if kind is ast.Pow:
        if right.dimension != NONE or abs(right.value) > LARGEST_POWER:
            raise BadInput(f"power {right.value}", right=f"a plain number up to {LARGEST_POWER}")
        return Quantity(left.value**right.value, tuple(p * right.value for p in left.dimension))
    if kind is ast.Mult:
        dimension = tuple(a + b for a, b in zip(left.dimension, right.dimension, strict=True))
    elif kind in (ast.Div, ast.FloorDiv):
        dimension = tuple(a - b for a, b in zip(left.dimension, right.dimension, strict=True))
    else:
        dimension = alike(left, right)
    return Quantity(ARITHMETIC[kind](left.value, right.value), dimension)


def alike(*parts: Quantity) -> Dimension:
    """The one dimension of all parts. Raises BadInput when they differ."""
    if len({part.dimension for part in parts}) != 1:
        raise BadInput("adds or compares quantities of different kinds", right="the same kind on both sides")
    return parts[0].dimension


def plain(part: Quantity) -> float:
    """The value of a quantity without dimension. Raises BadInput when it has one."""
    if part.dimension != NONE:
        raise BadInput("a function is given a quantity with a unit", right="a plain number")
    return part.value


def keeping(of: Callable[..., float]) -> Function:
    """A function whose result is of its arguments' kind: min, max, sum."""
    return lambda *parts: Quantity(of(*(part.value for part in parts)), alike(*parts))


def pure(of: Callable[..., float]) -> Function:
    """A function from plain numbers to a plain number: floor, log, comb."""
    return lambda *parts: Quantity(of(*(plain(part) for part in parts)))


def choose(n: float, k: float) -> int:
    if not 0 <= k <= n <= 10_000:
        raise BadInput(f"comb({n}, {k})", right="0 <= k <= n <= 10000")
    return math.comb(int(n), int(k))


ARITHMETIC: dict[type[Any], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
SIGNS: dict[type[Any], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
FUNCTIONS: dict[str, Function] = {
    "min": keeping(min), "max": keeping(max), "sum": keeping(lambda *parts: sum(parts)),
    "floor": pure(math.floor), "ceil": pure(math.ceil), "round": pure(round),
    "sqrt": lambda part: combine(ast.Pow, part, Quantity(0.5)),
    "log": pure(math.log), "log2": pure(math.log2), "exp": pure(math.exp), "comb": pure(choose),
}  # fmt: skip


def filled(text: str, shown: Mapping[str, str], model: str = "", of_model: Container[str] = ()) -> str:
    """The expression with every name replaced by what ``shown`` gives for it: the formula with the numbers put in.

    The functions ``of_model`` show the model's name as their first argument.
    """

    class Fill(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.Call:
            args = [self.visit(arg) for arg in node.args]
            if isinstance(node.func, ast.Name) and node.func.id in of_model:
                args.insert(0, ast.Name(id=model, ctx=ast.Load()))
            return ast.Call(func=node.func, args=args, keywords=[])

        def visit_Name(self, node: ast.Name) -> ast.Name:
            value = shown.get(node.id, node.id)
            return ast.Name(id=f"({value})" if "/" in value or value.startswith("-") else value, ctx=ast.Load())

    return ast.unparse(Fill().visit(ast.parse(text.strip(), mode="eval").body))
