"""The incentive properties that a rule may have, as margins on one instance.

A margin is positive where the property is violated and says by how much, negative where
it holds with something to spare, and NaN where the instance says nothing about it.
Margins are differentiable in bids and log-probabilities, so that an adversary can climb
them. Throughout, ``q(s)`` is the aggregate at an own bid of ``s``, ``r = q(0)``, ``w``
the agent's true value, ``zeta(s)`` its expected payment and ``v`` a valuation.

A property that compares numbers is made of `Claim`s; `tokenauction_jax.testing` holds
the same ones, and allows for rounding.

Source: Duetting et al. (arXiv 2310.10826), sections 3 and 5, for monotone and
consistent aggregation, payment monotonicity and stable sampling.
"""

WELL_FORMED = "well formed"
WEIGHTS = "weights are the influence"
MONOTONE = "monotone aggregation"
CONSISTENT = "consistent aggregation"
STABLE = "stable sampling"
SAMPLER_LAW = "sampler follows the aggregate"
PAYMENT_MONOTONE = "payment monotonicity"
RATIONAL = "individual rationality: "
TRUTHFUL = "truthfulness: "
NON_NEGATIVE = "non-negative payments"
SURPLUS = "budget surplus"
ORDER = "agent order does not matter"
SCALE = "scaling all bids does not matter"
MEANS = "conditional averages to expected"
DRAWS = "realized averages to conditional"

DEFINITIONS = {
    WELL_FORMED: "Weights and probabilities are numbers >= 0 that sum to 1, or all "
    "probabilities are 0 (an undefined auction); payments are finite numbers. "
    "Violation: by how much a sum misses 1.",
    WEIGHTS: "Where all others want the same, q depends on the agent's weight alone: "
    "it is the same at two profiles of bids that give the agent the same weight; and "
    "who bids 0 has weight 0. Violation: the largest difference, a probability or a "
    "weight.",
    MONOTONE: "For bids s < s' of one agent it robustly prefers q(s') to q(s): no "
    "token's probability moves away from p_i or past it. Violation: the largest such "
    "move, a probability.",
    CONSISTENT: "If an agent strictly robustly prefers q(s') to q(s) at one profile of "
    "the others' bids, it (weakly) does at every other. Violation: the smaller of how "
    "much it prefers it at the one and how much it fails to at the other.",
    STABLE: "With the randomness held fixed, raising a bid changes the token at most "
    "once, from outside T+ = {t: p_i(t) > r(t)} into it. Such a sampler exists only if "
    "probabilities rise in T+ and fall outside. Violation: the largest probability "
    "that moves the wrong way, or 1 where the sampler itself fails.",
    SAMPLER_LAW: "The tokens that the sampler draws at a bid have the distribution "
    "q(s): tests over all instances, with a false-alarm rate of 1e-9, of their ranks "
    "and of how much likelier they are at s than at s / 2.",
    PAYMENT_MONOTONE: "An agent pays at least as much at s' as at s if and only if it "
    "robustly prefers q(s') to q(s). Two bids with one outcome are left out. "
    "Violation: by how much the outcome that costs no less fails to be preferred, less "
    "1e-3 where the two cost nearly the same.",
    RATIONAL: "An agent that bids its true value w is no worse off than had it stayed "
    "out: w v(q) - zeta >= w v(r). Instances with p_i = r are left out. Violation: the "
    "loss, relative to the size of the terms.",
    TRUTHFUL: "No bid s is better than the true value: w v(q(s)) - zeta(s) is at most "
    "its value at s = w. For all true values between two bids that is: from the one to "
    "the other, zeta rises by the integral of s dv(q(s)). Violation: the gain, or what "
    "the rise misses, relative to the size of the terms.",
    NON_NEGATIVE: "No agent is paid: in expectation, given the token, or as drawn. "
    "Violation: the largest such amount, relative to the agent's bid.",
    SURPLUS: "The payments sum to at least 0: in expectation, given the token, or as "
    "drawn. Violation: the deficit, relative to all that is paid either way.",
    ORDER: "Permuting the agents permutes weights and payments and leaves q alone. "
    "Violation: the largest difference, payments relative to themselves.",
    SCALE: "Multiplying all bids by a number leaves weights and q alone and multiplies "
    "payments by it: money has no unit. Violation: as for the order of agents.",
    MEANS: "The mean of conditional over the tokens, by their probabilities, is "
    "expected. Violation: the largest difference, relative to the payment.",
    DRAWS: "The mean of realized over draws is conditional: a test of the differences, "
    "which are 0 on average given any token, with a false-alarm rate of 1e-9. "
    "Violation: the mean difference, relative to the payment.",
}

# What fails whenever another property does.
IMPLIED_BY = {CONSISTENT: MONOTONE, STABLE: MONOTONE, SURPLUS: NON_NEGATIVE}


def family(name: str) -> str:
    """The key in `DEFINITIONS` of a property, which may end in a valuation's name."""
    return next((key for key in (RATIONAL, TRUTHFUL) if name.startswith(key)), name)
