"""Chat templates: Jinja from outside, rendered within bounds of time and memory.

A template is a program. It runs in Jinja's sandbox, where it reaches nothing but its
messages, and pays for what it does: for each value that it makes, compares or prints
its bytes, all that is inside included, and for each pass of a loop and each call of a
macro a step per node of its syntax. What is not listed here does not exist: of Jinja's
own filters and functions and of Python's methods some make long texts from nothing.
"""

from __future__ import annotations

import contextvars
import datetime
import functools
import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Set, ValuesView
from types import BuiltinMethodType, MethodType, NoneType
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from tokenauction_jax.agents.checkpoints.reading import CheckpointError

# In bytes: a few seconds and some 100 MB, a thousand times what templates need.
_BUDGET, _STEP = 2**27, 64
_LONGEST_TEMPLATE, _LONGEST_TEXT, _LONGEST_NUMBER = 2**16, 2**22, 1024
# Not `unique`: the hashes of numbers can be made to collide.
_FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first"),
    *("float", "indent", "int", "items", "join", "last", "length", "list", "lower"),
    *("map", "max", "min", "reject", "rejectattr", "replace", "reverse", "safe"),
    *("select", "selectattr", "sort", "string", "title", "trim", "upper"),
)
_METHODS = (
    *("capitalize", "changed", "count", "cycle", "endswith", "find", "get", "index"),
    *("isalnum", "isalpha", "isdecimal", "isdigit", "islower", "isnumeric", "isspace"),
    *("istitle", "isupper", "items", "join", "keys", "lower", "lstrip"),
    *("removeprefix", "removesuffix", "replace", "rsplit", "rstrip", "split"),
    *("splitlines", "startswith", "strip", "title", "upper", "values"),
)
# What they return, or the time that they take, grows with a product of the arguments.
_PRODUCTS = ("indent", "join", "lstrip", "replace", "rsplit", "rstrip", "strip", "trim")
# They take a text apart, into objects that are larger than their characters.
_PIECES = (
    *("indent", "join", "list", "map", "max", "min", "reject", "rejectattr", "rsplit"),
    *("select", "selectattr", "sort", "split", "splitlines", "title"),
)
_spent: contextvars.ContextVar[list[int]] = contextvars.ContextVar("spent")


def render(chat_template: str, **variables: Any) -> str:
    """The text that a template makes of its variables.

    Raises:
      CheckpointError: If the template is wrong, refuses the variables or takes too
        much time or memory.
    """
    before = _spent.set([0])
    try:
        text = _compiled(chat_template).render(variables)
        if len(text) > _LONGEST_TEXT:
            raise ValueError(f"it writes more than {_LONGEST_TEXT} characters")
        return text
    except Exception as error:  # A program from outside may fail in any way.
        raise CheckpointError(
            f"the chat template cannot render these messages "
            f"({error or type(error).__name__}): use chat=False to give the prompt as "
            "plain text"
        ) from None
    finally:
        _spent.reset(before)


@functools.lru_cache(maxsize=8)
def _compiled(chat_template: str) -> jinja2.Template:
    if len(chat_template) > _LONGEST_TEMPLATE:
        raise ValueError(f"it is longer than {_LONGEST_TEMPLATE} characters")
    environment = _Environment()
    tree = environment.parse(chat_template)
    environment.pass_cost = _pass_cost([tree])
    return environment.from_string(_Metering().visit(tree))


def _spend(cost: int) -> None:
    spent = _spent.get()
    spent[0] += cost
    if spent[0] > _BUDGET:
        raise jinja2.TemplateError("it takes too many steps or too much memory")


def _weigh(value: Any) -> Any:
    """Pays for a value and all that is inside; what is there twice counts twice."""
    rest = [value]
    while rest:
        item = rest.pop()
        _spend(_STEP + sys.getsizeof(item))
        if isinstance(item, str):
            continue
        if isinstance(item, list | tuple):
            rest += item
        elif isinstance(item, int):
            if item.bit_length() > _LONGEST_NUMBER:
                raise jinja2.TemplateError("it computes with too large numbers")
        elif isinstance(item, dict):
            rest += item.keys()
            rest += item.values()
        elif isinstance(item, range):
            _spend(_STEP * len(item))
        elif isinstance(item, Set | ValuesView):
            rest += item
    return value


def _pay(name: str, operands: Iterable[Any]) -> None:
    """Pays in advance for a call with these operands."""
    product, pieces, texts = 1, 0, []
    for operand in operands:
        before = _spent.get()[0]
        _weigh(operand)
        if isinstance(operand, str):
            texts.append(operand)
            product *= max(1, len(operand))
            pieces += len(operand)
        elif isinstance(operand, int):
            product *= max(1, abs(operand))
        elif isinstance(operand, Collection):
            product *= _spent.get()[0] - before
    if name in ("split", "rsplit") and len(texts) == 2 and texts[1]:
        pieces = texts[0].count(texts[1])
    _spend(product * (name in _PRODUCTS) + _STEP * pieces * (name in _PIECES))


def _collected(result: Any) -> Any:
    """Pays for what a call returned; items that would come later are made at once."""
    if isinstance(result, Iterator):
        result = list(_passes(result, _STEP))
    return _weigh(result)


def _passes(items: Iterable[Any], cost: int) -> Iterator[Any]:
    """The items, each paid for when it is used."""
    for item in items:
        _spend(cost)
        yield item


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that pays for its arguments and its result."""

    @functools.wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Any:
        given = [x for x in args if not isinstance(x, Context | nodes.EvalContext)]
        _pay(name, [*given, *kwargs.values()])
        return _collected(function(*args, **kwargs))

    return metered


@jinja2.pass_context  # So nothing is computed while the template is compiled.
def _printed(context: Context, value: Any) -> Any:
    del context
    return _weigh(value)


class _Namespace(Namespace):
    """It may hold itself, so it does not print what it holds."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja as chat templates expect it, with a price for everything.

    Attributes:
      pass_cost: What one pass through the template costs.
    """

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)
    pass_cost: int

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_printed,
            extensions=["jinja2.ext.loopcontrols"],
        )
        filters = {name: self.filters[name] for name in _FILTERS} | {"tojson": _to_json}
        self.filters = {name: _metered(name, f) for name, f in filters.items()}
        self.filters |= {_Metering.weigh: _weigh, _Metering.passes: _passes}
        self.tests = {name: _metered(name, test) for name, test in self.tests.items()}
        self.globals = {
            "dict": _dict,
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "range": self.globals["range"],
            "strftime_now": _strftime_now,
        }

    def call(
        self, context: Context, function: Any, /, *args: Any, **kwargs: Any
    ) -> Any:
        """Calls a function, a method or a macro of the template."""
        if isinstance(function, LoopContext) and args:
            args = (_passes(args[0], self.pass_cost), *args[1:])
        if isinstance(function, Macro | LoopContext | BlockReference):
            _spend(self.pass_cost)
        else:
            owner = getattr(function, "__self__", None)
            name = getattr(function, "__name__", "")
            _pay(name, [owner, *args, *kwargs.values()])
        return _collected(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Computes `left operator right`."""
        if operator == "*" and not _are_numbers(left, right):
            _pay("replace", (left, right))
        elif operator == "**" and abs(right) > _LONGEST_NUMBER:
            raise jinja2.TemplateError("it computes with too large numbers")
        elif operator == "%" and isinstance(left, str):
            raise jinja2.TemplateError("it formats text with %: use ~")
        return _weigh(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Looks up a key, or a place."""
        return super().getitem(obj, _weigh(argument))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may use an attribute of an object."""
        if isinstance(value, BuiltinMethodType | MethodType) and attr not in _METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Lets `is_safe_attribute` refuse `str.format`, too."""


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)


class _Metering(NodeTransformer):
    """Lets a template pay for what the environment does not see.

    The names of its filters cannot be spelled in a template.
    """

    weigh, passes = "(weigh)", "(passes)"

    def visit_For(self, node: nodes.For) -> nodes.For:
        """Each pass has its price, computed before nodes are added."""
        cost = _pass_cost([*node.body, *([node.test] if node.test else [])])
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


def _pass_cost(body: list[nodes.Node]) -> int:
    """What one pass through some nodes costs at least."""
    cost = 0
    for node in body:
        inside = [node, *node.find_all(nodes.Node)]
        cost += _STEP * len(inside)
        cost += sum(len(x.data) for x in inside if isinstance(x, nodes.TemplateData))
    return cost


def _dict(content: dict[str, Any] | None = None, /, **entries: Any) -> dict[str, Any]:
    if not isinstance(content, dict | NoneType):
        raise jinja2.TemplateError("it makes a dict of something else")
    return (content or {}) | entries


def _to_json(
    value: object, ensure_ascii: bool = False, indent: int | None = None
) -> str:
    # Jinja's own filter escapes HTML characters.
    if indent is not None and not 0 <= indent <= 16:
        raise jinja2.TemplateError(f"it indents JSON by {indent}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)
