"""What chat templates pay: a price for all that they make, compare, print and repeat.

For each value its bytes, all that is inside included, and for each pass of a loop and
each call of a macro a step per node of its syntax.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Set, ValuesView
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

# In bytes: a few seconds and some 100 MB, a thousand times what templates need.
_BUDGET, STEP = 2**27, 64
LONGEST_NUMBER = 1024  # In bits.
# What they return, or the time that they take, grows with a product of the arguments.
_PRODUCTS = (
    *("batch", "center", "indent", "join", "ljust", "lstrip", "replace", "rfind"),
    *("rindex", "rjust", "rpartition", "rsplit", "rstrip", "strip", "trim", "zfill"),
)
# They take a text apart, into objects that are larger than their characters, or write
# several characters for one.
_PIECES = (
    *("batch", "expandtabs", "groupby", "indent", "join", "list", "map", "max", "min"),
    *("reject", "rejectattr", "rsplit", "select", "selectattr", "slice", "sort"),
    *("split", "splitlines", "title", "unique", "urlencode", "wordcount"),
)
_OF_JINJA = Context | nodes.EvalContext | jinja2.Environment
_spent: contextvars.ContextVar[list[int]] = contextvars.ContextVar("spent")


@contextlib.contextmanager
def budget() -> Iterator[None]:
    """What is spent inside has a budget of its own."""
    before = _spent.set([0])
    try:
        yield
    finally:
        _spent.reset(before)


def spend(cost: int) -> None:
    """Pays a price.

    Raises:
      TemplateError: If the budget is used up.
    """
    spent = _spent.get()
    spent[0] += cost
    if spent[0] > _BUDGET:
        raise jinja2.TemplateError("it takes too many steps or too much memory")


def weigh(value: Any) -> Any:
    """Pays for a value and all that is inside; what is there twice counts twice."""
    rest = [value]
    while rest:
        item = rest.pop()
        spend(STEP + sys.getsizeof(item))
        if isinstance(item, str):
            continue
        if isinstance(item, list | tuple):
            rest += item
        elif isinstance(item, int):
            if item.bit_length() > LONGEST_NUMBER:
                raise jinja2.TemplateError("it computes with too large numbers")
        elif isinstance(item, dict):
            rest += item.keys()
            rest += item.values()
        elif isinstance(item, range):
            spend(STEP * len(item))
        elif isinstance(item, Set | ValuesView):
            rest += item
    return value


def price(value: Any) -> int:
    """Pays for a value as `weigh` does, and says how much."""
    before = _spent.get()[0]
    weigh(value)
    return _spent.get()[0] - before


def pay(name: str, operands: Iterable[Any]) -> None:
    """Pays in advance for a call with these operands."""
    product, pieces, texts = 1, 0, []
    for operand in operands:
        paid = price(operand)
        if isinstance(operand, str):
            texts.append(operand)
            product *= max(1, len(operand))
            pieces += len(operand)
        elif isinstance(operand, int):
            product *= max(1, abs(operand))
        elif isinstance(operand, Collection):
            product *= paid
    if name in ("split", "rsplit") and len(texts) == 2 and texts[1]:
        pieces = texts[0].count(texts[1])
    spend(product * (name in _PRODUCTS) + STEP * pieces * (name in _PIECES))


def collected(result: Any) -> Any:
    """Pays for what a call returned; items that would come later are made at once."""
    if isinstance(result, Iterator):
        result = list(passes(result, STEP))
    return weigh(result)


def passes(items: Iterable[Any], cost: int) -> Iterator[Any]:
    """The items, each paid for when it is used."""
    for item in items:
        spend(cost)
        yield item


def metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that pays for its arguments and its result."""

    @functools.wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Any:
        given = [x for x in args if not isinstance(x, _OF_JINJA)]
        pay(name, [*given, *kwargs.values()])
        return collected(function(*args, **kwargs))

    return metered


class Metering(NodeTransformer):
    """Lets a template pay for what the environment does not see.

    Attributes:
      weigh: The filter that pays for a value; no template can spell its name.
      passes: The filter by which each pass of a loop pays; the same.
    """

    weigh, passes = "(weigh)", "(passes)"

    def visit_For(self, node: nodes.For) -> nodes.For:
        """Each pass has its price, computed before nodes are added."""
        cost = pass_cost([*node.body, *([node.test] if node.test else [])])
        self.generic_visit(node)
        node.iter = self._filtered(node.iter, self.passes, nodes.Const(cost))
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        """Comparing takes as long as both sides are."""
        self.generic_visit(node)
        node.expr = self._filtered(node.expr, self.weigh)
        for operand in node.ops:
            operand.expr = self._filtered(operand.expr, self.weigh)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        """Slices are copies."""
        self.generic_visit(node)
        sliced = isinstance(node.arg, nodes.Slice)
        return self._filtered(node, self.weigh) if sliced else node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        """Names that are assigned to are a tuple, too."""
        return self._new(node) if node.ctx == "load" else node

    def _new(self, node: nodes.Expr) -> nodes.Expr:
        self.generic_visit(node)
        return self._filtered(node, self.weigh)

    visit_List = visit_Dict = visit_Concat = _new

    def _filtered(self, node: Any, name: str, *args: nodes.Expr) -> nodes.Filter:
        place = {"lineno": node.lineno, "environment": node.environment}
        return nodes.Filter(node, name, list(args), [], None, None, **place)


def pass_cost(body: list[nodes.Node]) -> int:
    """What one pass through some nodes costs at least."""
    cost = 0
    for node in body:
        inside = [node, *node.find_all(nodes.Node)]
        cost += STEP * len(inside)
        cost += sum(len(x.data) for x in inside if isinstance(x, nodes.TemplateData))
    return cost
