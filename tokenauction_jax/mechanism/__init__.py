"""Pure mathematics of one auction: aggregation, valuations, draws and payments."""

from tokenauction_jax.mechanism.aggregation import linear as linear
from tokenauction_jax.mechanism.aggregation import log_linear as log_linear
from tokenauction_jax.mechanism.aggregation import power_mean as power_mean
from tokenauction_jax.mechanism.base import Aggregation as Aggregation
from tokenauction_jax.mechanism.base import Mechanism as Mechanism
from tokenauction_jax.mechanism.base import Payment as Payment
from tokenauction_jax.mechanism.base import Valuation as Valuation
from tokenauction_jax.mechanism.incentives import (
    comparable_fraction as comparable_fraction,
)
from tokenauction_jax.mechanism.incentives import monotonicity_gap as monotonicity_gap
from tokenauction_jax.mechanism.incentives import preference_order as preference_order
from tokenauction_jax.mechanism.incentives import robustly_prefers as robustly_prefers
from tokenauction_jax.mechanism.myerson import myerson as myerson
from tokenauction_jax.mechanism.optimum import optimal_welfare as optimal_welfare
from tokenauction_jax.mechanism.optimum import welfare as welfare
from tokenauction_jax.mechanism.payments import clarke as clarke
from tokenauction_jax.mechanism.payments import pay_your_bid as pay_your_bid
from tokenauction_jax.mechanism.second_price import critical_bid as critical_bid
from tokenauction_jax.mechanism.second_price import second_price as second_price
from tokenauction_jax.mechanism.stable import stable_sample as stable_sample
from tokenauction_jax.mechanism.valuations import forward_kl as forward_kl
from tokenauction_jax.mechanism.valuations import reverse_kl as reverse_kl
from tokenauction_jax.mechanism.valuations import total_variation as total_variation
