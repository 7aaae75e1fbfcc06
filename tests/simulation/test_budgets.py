"""Nobody pays more than its budget, in whatever order floats are added."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tokenauction_jax as ta
from tokenauction_jax import bidding
from tokenauction_jax.simulation import budgets as money

RULES = {"linear": ta.linear(), "log_linear": ta.log_linear()}
MECHANISMS = {
    "pay_your_bid": ta.Mechanism(RULES["linear"], ta.pay_your_bid()),
    "second_price": ta.Mechanism(RULES["linear"], ta.second_price(RULES["linear"])),
    "clarke": ta.Mechanism(RULES["linear"], ta.clarke(RULES["linear"])),
    "veto": ta.Mechanism(RULES["log_linear"], ta.clarke(RULES["log_linear"])),
}
BIDS = np.array([1.0, 2.0, 0.3], np.float32)
ARRAYS = ("tokens", "payments", "expected_payments", "log_prob", "mask", "valid")


def table(vocabulary=8):
    """Agents of which the second cannot produce the last token: it has a veto."""
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(vocabulary), size=3)
    rows[1, -1] = 0
    rows[1] /= rows[1].sum()
    with np.errstate(divide="ignore"):
        return np.log(rows).astype(np.float32)


def run(mechanism, bids, num_tokens=24, num_auctions=64, first_auction=0, **kwargs):
    pool = ta.agents.tabular(table(), **kwargs)
    rollout = ta.simulate(
        *(jax.random.key(0), mechanism, pool, bids),
        num_tokens=num_tokens,
        num_auctions=num_auctions,
        first_auction=first_auction,
    )
    return jax.tree.map(np.asarray, rollout)


def constants(budgets=np.inf, bids=BIDS):
    return ta.Bidders([bidding.constant(bid) for bid in bids], budgets)


def sums(payments):
    """Of payments `(A, T, ...)`, added in different orders and precisions."""
    one_by_one = np.cumsum(payments, axis=1, dtype=payments.dtype)[:, -1]
    backwards = np.cumsum(payments[:, ::-1], axis=1, dtype=payments.dtype)[:, -1]
    upwards = np.sort(payments, axis=1)
    downwards = np.cumsum(upwards[:, ::-1], axis=1, dtype=payments.dtype)[:, -1]
    pairs = np.moveaxis(np.ascontiguousarray(np.moveaxis(payments, 1, -1)), -1, 1)
    yield from (one_by_one, backwards, downwards)
    yield from (payments.sum(1), pairs.sum(1), upwards.sum(1))
    yield np.asarray(jnp.asarray(payments).sum(1))
    yield payments.astype(np.float64).sum(1)


def random_dues(rng, budgets, num_tokens):
    """Equal, uniform, widely spread and round charges, of any share of a budget."""
    rows, shape = budgets.size, (budgets.size, num_tokens)
    kinds = np.stack(
        [
            rng.uniform(size=shape),
            np.broadcast_to(rng.uniform(size=(rows, 1)), shape),
            np.exp(rng.normal(0, 6, shape)),
            2.0 ** rng.integers(-8, 3, shape),
        ]
    )
    dues = kinds[rng.integers(4, size=rows), np.arange(rows)]
    share = rng.choice([0.01, 0.5, 2, 9], size=(rows, 1)) * 2 / num_tokens
    return (dues * share * budgets[:, None]).astype(np.float32)


@pytest.mark.parametrize("num_tokens", [1, 2, 7, 33, 500])
def test_charges_never_add_up_to_more(num_tokens):
    rng = np.random.default_rng(num_tokens)
    budgets = np.exp(rng.normal(0, 4, 500)).astype(np.float32)
    budgets[::3] = np.ceil(budgets[::3] * 16) / 16
    budgets[:2] = 0, np.inf
    dues = random_dues(rng, np.where(np.isinf(budgets), 1, budgets), num_tokens)

    def step(purse, due):
        paid, purse = money.charge(purse, jnp.asarray(budgets), due, num_tokens)
        return purse, (paid, purse.remaining)

    purse = money.new_purse(jnp.asarray(budgets))
    _, (paid, remaining) = jax.lax.scan(step, purse, jnp.asarray(dues.T))
    paid, remaining = np.asarray(paid.T), np.asarray(remaining.T)
    assert ((paid >= 0) & (paid <= dues)).all()
    for total in sums(paid):
        assert (total <= budgets).all()
    # What is left once a charge was cut is what rounding may make of a sum.
    cut, exact = (paid < dues).any(1), paid.sum(1, dtype=np.float64)
    due = dues.sum(1, dtype=np.float64)
    unit = (2 * num_tokens + 2) * np.finfo(np.float32).eps
    assert cut[due > budgets].all()
    assert not cut[due < budgets * (1 - unit)].any()
    assert (exact[cut] >= budgets[cut] * (1 - unit)).all()
    assert 0.1 < cut.mean() < 0.9
    # After that, nothing.
    after = np.cumsum(paid < dues, axis=1) > 0
    assert (remaining[after] == 0).all()
    assert (paid[:, 1:][after[:, :-1]] == 0).all()


def test_whole_numbers_are_spent_to_the_last():
    rollout = run(MECHANISMS["pay_your_bid"], constants([2.5, 7, np.inf]), num_tokens=6)
    paid = np.array([[1, 1, 0.5, 0, 0, 0], [2, 2, 2, 1, 0, 0], 6 * [BIDS[2]]])
    for name in ("payments", "expected_payments"):
        found = getattr(rollout, name)
        np.testing.assert_array_equal(found, np.broadcast_to(paid.T, found.shape))
    bids = np.where(paid > 0, BIDS[:, None], 0).T
    np.testing.assert_array_equal(rollout.bids, np.broadcast_to(bids, (64, 6, 3)))
    assert rollout.valid.all()


def test_spent_agents_have_no_say():
    budgets = [np.inf, 3.0, 0.0]
    rollout = run(MECHANISMS["pay_your_bid"], constants(budgets), num_tokens=6)
    np.testing.assert_array_equal(rollout.bids[:, 2:, 1], 0)
    np.testing.assert_array_equal(rollout.bids[:, :, 2], 0)
    own = table()[0][rollout.tokens[:, 2:]]
    np.testing.assert_allclose(rollout.log_prob[:, 2:], own, atol=1e-5)


# Neither float32 nor, mostly, the sum of what is charged.
AWKWARD = [0.1, 1 / 3, 1e-3, np.pi, 2.7, 11.0]


@pytest.mark.parametrize("name", MECHANISMS)
def test_payments_of_every_rule_keep_within_budgets(name):
    budgets = np.random.default_rng(1).choice(AWKWARD, (64, 3))
    free = run(MECHANISMS[name], constants())
    cut = run(MECHANISMS[name], constants(budgets))
    for total in sums(cut.payments):
        assert (total <= budgets).all()
    assert (free.payments.sum(1) > budgets).any()
    assert (cut.expected_payments >= 0).all()
    if name != "second_price":
        np.testing.assert_array_equal(cut.payments, cut.expected_payments)


def test_payments_above_the_bid_are_cut_too():
    """Clarke charges the second agent for its veto, more than twice what it bids."""
    rollout = run(MECHANISMS["veto"], constants(bids=[5.0, 0.01, 1.0]), num_tokens=1)
    assert (rollout.payments[:, 0, 1] > 0.02).all()
    bidders = constants([np.inf, 0.015, np.inf], bids=[5.0, 0.01, 1.0])
    rollout = run(MECHANISMS["veto"], bidders, num_tokens=1)
    np.testing.assert_allclose(rollout.payments[:, 0, 1], 0.015, rtol=1e-6)
    np.testing.assert_array_equal(rollout.payments, rollout.expected_payments)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", MECHANISMS)
def test_a_budget_that_never_binds_changes_nothing(name):
    """Not a bit; and constant policies bid as an array of bids does."""
    free = run(MECHANISMS[name], constants(), end_token=6)
    # Given the token, more might have been drawn than was.
    high = free.payments.sum(1).max(0) + 1.001 * free.payments.max((0, 1))
    for other in (
        run(MECHANISMS[name], constants(high), end_token=6),
        run(MECHANISMS[name], BIDS, end_token=6),
    ):
        for array in ARRAYS:
            np.testing.assert_array_equal(getattr(other, array), getattr(free, array))


def test_binding_budgets_belong_to_the_auction():
    budgets = np.random.default_rng(1).choice(AWKWARD, (64, 3))
    everything = run(MECHANISMS["second_price"], constants(budgets))
    part = run(
        *(MECHANISMS["second_price"], constants(budgets[40:48])),
        num_auctions=8,
        first_auction=40,
    )
    np.testing.assert_array_equal(part.tokens, everything.tokens[40:48])
    np.testing.assert_allclose(part.payments, everything.payments[40:48], rtol=1e-5)


def test_expected_payments_bound_what_is_paid_on_average():
    """They are the mean of it where no draw can exceed what is left."""
    budgets = np.array([0.4, 3.0, 0.5], np.float32)
    bidders = constants(budgets)
    rollout = run(MECHANISMS["second_price"], bidders, num_auctions=20_000)
    before = rollout.payments.cumsum(1) - rollout.payments
    surprise = rollout.payments - rollout.expected_payments
    for agent in range(3):
        asked = rollout.bids[..., agent] > 0
        safe = budgets[agent] - before[..., agent] > 1.001 * BIDS[agent]
        for some, least in ((safe, -5.2), (~safe, -np.inf)):
            if not some[asked].any():
                continue
            found = surprise[..., agent][some & asked]
            # Six bounds of a normal law: a false alarm in 1e6.
            deviation = found.mean() / (found.std() / np.sqrt(found.size))
            assert least < deviation < 5.2
    # The last budget often is smaller than what might be due.
    assert deviation < -3


class TestWhenAllIsSpent:
    def test_the_auction_is_undefined_from_there(self):
        bidders = constants([3.0, 4.0, 0.6])
        rollout = run(MECHANISMS["pay_your_bid"], bidders, num_tokens=6)
        np.testing.assert_array_equal(rollout.mask, [[True] * 3 + [False] * 3] * 64)
        assert rollout.exhausted.all()
        assert not rollout.valid.any()
        for name in ("tokens", "payments", "expected_payments", "log_prob", "bids"):
            np.testing.assert_array_equal(getattr(rollout, name)[:, 3:], 0)

    def test_texts_that_end_before_are_whole(self):
        bidders = constants([3.0, 4.0, 0.6])
        rollout = run(MECHANISMS["pay_your_bid"], bidders, num_tokens=6, end_token=6)
        ended = ((rollout.tokens == 6) & rollout.mask).any(1)
        assert 0 < ended.mean() < 1
        np.testing.assert_array_equal(rollout.exhausted, ~ended)
        np.testing.assert_array_equal(rollout.valid, ended)

    def test_a_platform_goes_on_for_nothing(self):
        policies = [bidding.constant(1.0), bidding.constant(2.0), bidding.platform(0.3)]
        bidders = ta.Bidders(policies, [3.0, 4.0, 5.0])
        rollout = run(MECHANISMS["pay_your_bid"], bidders, num_tokens=40)
        assert rollout.mask.all()
        assert not rollout.exhausted.any()
        for name in ("payments", "expected_payments"):
            np.testing.assert_array_equal(getattr(rollout, name)[..., 2], 0)
        np.testing.assert_array_equal(rollout.bids[..., 2], np.float32(0.3))
        np.testing.assert_array_equal(rollout.payments.sum(1), [[3, 4, 0]] * 64)


def test_double_precision(x64):
    budgets = [0.1, 1 / 3, np.inf]
    rollout = run(MECHANISMS["second_price"], constants(budgets))
    for name in ("payments", "expected_payments", "bids"):
        assert getattr(rollout, name).dtype == np.float64
    for total in sums(rollout.payments):
        assert (total <= budgets).all()
    # The second agent's budget binds in nearly all texts: rounding is all that is left.
    spent = rollout.payments.sum(1)[:, 1]
    assert (np.abs(spent - 1 / 3) < 1e-13).mean() > 0.9


@pytest.mark.parametrize(
    ("budgets", "match"),
    [
        (
            [1.0, 2.0],
            r"budgets has shape \(2,\), expected \(3,\) or \(num_auctions, 3\)",
        ),
        (np.ones((5, 3)), "num_auctions is 64, but budgets has 5 rows"),
        (
            [1.0, -2.0, 1.0],
            r"budgets must be finite and not negative, got -2.0 at \[1\]",
        ),
        ([1.0, np.nan, 1.0], r"budgets must be .* got nan at \[1\]"),
        ([1.0, -np.inf, 1.0], r"budgets must be .* got -inf at \[1\]"),
        ([1.0, 1e-40, 1.0], r"budgets must be 0 or from 1e-30 to 1e\+30, got"),
    ],
)
def test_bad_budgets(budgets, match):
    with pytest.raises(ValueError, match=match):
        run(MECHANISMS["pay_your_bid"], constants(budgets))
