"""Margins of the audit against their definitions, in loops over bids and tokens."""

import itertools

import jax
import numpy as np
import pytest
from reference import aggregation, payments

import tokenauction_jax as ta
from tokenauction_jax.auditing import instances, properties, search
from tokenauction_jax.auditing.properties.aggregation import aggregation_margins
from tokenauction_jax.auditing.properties.payment import payment_margins
from tokenauction_jax.auditing.rules import Rules

SIZE = 64
INSTANCES = instances.random_instances(4, SIZE, 3, 5)
VALUES = {
    "total_variation": lambda q, p: -np.abs(q - p).sum() / 2,
    "forward_kl": lambda q, p: -divergence(p, q),
    "reverse_kl": lambda q, p: -divergence(q, p),
}


def divergence(p, q):
    if ((p > 0) & (q == 0)).any():
        return np.inf
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / q[seen])).sum())


def instance(number):
    return jax.tree.map(lambda x: np.asarray(x)[number], INSTANCES)


def moved(bids, agent, own_bid):
    bids = np.array(bids)
    bids[agent] = own_bid
    return bids


def path(rule, one, bids):
    """0 and the agent's bids, rising, with the aggregates that they lead to."""
    own_bids = [0.0, *sorted([*one.own_bids, one.bids[one.agent]])]
    rows = np.stack([moved(bids, one.agent, s) for s in own_bids])
    log_q = getattr(aggregation, rule.name)(rows, one.log_probs[None])
    return own_bids, np.exp(np.asarray(log_q, float))


def miss(before, after, p):
    """How far `after` is from being robustly preferred to `before`."""
    d, e = before - p, after - p
    return max(
        abs(b) if a * b < 0 else abs(b) - abs(a) for a, b in zip(d, e, strict=True)
    )


def defined(*rows):
    return all(np.isfinite(row).all() and row.sum() > 0.5 for row in rows)


@pytest.fixture(scope="module", params=["linear", "log_linear"])
def aggregation_case(request):
    rule = getattr(ta, request.param)()
    margins = search.evaluate(aggregation_margins, Rules(rule), INSTANCES)
    return rule, margins


def test_monotone_and_stable(aggregation_case):
    rule, margins = aggregation_case
    seen = 0
    for number in range(SIZE):
        one = instance(number)
        _, rows = path(rule, one, one.bids)
        p = np.exp(np.asarray(one.log_probs[one.agent], float))
        steps = [x for x in itertools.pairwise(rows) if defined(*x)]
        if np.isnan(margins[properties.MONOTONE][number]):
            continue
        seen += 1
        expected = max(miss(a, b, p) for a, b in steps)
        assert margins[properties.MONOTONE][number] == pytest.approx(expected, abs=1e-6)
        # Rounding decides on which side tokens are where p_i(t) = r(t).
        tied, wrong = np.abs(p - rows[0]) < 1e-6, np.full(2, -np.inf)
        for before, after in steps:
            rise = np.where(p > rows[0], before - after, after - before)
            either = np.where(tied, np.abs(rise), rise)
            wrong = np.maximum(wrong, [rise[~tied].max(initial=-1), either.max()])
        margin = margins[properties.STABLE][number]
        assert wrong[0] - 1e-6 <= margin <= wrong[1] + 1e-6
    assert seen > SIZE / 2


def test_consistent(aggregation_case):
    rule, margins = aggregation_case
    violated = []
    for number in range(SIZE):
        one = instance(number)
        p = np.exp(np.asarray(one.log_probs[one.agent], float))
        here, there = (
            path(rule, one, bids)[1][1:] for bids in (one.bids, one.rival_bids)
        )
        margin = margins[properties.CONSISTENT][number]
        if np.isnan(margin):
            continue
        worst = 0.0
        for one_path, other in ((here, there), (there, here)):
            for k in range(len(here) - 1):
                for a, b in ((k, k + 1), (k + 1, k)):
                    if miss(one_path[a], one_path[b], p) <= 1e-6:
                        strictly = miss(one_path[b], one_path[a], p)
                        worst = max(worst, min(strictly, miss(other[a], other[b], p)))
        assert max(margin, 0) == pytest.approx(worst, abs=2e-6)
        violated.append(worst > 1e-4)
    assert any(violated) == (not rule.monotone)


def test_scaling_and_order_are_symmetries(aggregation_case):
    _, margins = aggregation_case
    for name in (properties.ORDER, properties.SCALE):
        assert np.nanmax(margins[name]) < 2e-6


PAYMENTS = {
    "second_price": (ta.linear(), ta.second_price(ta.linear()), payments.second_price),
    "clarke": (
        ta.log_linear(),
        ta.clarke(ta.log_linear()),
        payments.clarke_log_linear,
    ),
}


@pytest.fixture(scope="module", params=PAYMENTS)
def payment_case(request):
    rule, payment, definition = PAYMENTS[request.param]
    rules = Rules(rule, payment)
    margins = search.evaluate(payment_margins, rules, INSTANCES)
    return rule, definition, margins


def utilities(truth, values, pays):
    """Utilities at each bid, and the size of the terms beside those of the truth."""
    worth, paid = values[-1], pays[-1]
    with np.errstate(invalid="ignore"):
        gains = truth * (values - worth) - (pays - paid)
    size = truth * np.maximum(1, np.maximum(np.abs(values), np.abs(worth)))
    return gains, size + np.abs(pays) + np.abs(paid)


def mispricing(rule, one, own_bids, charged, p, value):
    """By how much payments miss the integral of ``s dx`` from one bid to the next."""
    worst = -np.inf
    for k, (low, high) in enumerate(itertools.pairwise(own_bids)):
        s = np.geomspace(low, high, 201)
        rows = np.stack([moved(one.bids, one.agent, bid) for bid in s])
        log_q = getattr(aggregation, rule.name)(rows, one.log_probs[None])
        x = np.array([value(row, p) for row in np.exp(np.asarray(log_q, float))])
        if np.isinf(x).any():
            continue
        due = ((s[1:] + s[:-1]) / 2 * np.diff(x)).sum()
        size = 0.01 * high * max(1, np.abs(x).max())
        size += max(charged[k] + charged[k + 1], abs(due))
        worst = max(worst, abs(charged[k + 1] - charged[k] - due) / size)
    return worst


def test_incentives(payment_case):
    """Truthfulness, individual rationality and payment monotonicity."""
    rule, definition, margins = payment_case
    seen = dict.fromkeys(margins, 0)
    for number in range(SIZE):
        one = instance(number)
        own_bids, rows = path(rule, one, one.bids)
        p = np.exp(np.asarray(one.log_probs[one.agent], float))
        truth = float(one.bids[one.agent])
        if truth == 0 or not defined(*rows):
            continue
        # Who stays out pays nothing; the last entry is the truth.
        own_bids, rows = [*own_bids[1:], truth], [*rows, rows[own_bids.index(truth)]]
        bids = np.stack([moved(one.bids, one.agent, s) for s in own_bids])
        tables = np.broadcast_to(one.log_probs, (len(bids), *one.log_probs.shape))
        charged = np.asarray(definition(bids, tables)[0], float)[:, one.agent]
        pays = np.append(0, charged)
        preference = -np.inf
        for k in range(1, len(rows) - 2):
            for a, b in ((k, k + 1), (k + 1, k)):
                if pays[b] >= pays[a]:
                    preference = max(preference, miss(rows[a], rows[b], p))
        found = margins[properties.PAYMENT_MONOTONE][number]
        assert preference - 1e-3 - 1e-6 <= found <= preference + 1e-6
        for name, value in VALUES.items():
            values = np.array([value(row, p) for row in rows])
            if np.isinf(values[-1]):
                continue
            gains, size = utilities(truth, values, pays)
            finite = np.isfinite(values)
            gains = np.where(finite, gains / np.where(finite, size, 1), -np.inf)
            found = margins[properties.TRUTHFUL + name][number]
            missed = mispricing(rule, one, own_bids[:-1], charged[:-1], p, value)
            if missed < gains[1:-1].max() - 0.03:
                assert found == pytest.approx(gains[1:-1].max(), abs=3e-6)
            assert found == pytest.approx(max(gains[1:-1].max(), missed), abs=0.03)
            truthful = rule.name, name
            if truthful in (
                ("linear", "total_variation"),
                ("log_linear", "reverse_kl"),
            ):
                assert found < 1e-3
            seen[properties.TRUTHFUL + name] += 1
            found = margins[properties.RATIONAL + name][number]
            if np.isfinite(values[0]) and not np.isnan(found):
                assert found == pytest.approx(gains[0], abs=3e-6)
                seen[properties.RATIONAL + name] += 1
    assert sum(count > SIZE / 4 for count in seen.values()) == 6


def test_payments_are_symmetric_and_not_negative(payment_case):
    _, _, margins = payment_case
    for name in (properties.ORDER, properties.SCALE):
        assert np.nanmax(margins[name]) < 1e-5
    for name in (properties.NON_NEGATIVE, properties.SURPLUS):
        assert np.nanmax(margins[name]) <= 0


def test_every_property_is_defined():
    rules = Rules(ta.linear(), ta.pay_your_bid(), sampler=ta.stable_sample)
    names = set()
    for margins in (aggregation_margins, payment_margins):
        shapes = jax.eval_shape(lambda x, f=margins: f(rules, x), instance(0))
        names |= {properties.family(name) for name in shapes}
    assert names == set(properties.DEFINITIONS)
