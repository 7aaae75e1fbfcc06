"""Checks that what you wrote yourself keeps the package's contract, and fake agents.

Call the checks from your tests. Each runs its object on random auctions of 3 agents and
8 tokens and on edge cases, and raises `AssertionError` with the check that fails, by
how much, and the bids and distributions that show it. What a rule must have is defined
once, in `auditing.properties`, for an audit and for these checks. Numbers agree if they
differ by at most 1e-4 of their size plus 1e-6 (of the sum of bids, if they are money).
Draws are fixed by `seed`: over all seeds, a right rule fails fewer than one call in
1e8.

>>> import tokenauction_jax as ta
>>> from tokenauction_jax import testing
>>> testing.check_valuation(ta.total_variation())
>>> testing.check_valuation(ta.linear())
Traceback (most recent call last):
AssertionError: 'linear' does not implement Valuation: it has no 'value'
"""

from tokenauction_jax.testing.fakes import random_log_probs as random_log_probs
from tokenauction_jax.testing.fakes import random_pool as random_pool
from tokenauction_jax.testing.payments import check_payment as check_payment
from tokenauction_jax.testing.payments import check_second_price as check_second_price
from tokenauction_jax.testing.policies import check_policy as check_policy
from tokenauction_jax.testing.pools import check_pool as check_pool
from tokenauction_jax.testing.rules import check_aggregation as check_aggregation
from tokenauction_jax.testing.rules import check_valuation as check_valuation
from tokenauction_jax.testing.samplers import (
    check_stable_sampler as check_stable_sampler,
)
