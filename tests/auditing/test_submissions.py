"""What misreported distributions gain, against the definition in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import payments as reference
from reference import replies as reply_reference

import tokenauction_jax as ta
from tokenauction_jax.auditing import distribution_misreports, submissions
from tokenauction_jax.auditing.instances import random_instances

SIZE = 40
LINEAR, LOG_LINEAR = ta.linear(), ta.log_linear()


def variation(p, q):
    return -np.abs(p - q).sum() / 2


def misreports(p, r):
    """All of them, renormalised, for a true distribution without zeros."""
    made = [p**a for a in (0.25, 0.5, 2, 4)]
    made += [p * (p / np.maximum(r, np.exp(-20))) ** c for c in (0.5, 1, 2)]
    made.append(0.001 * p + 0.999 * (np.arange(p.size) == p.argmax()))
    return [x / x.sum() for x in made]


def test_misreports():
    rng = np.random.default_rng(0)
    p, r = rng.dirichlet(np.ones(5), 2)
    found = submissions.misreported(jnp.log(p), jnp.log(r))
    np.testing.assert_allclose(np.exp(found), misreports(p, r), atol=1e-6)
    # What the agent would not write stays so, and what only it would is finite.
    p, r = np.array([0.5, 0.5, 0]), np.array([0, 0.5, 0.5])
    found = np.exp(submissions.misreported(jnp.log(p), jnp.log(r)))
    np.testing.assert_allclose(found[:, 2], 0)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


def test_gains_under_the_second_price():
    """`w v(q(p'), p) - zeta(p')` in float64, and its best over the misreports."""
    (found,) = distribution_misreports(
        ta.Mechanism(LINEAR, ta.second_price(LINEAR)),
        num_instances=SIZE,
        valuations=[ta.total_variation()],
    )
    auctions, best = random_instances(0, SIZE, 3, 6), []
    for number in range(SIZE):
        one = jax.tree.map(lambda x, k=number: np.asarray(x)[k], auctions)
        bids, p = one.bids.astype(float), np.exp(one.log_probs.astype(float))
        agent, others = one.agent, np.delete(np.arange(3), one.agent)
        r = bids[others] @ p[others] / bids[others].sum()

        def utility(row, bids=bids, p=p, agent=agent):
            table = p.copy()
            table[agent] = row
            with np.errstate(divide="ignore"):
                pays = reference.second_price(bids[None], np.log(table)[None])[0]
            q = bids @ table / bids.sum()
            own = float(np.asarray(pays, float).ravel()[agent])
            return bids[agent] * variation(p[agent], q), own

        worth, paid = utility(p[agent])
        gains = [0.0]
        for row in misreports(p[agent], r):
            other, charge = utility(row)
            size = bids[agent] + abs(charge) + abs(paid)
            gains.append((other - charge - worth + paid) / size)
        best.append(max(gains))
    assert found.instances == SIZE
    assert found.gaining == sum(x > 1e-3 for x in best) > SIZE / 3
    assert found.mean == pytest.approx(np.mean(best), rel=1e-3)
    assert found.largest == pytest.approx(max(best), rel=1e-3)
    assert found.misreport in submissions.MISREPORTS


def test_gains_of_rewards_under_a_single_winner():
    rule = ta.replies.single_winner()
    (found,) = distribution_misreports(rule, num_instances=SIZE, num_candidates=4)
    auctions = random_instances(0, SIZE, 4, 6)
    cases, best = submissions._with_candidates(auctions, 4), []
    for number in range(SIZE):
        one = jax.tree.map(lambda x, k=number: np.asarray(x)[k], cases)
        rewards, agent = one.rewards.astype(float), one.agent
        at_stake = np.abs(rewards).max(1)

        def utility(report, rewards=rewards, agent=agent):
            reported = rewards.copy()
            reported[agent] = report
            reply, pays = reply_reference.single_winner(reported)
            return rewards[agent][reply], float(pays[agent])

        worth, paid = utility(rewards[agent])
        gains = [0.0]
        for report in one.reports.astype(float):
            other, charge = utility(report)
            size = at_stake[agent] + abs(charge) + abs(paid) + 1e-3 * at_stake.sum()
            gains.append((other - charge - worth + paid) / size)
        best.append(max(gains))
    assert (found.instances, found.payment, found.valuation) == (SIZE, None, None)
    assert found.gaining == sum(x > 1e-3 for x in best) > 0
    assert found.mean == pytest.approx(np.mean(best), rel=1e-3)
    assert found.largest == pytest.approx(max(best), rel=1e-3)


def test_candidates_are_replies_of_the_reference():
    """Rewards are sums of log-ratios of the drawn tokens times the bid."""
    auctions = random_instances(3, 8, 3, 4)
    cases = submissions._with_candidates(auctions, 2000)
    for number in range(8):
        p = np.exp(auctions.log_probs[number].astype(float))
        p = 0.999 * p + 0.001 / 4
        for agent, bid in enumerate(auctions.bids[number][:2].tolist()):
            logs = np.log(p[agent] / p[2])
            # Of four tokens each; a false alarm is a matter of one in 10^8.
            deviation = np.sqrt(4 * (p[2] @ logs**2 - (p[2] @ logs) ** 2) / 2000)
            error = bid * (6 * deviation + 1e-4)
            mean = cases.rewards[number][agent].astype(float).mean()
            assert mean == pytest.approx(4 * bid * (p[2] @ logs), abs=error)


@pytest.mark.parametrize(
    "rule",
    [
        ta.replies.mosaic(1.0),
        ta.replies.best_of(),
        pytest.param(ta.replies.mosaic(0.05), marks=pytest.mark.slow),
        pytest.param(ta.replies.mosaic(20.0), marks=pytest.mark.slow),
    ],
    ids=lambda rule: ta.records.describe(rule),
)
@pytest.mark.parametrize("seed", [0, 1])
def test_rules_that_are_truthful_in_rewards_are_so_in_distributions(rule, seed):
    (found,) = distribution_misreports(rule, num_instances=500, seed=seed)
    assert found.instances == 500
    assert found.gaining == 0
    assert found.largest < 1e-4


@pytest.mark.parametrize(
    ("rule", "own"),
    [(LINEAR, "forward_kl"), (LOG_LINEAR, "reverse_kl")],
    ids=["linear", "log_linear"],
)
def test_clarke_pivots_price_distributions_too(rule, own):
    """Of the welfare that the aggregate maximises, and of no other."""
    found = distribution_misreports(
        ta.Mechanism(rule, ta.clarke(rule)), num_instances=200
    )
    for row in found:
        assert (row.gaining == 0) == (row.valuation == own)


def test_same_seed_same_gains():
    one, two, other = (
        distribution_misreports(ta.replies.single_winner(), num_instances=64, seed=seed)
        for seed in (0, 0, 1)
    )
    assert one == two != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_instances": 0}, "num_instances must be an integer from 1"),
        ({"num_instances": 10**7}, "ask for fewer"),
        ({"num_agents": 1}, "num_agents must be an integer from 2 to 64"),
        ({"num_candidates": 1}, "num_candidates must be"),
        ({"bid_ratio": 0}, "bid_ratio must be from 1"),
        ({"valuations": [ta.linear()]}, "valuation must follow Valuation"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        distribution_misreports(ta.replies.best_of(), **arguments)
    with pytest.raises(ValueError, match="rule must be a Mechanism or a ReplyMech"):
        distribution_misreports(ta.linear())
