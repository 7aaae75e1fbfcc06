"""Tells the reader of docstrings that what `record` decorates is a dataclass."""

import ast
from typing import Any

import griffe

RECORD = ("tokenauction_jax.records.record", "tokenauction_jax.record")


class Dataclass(griffe.ExprName):
    """The name of the decorator that `record` applies."""

    @property
    def canonical_path(self) -> str:
        """Where the reader of docstrings looks for dataclasses."""
        return "dataclasses.dataclass"


class Records(griffe.Extension):
    """Gives records the constructor that they have at run time."""

    def on_class_members(
        self, *, node: Any, cls: griffe.Class, agent: Any, **kwargs: Any
    ) -> None:
        """Called once the members of a class are known."""
        if not any(
            isinstance(decorator.value, griffe.Expr)
            and decorator.value.canonical_path in RECORD
            for decorator in cls.decorators
        ):
            return
        decorator = Dataclass("dataclass")
        cls.decorators.append(
            griffe.Decorator(decorator, lineno=cls.lineno, endlineno=cls.lineno)
        )
        for member in cls.members.values():
            if member.is_attribute and "static_field(" in str(member.value):
                call = ast.parse(str(member.value), mode="eval").body
                given = [*call.args, *(keyword.value for keyword in call.keywords)]
                member.value = ast.unparse(given[0]) if given else None
