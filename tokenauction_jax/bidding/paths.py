"""The worth of texts for which policies bid, and its derivatives in their numbers.

A policy's bid depends on what came before: on the text, on what was paid for it, on its
own state. Given what was drawn, all that is smooth in the numbers, and reverse mode
through the whole text differentiates it; what numbers do to the draws comes from their
log-probability, as in `bidding.gradients`.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.agents.pool import AgentPool
from tokenauction_jax.bidding.objectives import Objective
from tokenauction_jax.bidding.submissions import TemperedPool
from tokenauction_jax.bidding.texts import (
    Numbers,
    Texts,
    Varies,
    finite,
    token_worth,
    vary,
)
from tokenauction_jax.mechanism import base
from tokenauction_jax.mechanism.base import Mechanism
from tokenauction_jax.simulation import Bidders, Info, Policy, simulate
from tokenauction_jax.simulation.bidders import payers


def sample_paths(
    key: jax.Array,
    pool: AgentPool,
    numbers: Numbers,
    num_tokens: int,
    first_auction: ArrayLike,
    limited: bool,
) -> Texts:
    """Samples texts for which policies bid; differentiable for what is drawn.

    Args:
      key: A typed PRNG key.
      pool: What supplies the distributions.
      numbers: Those of `A` auctions, whose bids are `Bidders`.
      num_tokens: ``T``.
      first_auction: The number of the first auction.
      limited: Whether some budget may be finite.
    """
    bidders: Bidders = numbers.bids
    pays = tuple(payers(bidders).tolist())
    draws = isinstance(numbers.mechanism.payment, base.SupportsChance)
    draws = draws and (limited or react(bidders, pool, num_tokens))
    if isinstance(pool, TemperedPool):
        pool = dataclasses.replace(pool, temperature=numbers.temperature)
    rollout = simulate(
        *(key, numbers.mechanism, pool, bidders),
        num_tokens=num_tokens,
        first_auction=first_auction,
        observe=_Token(numbers.mechanism, numbers.objective, pays, draws),
        observe_args=(numbers.values,),
    )
    worth, drawn, chance = (jnp.where(rollout.mask, x, 0) for x in rollout.observations)
    reward = numbers.objective.per_text(rollout.tokens, rollout.mask)
    return Texts(
        worth=worth,
        reward=jnp.zeros_like(worth[:, 0]) if reward is None else reward,
        mask=rollout.mask,
        valid=rollout.valid,
        drawn=drawn,
        log_chance=chance,
        bids=rollout.bids,
    )


def slopes(
    key: jax.Array,
    pool: AgentPool,
    numbers: Numbers,
    num_tokens: int,
    first_auction: ArrayLike,
    limited: bool,
    varies: Varies,
    myopic: bool,
) -> tuple[Texts, list[jax.Array]]:
    """Texts, and the derivative of the sum of their worths in the leaves that vary.

    That in a number with one row an auction is the derivative of that auction.
    """
    varying, rebuild = vary(numbers, varies)

    def total(varying: list[Any]) -> tuple[jax.Array, Texts]:
        moved = rebuild(varying)
        texts = sample_paths(key, pool, moved, num_tokens, first_auction, limited)
        worth = finite(texts.worth).sum() + finite(texts.reward).sum()
        if not myopic:
            assert texts.log_chance is not None
            worth += (lax.stop_gradient(texts.later()) * texts.log_chance).sum()
        return worth, texts

    found, texts = jax.grad(total, has_aux=True)(varying)
    return texts, found


@records.record
class _Token:
    """Observes the worth of a token, what of it was drawn, and how likely that was."""

    mechanism: Mechanism
    objective: Objective
    pays: tuple[bool, ...] = records.static_field()
    draws: bool = records.static_field()
    sees_payments: ClassVar[bool] = True

    def __call__(
        self,
        bids: jax.Array,
        log_probs: jax.Array,
        log_q: jax.Array,
        token: jax.Array,
        due: jax.Array,
        paid: jax.Array,
        values: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        def worth(spared: jax.Array, objective: Objective, values: Any) -> jax.Array:
            # On average what is expected, less what was spared, is what is paid.
            def charge(pays: jax.Array) -> jax.Array:
                return jnp.where(np.array(self.pays), pays - spared, 0)

            rest = objective, jnp.ones_like(bids), bids, values
            return token_worth(Numbers(self.mechanism, *rest), log_probs, charge)[0]

        weights = self.objective, values
        # What is infinite has no slope: it is reported as what it is.
        known = jnp.isfinite(worth(due - paid, *lax.stop_gradient(weights)))
        weights = jax.tree.map(
            lambda x: jnp.where(known, x, lax.stop_gradient(x)), weights
        )
        whole, ahead = (worth(x, *weights) for x in (due - paid, jnp.zeros_like(due)))
        chance = log_q[token]
        payment = self.mechanism.payment
        if self.draws and isinstance(payment, base.SupportsChance):
            chance += payment.log_chance(bids, log_probs, token, due)
        return whole, whole - ahead, chance


def react(bidders: Bidders, pool: AgentPool, num_tokens: int) -> bool:
    """Whether what policies bid or remember depends on what was paid.

    They are traced for several payments at once: whether there are several answers is
    then a question of the program, not of derivatives, which see no comparison.
    """
    found: list[bool] = []

    @jax.custom_batching.custom_vmap
    def watch(answer: Any) -> Any:
        return answer

    @watch.def_vmap
    def _(_size: int, batched: list[Any], answer: Any) -> tuple[Any, Any]:
        found.append(any(jax.tree.leaves(batched)))
        return answer, batched[0]

    def ask(agent: int, policy: Policy, money: jax.Array) -> Any:
        zero = jnp.zeros(())
        info = Info(
            agent=agent,
            position=jnp.uint32(0),
            num_tokens=num_tokens,
            budget=zero + jnp.inf,
            spent=money,
            remaining=money,
            log_probs=jnp.zeros((pool.num_agents, pool.vocab_size)),
            last_token=jnp.int32(0),
            last_payment=money,
            last_log_prob=zero,
            last_log_q=zero,
        )
        bid, state = policy.bid(policy.init(), info)
        return watch((jnp.asarray(bid), state))

    for agent, policy in enumerate(bidders.policies):
        one = jax.tree.map(lambda x: x[0], policy) if bidders.by_auction else policy
        together = jax.vmap(functools.partial(ask, agent), (None, 0))
        jax.eval_shape(together, one, jnp.zeros(2))
    return any(found)
