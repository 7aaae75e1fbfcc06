"""Token auctions in JAX: language models bid, token by token, for one shared text.

The model is that of "Mechanism Design for Large Language Models" (Duetting, Mirrokni,
Paes Leme, Xu, Zuo; arXiv 2310.10826).
"""

import importlib
from typing import TYPE_CHECKING, Any

from tokenauction_jax.compiler import avoid_wrong_sums as _avoid_wrong_sums
from tokenauction_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from tokenauction_jax import agents as agents
    from tokenauction_jax import bidding as bidding
    from tokenauction_jax import mechanism as mechanism
    from tokenauction_jax import optimisation as optimisation
    from tokenauction_jax import plots as plots
    from tokenauction_jax import receipts as receipts
    from tokenauction_jax import replies as replies
    from tokenauction_jax import reports as reports
    from tokenauction_jax import simulation as simulation
    from tokenauction_jax import studies as studies
    from tokenauction_jax import suite as suite
    from tokenauction_jax import testing as testing
    from tokenauction_jax.auditing import Audit as Audit
    from tokenauction_jax.auditing import Counterexample as Counterexample
    from tokenauction_jax.auditing import audit as audit
    from tokenauction_jax.mechanism import Aggregation as Aggregation
    from tokenauction_jax.mechanism import Mechanism as Mechanism
    from tokenauction_jax.mechanism import Payment as Payment
    from tokenauction_jax.mechanism import Valuation as Valuation
    from tokenauction_jax.mechanism import clarke as clarke
    from tokenauction_jax.mechanism import comparable_fraction as comparable_fraction
    from tokenauction_jax.mechanism import critical_bid as critical_bid
    from tokenauction_jax.mechanism import forward_kl as forward_kl
    from tokenauction_jax.mechanism import linear as linear
    from tokenauction_jax.mechanism import log_linear as log_linear
    from tokenauction_jax.mechanism import monotonicity_gap as monotonicity_gap
    from tokenauction_jax.mechanism import myerson as myerson
    from tokenauction_jax.mechanism import optimal_welfare as optimal_welfare
    from tokenauction_jax.mechanism import pay_your_bid as pay_your_bid
    from tokenauction_jax.mechanism import power_mean as power_mean
    from tokenauction_jax.mechanism import preference_order as preference_order
    from tokenauction_jax.mechanism import reverse_kl as reverse_kl
    from tokenauction_jax.mechanism import robustly_prefers as robustly_prefers
    from tokenauction_jax.mechanism import second_price as second_price
    from tokenauction_jax.mechanism import stable_sample as stable_sample
    from tokenauction_jax.mechanism import total_variation as total_variation
    from tokenauction_jax.mechanism import welfare as welfare
    from tokenauction_jax.records import record as record
    from tokenauction_jax.records import static_field as static_field
    from tokenauction_jax.simulation import Bidders as Bidders
    from tokenauction_jax.simulation import Policy as Policy
    from tokenauction_jax.simulation import Rollout as Rollout
    from tokenauction_jax.simulation import Step as Step
    from tokenauction_jax.simulation import simulate as simulate
    from tokenauction_jax.simulation import step as step

_avoid_wrong_sums()

# All are imported at first use: a command that only prints its help needs no JAX.
_ROOMS = (
    *("agents", "auditing", "bidding", "measures", "mechanism", "optimisation"),
    *("plots", "receipts", "records", "replies", "reports", "scenarios", "simulation"),
    *("statistics", "studies", "suite", "testing"),
)
_PLACES = {
    "auditing": ("Audit", "Counterexample", "audit"),
    "mechanism": (
        *("Aggregation", "Mechanism", "Payment", "Valuation", "clarke"),
        *("comparable_fraction", "critical_bid", "forward_kl", "linear", "log_linear"),
        *("monotonicity_gap", "myerson", "optimal_welfare", "pay_your_bid"),
        *("power_mean", "preference_order", "reverse_kl", "robustly_prefers"),
        *("second_price", "stable_sample", "total_variation", "welfare"),
    ),
    "records": ("record", "static_field"),
    "simulation": ("Bidders", "Policy", "Rollout", "Step", "simulate", "step"),
}
_PLACE = {name: place for place, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _PLACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_PLACE[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACE, *_ROOMS])
