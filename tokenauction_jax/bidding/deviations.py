"""One agent deviates to a bid of its own, while the others do what they do."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tokenauction_jax import records
from tokenauction_jax.bidding import gradients
from tokenauction_jax.bidding.problem import Problem
from tokenauction_jax.bidding.texts import Texts
from tokenauction_jax.simulation import Bidders, Info, Policy
from tokenauction_jax.simulation.bidders import in_rows


@records.record
class Deviation:
    """A policy, and what is bid in its place for every token if its agent deviates."""

    policy: Policy
    deviates: jax.Array
    amount: jax.Array

    @property
    def pays(self) -> bool:
        """Whether the agent is ever charged."""
        return getattr(self.policy, "pays", True)

    def init(self) -> Any:
        """That of the policy."""
        return self.policy.init()

    def bid(self, state: Any, info: Info) -> tuple[ArrayLike, Any]:
        """The amount, or what the policy bids."""
        bid, state = self.policy.bid(state, info)
        return jnp.where(self.deviates, self.amount, bid), state


def with_bid(problem: Problem, agent: ArrayLike, bid: jax.Array) -> Problem:
    """The problem with this bid of an agent, in its units, in all auctions."""
    amounts, bids = bid * problem.unit[:, agent], problem.numbers.bids
    if not isinstance(bids, Bidders):
        return problem.with_numbers(bids=bids.at[:, agent].set(amounts))
    bids = in_rows(bids)
    # Which agent deviates may be traced, while policies are of many classes.
    deviates = [jnp.full(amounts.shape, agent == i) for i in range(len(bids.policies))]
    policies = tuple(
        Deviation(policy, flag, amounts)
        for policy, flag in zip(bids.policies, deviates, strict=True)
    )
    return with_policies(problem.with_numbers(bids=bids), policies)


def with_policies(problem: Problem, policies: tuple[Any, ...]) -> Problem:
    """The problem with other policies."""
    bidders = dataclasses.replace(problem.numbers.bids, policies=policies)
    return problem.with_numbers(bids=bidders)


def own_slopes(problem: Problem, agent: ArrayLike) -> tuple[Texts, jax.Array]:
    """Texts of a problem of `with_bid`, and their derivatives `(A,)` in that bid."""
    bids, flags = problem.numbers.bids, True
    if isinstance(bids, Bidders):
        nothing: Any = jax.tree.map(lambda _: False, bids.policies)
        flags = tuple(dataclasses.replace(x, amount=True) for x in nothing)
    varies = problem.numbers.only_bids(flags)
    texts, found = gradients.slopes(problem, "score_function", varies)
    # Of policies that do not deviate the amount does nothing.
    policies = isinstance(bids, Bidders)
    slopes = jnp.stack(found).sum(axis=0) if policies else found[0][:, agent]
    return texts, slopes * problem.unit[:, agent]


def typical_bids(problem: Problem) -> jax.Array:
    """Bids `(A, n)`, of policies on average over the tokens of a text."""
    if not isinstance(problem.numbers.bids, Bidders):
        return problem.numbers.bids
    bids = problem.texts().bids
    assert bids is not None
    return bids.mean(axis=1)


def is_held(problem: Problem, texts: Texts) -> jax.Array:
    """Whether somebody bids for the first token in every auction."""
    first = problem.numbers.bids if texts.bids is None else texts.bids[:, 0]
    return (first > 0).any(axis=1).all()
