"""What the methods of rules must return, by shape and dtype."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tokenauction_jax.auditing.instances import Instance
from tokenauction_jax.auditing.rules import Rules


def check_calls(rules: Rules, instance: Instance) -> None:
    """Raises `ValueError` unless every method returns what it should, by shape.

    Those of the payment, if there is one; else of the aggregation and the sampler.
    """
    aggregation, payment, sampler = rules.aggregation, rules.payment, rules.sampler
    bids, log_probs, own_bids = instance.bids, instance.log_probs, instance.own_bids
    (size,), tokens, key = bids.shape, log_probs.shape[1], jax.random.key(0)

    if payment is not None:
        money = (size,), jnp.floating
        check_call("expected", *money, payment.expected, bids, log_probs)
        check_call("conditional", *money, payment.conditional, bids, log_probs, 0)
        check_call("realized", *money, payment.realized, key, bids, log_probs, 0)
        return
    check_call("weights", (size,), jnp.floating, aggregation.weights, bids)
    law = (tokens,), jnp.floating
    check_call("log_prob", *law, aggregation.log_prob, bids, log_probs)
    if sampler is not None:

        def draw(key: jax.Array) -> jax.Array:
            path = instance.agent, own_bids, bids, log_probs
            return sampler(key, aggregation, *path)

        check_call("sampler", own_bids.shape, jnp.integer, draw, key)


def check_call(
    name: str, shape: tuple[int, ...], kind: type, call: Callable[..., Any], *args: Any
) -> None:
    """Raises `ValueError` unless a call returns an array of a shape and a kind."""
    wrong = mismatch(jax.eval_shape(call, *args), shape, kind)
    if wrong:
        raise ValueError(f"{name} {wrong}")


def mismatch(found: Any, shape: tuple[int, ...], kind: type) -> str:
    """How an answer is not an array of a shape and a kind of numbers; "" if it is one.

    Args:
      found: Any tree of arrays, or what `jax.eval_shape` makes of it.
      shape: What its shape should be.
      kind: What its dtype should be or belong to.
    """
    is_array = isinstance(found, jax.ShapeDtypeStruct | jax.Array)
    if is_array and found.shape == shape and jnp.issubdtype(found.dtype, kind):
        return ""
    return f"returns {layout(found)}, not {kind.__name__}{list(shape)}"


def layout(tree: Any) -> str:
    """The structure, shapes and dtypes of a tree of arrays."""
    shapes = jax.eval_shape(lambda tree: tree, tree)
    return str(jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", shapes))
