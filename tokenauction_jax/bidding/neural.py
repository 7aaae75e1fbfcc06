"""A policy that is a small neural network: what to train by gradient."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.bidding.policies import check_number
from tokenauction_jax.mechanism import distributions
from tokenauction_jax.simulation import Info

NUM_FEATURES = 8
# softplus of it is 1.
_ONE = 0.5413248546129181


@records.record
class Network:
    """See `network`; its parameters are leaves."""

    parameters: Any
    value: records.Number
    graph: Any = records.static_field()

    def init(self) -> tuple[()]:
        """No state: what happened so far is among the features."""
        return ()

    def bid(self, state: tuple[()], info: Info) -> tuple[ArrayLike, tuple[()]]:
        """The value times what the network makes of the features."""
        module = nnx.merge(self.graph, self.parameters)
        answer = module(features(info)).reshape(())
        return self.value * jax.nn.softplus(answer + _ONE), state


def network(
    value: ArrayLike,
    *,
    module: nnx.Module | None = None,
    key: jax.Array | None = None,
    hidden: int = 16,
) -> Network:
    """Bids ``value softplus(f(features) + 0.5413)``: the value itself where f is 0.

    Args:
      value: What the agent values a unit of valuation at, in money.
      module: A Flax NNX module from the `features` `(8,)` to one number; without one, a
        perceptron with one hidden layer of tanh that answers 0 before it is trained.
      key: Of the perceptron's first layer; needed without a module.
      hidden: Its width.

    Returns:
      A policy whose numbers, `Network.parameters` and the value, are leaves.

    Raises:
      ValueError: If a number is out of range, there is neither a key nor a module, or
        the module does not answer one number.
    """
    value = check_number("value", value)
    if module is None:
        if key is None:
            raise ValueError(
                "a network without a module needs a key: network(..., key)"
            )
        module = _perceptron(records.check_integer("hidden", hidden, 1), nnx.Rngs(key))
    graph, parameters = nnx.split(module)
    answer = nnx.eval_shape(module, jax.ShapeDtypeStruct((NUM_FEATURES,), jnp.float32))
    if getattr(answer, "shape", None) not in ((), (1,)):
        raise ValueError(
            f"module answers {answer}, expected one number for features of shape "
            f"({NUM_FEATURES},)"
        )
    return Network(parameters, value, graph)


def features(info: Info) -> jax.Array:
    """What a network sees, `(8,)`, all from 0 to 1.

    The shares of tokens and of the budget that are left (1 without a budget); the
    entropy of the own distribution, by its largest; the own largest probability; the
    distance (total variation) to the mean of all agents' distributions; the own
    probability of the last token, and how much of it was granted, ``min(1, p / q)``;
    and what was paid for it, as ``z / (z + rho)``.
    """
    own, per_token = info.own_log_probs, info.budget / info.num_tokens
    mean = jnp.exp(info.log_probs).mean(axis=0)
    drawn = info.position > 0
    log_ratio = jnp.where(drawn, info.last_log_prob - info.last_log_q, -jnp.inf)
    limited = jnp.isfinite(info.budget) & (info.budget > 0)
    budget = jnp.where(limited, info.budget, 1)
    paid = info.last_payment / distributions.nonzero(info.last_payment + per_token)
    found = [
        1 - info.position / info.num_tokens,
        jnp.where(limited, info.remaining, budget) / budget,
        info.entropy / math.log(max(own.size, 2)),
        jnp.exp(own.max()),
        jnp.abs(jnp.exp(own) - mean).sum() / 2,
        jnp.where(drawn, jnp.exp(info.last_log_prob), 0),
        jnp.exp(jnp.minimum(log_ratio, 0)),
        paid,
    ]
    return jnp.stack([jnp.asarray(x, jnp.float32) for x in found])


def _perceptron(hidden: int, rngs: nnx.Rngs) -> nnx.Module:
    last = nnx.Linear(hidden, 1, kernel_init=nnx.initializers.zeros, rngs=rngs)
    return nnx.Sequential(nnx.Linear(NUM_FEATURES, hidden, rngs=rngs), jnp.tanh, last)
