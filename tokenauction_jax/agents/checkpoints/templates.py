"""Chat templates: Jinja from outside, rendered within bounds of time and memory.

A template is a program. It runs in Jinja's sandbox as `transformers` sets it up, where
it reaches nothing but its messages, and pays for what it does (`metering`). What is not
listed (`template_functions`) does not exist: of Jinja's own filters and functions and
of Python's methods some make long texts from nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import BuiltinMethodType, MethodType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tokenauction_jax.agents.checkpoints import metering, template_functions
from tokenauction_jax.agents.checkpoints.metering import Metering, spend, weigh
from tokenauction_jax.agents.checkpoints.reading import CheckpointError
from tokenauction_jax.agents.checkpoints.template_functions import METHODS

_LONGEST_TEMPLATE, _LONGEST_TEXT = 2**16, 2**22


def render(chat_template: str, /, **variables: Any) -> str:
    """The text that a template makes of its variables.

    Raises:
      CheckpointError: If the template is wrong, refuses the variables or takes too
        much time or memory.
    """
    try:
        with metering.budget():
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


@functools.lru_cache(maxsize=8)
def _compiled(chat_template: str) -> jinja2.Template:
    if len(chat_template) > _LONGEST_TEMPLATE:
        raise ValueError(f"it is longer than {_LONGEST_TEMPLATE} characters")
    environment = _Environment()
    tree = environment.parse(chat_template)
    environment.pass_cost = metering.pass_cost([tree])
    return environment.from_string(Metering().visit(tree))


@jinja2.pass_context  # So nothing is computed while the template is compiled.
def _printed(context: Context, value: Any) -> Any:
    del context
    return weigh(value)


class _Generation(Extension):
    """`{% generation %}`, which marks what the assistant wrote, for training."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """What is inside, in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


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
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
        )
        self.filters = template_functions.filters()
        self.filters |= {Metering.weigh: weigh, Metering.passes: metering.passes}
        self.tests = {n: metering.metered(n, test) for n, test in self.tests.items()}
        self.globals = template_functions.functions()

    def call(
        self, context: Context, function: Any, /, *args: Any, **kwargs: Any
    ) -> Any:
        """Calls a function, a method or a macro of the template."""
        if isinstance(function, LoopContext) and args:
            args = (metering.passes(args[0], self.pass_cost), *args[1:])
        if isinstance(function, Macro | LoopContext | BlockReference):
            spend(self.pass_cost)
        else:
            owner = getattr(function, "__self__", None)
            name = getattr(function, "__name__", "")
            metering.pay(name, [owner, *args, *kwargs.values()])
        return metering.collected(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Computes `left operator right`."""
        if operator == "*" and not _are_numbers(left, right):
            metering.pay("replace", (left, right))
        elif operator == "**" and abs(right) > metering.LONGEST_NUMBER:
            raise jinja2.TemplateError("it computes with too large numbers")
        elif operator == "%" and isinstance(left, str):
            template_functions.pay_for_percent(left, right)
        return weigh(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Looks up a key, or a place."""
        return super().getitem(obj, weigh(argument))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may use an attribute of an object."""
        if isinstance(value, BuiltinMethodType | MethodType) and attr not in METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Meters `str.format`, which the sandbox asks for before all else."""
        return template_functions.metered_format(self, value)


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)
