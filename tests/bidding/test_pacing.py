"""Pacing against its definitions, and what it reaches in the long run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from impostors import slow
from reference import policies as reference
from scipy import optimize

import tokenauction_jax as ta
from tokenauction_jax import bidding

RULE = ta.linear()
SECOND_PRICE = ta.Mechanism(RULE, ta.second_price(RULE))
TOTAL_VARIATION = ta.total_variation()
# Payments that are no draws.
CLARKE = ta.Mechanism(RULE, ta.clarke(RULE))
LOG_PROBS = np.log(np.random.default_rng(5).dirichlet(np.ones(6), 2)).astype(np.float32)
VALUE = 2.0


def run(policy, budget, num_tokens, mechanism=SECOND_PRICE, num_auctions=16):
    """Against a platform that bids 1."""
    return ta.simulate(
        *(jax.random.key(0), mechanism, ta.agents.tabular(LOG_PROBS)),
        ta.Bidders([policy, bidding.platform(1.0)], [budget, np.inf]),
        num_tokens=num_tokens,
        num_auctions=num_auctions,
    )


def expected_payment(mechanism, bid):
    """Of one token, exactly."""
    bids = jnp.array([bid, 1.0], jnp.float32)
    return float(mechanism.payment.expected(bids, LOG_PROBS)[0])


GAINS = (0.2, 0.05, 0.1)
PER_TOKEN = 0.1
CASES = {
    "adaptive": (
        bidding.adaptive_pacing(VALUE, 0.7, start=0.5, most=2.5),
        lambda paid, ratio: reference.adaptive(VALUE, 0.7, 0.5, 2.5, PER_TOKEN, paid),
    ),
    "multiplicative": (
        bidding.multiplicative_pacing(VALUE, 0.2, start=0.6, least=0.1),
        lambda paid, ratio: reference.multiplicative(
            VALUE, 0.2, 0.6, 0.1, PER_TOKEN, paid
        ),
    ),
    "pid": (
        bidding.pid(
            *(VALUE,),
            proportional=GAINS[0],
            integral=GAINS[1],
            derivative=GAINS[2],
            start=0.7,
            least=0.2,
            most=1.4,
        ),
        lambda paid, ratio: reference.pid(VALUE, GAINS, 0.7, 0.2, 1.4, PER_TOKEN, paid),
    ),
    "value_maximiser": (
        bidding.value_maximiser(VALUE, 3.0, 0.3, budget_rate=0.4, most=5.0),
        lambda paid, ratio: reference.value_maximiser(
            VALUE, 3.0, (0.3, 0.4), 5.0, PER_TOKEN, paid, ratio
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bids_follow_the_definition(name):
    policy, bids_of = CASES[name]
    rollout = jax.tree.map(np.asarray, run(policy, 40 * PER_TOKEN, 40))
    bids, paid = (x[..., 0].astype(float) for x in (rollout.bids, rollout.payments))
    ratio = np.exp(LOG_PROBS[0][rollout.tokens] - rollout.log_prob)
    assert len(np.unique(bids)) > 40
    for row in range(len(bids)):
        wanted = bids_of(paid[row], ratio[row])
        open_ = bids[row] > 0
        assert open_[:5].all()
        np.testing.assert_allclose(bids[row][open_], wanted[open_], rtol=2e-5)


def test_double_precision(x64):
    """States and bids keep to float64, and to the definition."""
    policies = [policy for policy, _ in CASES.values()]
    table = np.random.default_rng(1).dirichlet(np.ones(6), 5)
    rollout = ta.simulate(
        *(jax.random.key(0), CLARKE, ta.agents.tabular(np.log(table))),
        ta.Bidders([*policies, bidding.platform(1.0)], [1.0, 1.0, 1.0, 1.0, np.inf]),
        num_tokens=10,
        num_auctions=1,
    )
    states = jax.tree.leaves(rollout.policy_states)
    assert {x.dtype.name for x in (rollout.bids, *states)} == {"float64"}
    paid = np.asarray(rollout.payments[0, :, 0])
    wanted = reference.adaptive(VALUE, 0.7, 0.5, 2.5, 0.1, paid)
    np.testing.assert_allclose(rollout.bids[0, :3, 0], wanted[:3], rtol=1e-14)


@pytest.mark.parametrize("name", ["adaptive", "multiplicative", "pid"])
def test_without_a_budget_pacing_is_truthful(name):
    policies = {
        "adaptive": bidding.adaptive_pacing(VALUE, 0.7),
        "multiplicative": bidding.multiplicative_pacing(VALUE, 0.2),
        "pid": bidding.pid(VALUE, proportional=0.1, integral=0.1, derivative=0.1),
    }
    rollout = run(policies[name], np.inf, 20)
    np.testing.assert_array_equal(rollout.bids[..., 0], VALUE)


@pytest.mark.parametrize("share", [0.3, 0.7, 1.3])
@pytest.mark.parametrize("name", ["adaptive", "multiplicative"])
def test_complementary_slackness(name, share):
    """The multiplier is below 1 only if the budget binds, and then that is spent.

    It is the one at which the mean payment is the budget per token.
    """
    num_tokens = 1024
    policy = {
        "adaptive": bidding.adaptive_pacing(VALUE, 1.0),
        "multiplicative": bidding.multiplicative_pacing(VALUE, 0.1),
    }[name]
    per_token = share * expected_payment(CLARKE, VALUE)
    budget = per_token * num_tokens
    rollout = run(policy, budget, num_tokens, CLARKE, num_auctions=2)
    spent = np.asarray(rollout.payments[..., 0].sum(1)) / budget
    if share > 1:
        np.testing.assert_array_equal(rollout.bids[..., 0], VALUE)
        np.testing.assert_allclose(spent, 1 / share, rtol=1e-5)
        return

    def excess(bid):
        return expected_payment(CLARKE, bid) - per_token

    settled = optimize.brentq(excess, 0.01, VALUE)
    np.testing.assert_allclose(rollout.bids[:, 900, 0], settled, rtol=1e-3)
    np.testing.assert_allclose(spent, 1, atol=0.01)


@ta.record
class Fresh:
    """Two agents whose distributions are drawn anew for each token."""

    spread: float
    num_agents, vocab_size, end_token = 2, 4, None

    def init(self, num_auctions, *, key=None, first_auction=0, num_tokens=None):
        numbers = jnp.arange(num_auctions, dtype=jnp.uint32) + first_auction
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
        return keys, jnp.uint32(0)

    def step(self, state, tokens):
        keys, position = state
        fresh = jax.vmap(jax.random.fold_in, (0, None))(keys, position)
        logits = jax.vmap(lambda key: jax.random.normal(key, (2, 4)))(fresh)
        return (keys, position + 1), jax.nn.log_softmax(self.spread * logits)


def worth_and_spending(policy, budget, num_tokens, num_auctions=64):
    """Mean utility and spending of texts, in money."""

    def value(bids, log_probs, log_q, token):
        return VALUE * TOTAL_VARIATION.value(log_q, log_probs[0])

    rollout = ta.simulate(
        *(jax.random.key(0), SECOND_PRICE, Fresh(2.0)),
        ta.Bidders([policy, bidding.platform(1.0)], jnp.stack([budget, jnp.inf])),
        num_tokens=num_tokens,
        num_auctions=num_auctions,
        accumulate=value,
    )
    spent = rollout.payments[..., 0].sum(1)
    return (rollout.totals - spent).mean(), spent.mean()


LENGTHS = [32, 256, *map(slow, (64, 128, 512, 1024, 2048, 4096))]


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_regret_grows_no_faster_than_the_square_root(num_tokens):
    """Against the best fixed multiplier of the same budget on the same texts.

    A truthful agent loses from 0.11 to 0.22 a token instead, however long the text.
    """
    budget = jnp.float32(0.13 * num_tokens)

    @jax.jit
    def run(policies):
        def each(policy):
            return worth_and_spending(policy, budget, num_tokens)

        multipliers, adaptive = policies
        return jax.vmap(each)(multipliers), each(adaptive)

    grid = jnp.linspace(0.3, 1, 29)
    adaptive = bidding.adaptive_pacing(VALUE, 10 / np.sqrt(num_tokens))
    constants = jax.vmap(bidding.constant)(VALUE * grid)
    (worths, _), (worth, spent) = run((constants, adaptive))
    root = np.sqrt(num_tokens)
    assert worths.max() - worth < 0.2 * root
    assert 1 - 0.3 / root < spent / budget <= 1
    assert worths.max() - worths[-1] > 0.1 * num_tokens


def test_value_maximisers_keep_their_return():
    """Bids settle where the mean worth of a token is `target` times its mean price."""
    target, num_tokens = 6.0, 2048
    policy = bidding.value_maximiser(VALUE, target, 0.03, most=1000.0)
    rollout = jax.tree.map(np.asarray, run(policy, np.inf, num_tokens))
    ratio = np.exp(LOG_PROBS[0][rollout.tokens] - rollout.log_prob)
    worth = VALUE * np.minimum(ratio, 1).sum(1)
    np.testing.assert_allclose(
        worth / rollout.payments[..., 0].sum(1), target, rtol=0.1
    )

    def slack(bid):
        log_q = RULE.log_prob(jnp.array([bid, 1.0], jnp.float32), LOG_PROBS)
        kept = 1 + float(TOTAL_VARIATION.value(log_q, LOG_PROBS[0]))
        return VALUE * kept - target * expected_payment(SECOND_PRICE, bid)

    settled = optimize.brentq(slack, 0.1, 1000)
    middle = np.median(rollout.bids[:, num_tokens // 2 :, 0])
    np.testing.assert_allclose(middle, settled, rtol=0.1)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: bidding.adaptive_pacing(-1.0, 0.1), "value must be from 0 to 1e[+]30"),
        (
            lambda: bidding.adaptive_pacing(1.0, 0.0),
            "rate must be from 1e-30 to 1e[+]30",
        ),
        (lambda: bidding.adaptive_pacing(1.0, np.nan), "rate must be .* got nan"),
        (lambda: bidding.adaptive_pacing(1.0, 0.1, start=-0.1), "start must be"),
        (lambda: bidding.adaptive_pacing("a", 0.1), "value must be a real scalar"),
        (lambda: bidding.multiplicative_pacing(1.0, -0.1), "integral must be from 0"),
        (
            lambda: bidding.multiplicative_pacing(1.0, 0.1, start=2.0),
            "start .* to 1, got",
        ),
        (
            lambda: bidding.pid(1.0, proportional=1.0, integral=0.0, least=0.0),
            "least must be from 1e-30",
        ),
        (
            lambda: bidding.pid(1.0, proportional=-1.0, integral=0.0),
            "proportional must be from 0",
        ),
        (lambda: bidding.value_maximiser(1.0, 0.0, 0.1), "target must be from 1e-30"),
        (lambda: bidding.value_maximiser(1.0, -2.0, 0.1), "target must be from 1e-30"),
    ],
)
def test_bad_numbers(build, match):
    with pytest.raises(ValueError, match=match):
        build()
