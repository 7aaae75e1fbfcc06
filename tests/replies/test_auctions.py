"""Auctions of whole texts: what they return and charge, against their parts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import aggregation
from reference import replies as reference

import tokenauction_jax as ta
from tokenauction_jax.replies.repeated import RepeatedPool

BIDS = np.array([[1.0, 0.5], [0.2, 2.0], [1.0, 1.0], [3.0, 0.1]], np.float32)
TOKENS = 3


def agents(seed=0, size=3):
    table = np.random.default_rng(seed).dirichlet(np.ones(size), (2, size))
    return ta.agents.tabular(np.log(table).astype(np.float32))


def write(auction, bids=BIDS, pool=None, kind="mean", key=0, **options):
    pool = ta.agents.with_reference(pool or agents(), kind)
    options = {"num_tokens": TOKENS} | options
    write = jax.jit(lambda a, p, b: a.write(jax.random.key(key), p, b, **options))
    return write(auction, pool, jnp.asarray(bids))


@pytest.mark.sweep(2)
@pytest.mark.parametrize("generator", ["reference", "bids", "mean"])
@pytest.mark.parametrize(
    "rule", [ta.replies.mosaic(0.7), ta.replies.best_of()], ids=lambda rule: rule.name
)
def test_what_is_returned_and_charged(rule, generator):
    """By the definitions, from all candidates, in float64."""
    size = 4
    auction = ta.replies.reply_auction(rule, num_replies=size, generator=generator)
    pool = ta.agents.with_reference(agents(), "mean")
    zero = np.zeros((len(BIDS), 1), np.float32)
    weights = {
        "reference": [0, 0, 1],
        "bids": np.concatenate([BIDS, zero], axis=1),
        "mean": [1, 1, 0],
    }[generator]
    key = jax.random.key(3)
    drawn = ta.replies.draw_candidates(
        *(key, pool, np.asarray(weights, np.float32)),
        num_replies=size,
        num_tokens=TOKENS,
        num_auctions=len(BIDS),
    )
    found = write(auction, key=3)
    assert found.valid.all()
    assert found.totals is None
    for a, bids in enumerate(BIDS.astype(float)):
        match = (np.asarray(drawn.tokens[a]) == np.asarray(found.tokens[a])).all(1)
        assert match.any()
        reply = int(match.argmax())
        logs = np.asarray(drawn.log_probs[a], float).T
        np.testing.assert_allclose(found.log_probs[a], logs[:, reply], atol=1e-5)
        rewards = bids[:, None] * (logs[:2] - logs[2])
        log_weights = logs[2] - np.asarray(drawn.log_generator[a], float)
        if rule.name == "mosaic":
            law = reference.mosaic_law(rewards, log_weights, 0.7).astype(float)
            mean = reference.mosaic_expected(rewards, log_weights, 0.7).astype(float)
            every = reference.mosaic_realized(rewards, log_weights, 0.7)
            paid = every[:, reply].astype(float)
        else:
            best, mean = reference.best_of(rewards)
            mean = mean.astype(float)
            law, paid = np.eye(size)[best], mean
            assert match[best]
        np.testing.assert_allclose(found.expected_payments[a], mean, atol=3e-5)
        np.testing.assert_allclose(found.payments[a], paid, atol=3e-5)
        wanted = np.log(size * law[reply]) - log_weights[reply]
        np.testing.assert_allclose(found.divergence[a], wanted, atol=3e-5)
    np.testing.assert_array_equal(found.drawn_tokens, size * TOKENS)
    # Both agents read, and write the mean.
    np.testing.assert_array_equal(found.forward_passes, 2 * size * TOKENS)


def test_no_auction():
    for generator, weights in (("mean", [1.0, 1.0]), ("bids", BIDS[0])):
        bids = np.tile(BIDS[:1], (3_000, 1))
        found = write(ta.replies.no_auction(generator), bids, num_tokens=2)
        table = np.swapaxes(agents().log_probs, 0, 1).astype(float)
        mixture = np.asarray(aggregation.linear(np.array(weights, float), table))
        _, logs = reference.text_log_probs(mixture[None], 2)
        law = np.exp(logs[0]).astype(float)
        counts = np.bincount(np.asarray(found.tokens) @ [3, 1], minlength=9)
        # 9 counts beyond 5.5 deviations: odds of 4e-7.
        deviation = np.sqrt(3_000 * law * (1 - law))
        assert (np.abs(counts - 3_000 * law) < 5.5 * deviation).all()
        assert not np.any(found.payments)
        assert found.valid.all()
        np.testing.assert_array_equal(found.drawn_tokens, 2)
    np.testing.assert_allclose(write(ta.replies.no_auction()).divergence, 0, atol=1e-6)


@pytest.mark.parametrize("kind", ["mean", "uniform"])
def test_forward_passes(kind):
    """What reads: all agents of several candidates, of a text only who writes."""
    one = ta.replies.reply_auction(ta.replies.best_of(), num_replies=1)
    several = replace(one, num_replies=2)
    own = 2 if kind == "mean" else 0
    for auction, passes in (
        (several, 2 * 2 * TOKENS),
        (replace(several, generator="bids"), 2 * 2 * TOKENS),
        (one, own * TOKENS),
        (replace(one, generator="mean"), 2 * TOKENS),
        (ta.replies.no_auction(), own * TOKENS),
        (ta.replies.no_auction("mean"), 2 * TOKENS),
    ):
        found = write(auction, kind=kind)
        np.testing.assert_array_equal(found.forward_passes, passes)
    # A reference that is a model of its own reads, too.
    pool = ta.agents.tabular(np.log(np.full((3, 3), 1 / 3)))
    options = {"num_tokens": TOKENS}
    for auction, passes in ((several, 3 * 2 * TOKENS), (one, TOKENS)):
        found = auction.write(jax.random.key(0), pool, jnp.asarray(BIDS), **options)
        np.testing.assert_array_equal(found.forward_passes, passes)


@pytest.mark.parametrize("pool", [agents(), ta.agents.dirichlet(2, 4, 0.5)])
def test_chunks_and_neighbours(pool):
    auction = ta.replies.reply_auction(ta.replies.mosaic(1.0), num_replies=3)
    whole = write(auction, pool=pool, first_auction=5)
    parts = [
        write(auction, BIDS[:1], pool, first_auction=5),
        write(auction, BIDS[1:], pool, first_auction=6),
    ]
    for name in ("tokens", "payments", "expected_payments", "divergence"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_allclose(getattr(whole, name), joined, rtol=2e-5, atol=1e-6)


def test_all_texts_of_an_auction_are_of_the_same_agents():
    pool, key = ta.agents.dirichlet(2, 6, 0.5), jax.random.key(0)
    own = RepeatedPool(pool, 3)
    tables = pool.init(4, key=key, first_auction=7)
    whole = own.init(12, key=key, first_auction=21)
    np.testing.assert_array_equal(whole, np.repeat(tables, 3, axis=0))
    # Also of parts that begin and end within an auction.
    for first, size in ((22, 1), (22, 2), (23, 5), (21, 4)):
        part = own.init(size, key=key, first_auction=first)
        np.testing.assert_array_equal(part, whole[first - 21 : first - 21 + size])
    drawn = ta.replies.draw_candidates(
        *(key, pool, [1.0, 1.0]), num_replies=5, num_tokens=4, num_auctions=3
    )
    agents_key = jax.random.split(key)[1]
    tables = np.asarray(pool.init(3, key=agents_key), float)
    for a, m in np.ndindex(3, 5):
        logs = tables[a][:, np.asarray(drawn.tokens[a, m])].sum(1)
        np.testing.assert_allclose(drawn.log_probs[a, m], logs, atol=1e-5)


def test_random_agents_are_those_of_the_token_auction():
    """Mechanisms are compared on the same agents, auction by auction."""
    pool, key = ta.agents.dirichlet(2, 6, 0.5), jax.random.key(4)
    tables = np.asarray(pool.init(4, key=jax.random.split(key)[1]), float)
    for auction in (
        ta.replies.reply_auction(ta.replies.best_of(), num_replies=3),
        ta.replies.no_auction(),
    ):
        found = write(auction, pool=pool, key=4)
        for a in range(4):
            logs = tables[a][:, np.asarray(found.tokens[a])].sum(1)
            np.testing.assert_allclose(found.log_probs[a, :2], logs, atol=1e-5)


def test_agents_that_cannot_write_leave_the_auction_undefined():
    with np.errstate(divide="ignore"):
        table = np.log(np.array([[1.0, 0.0], [0.5, 0.5]], np.float32))
    pool = ta.agents.tabular(table)
    auction = ta.replies.reply_auction(ta.replies.mosaic(1.0), num_replies=6)
    found = write(auction, pool=pool)
    assert not found.valid.any()
    bids = np.array([[0.0, 1.0]], np.float32)
    found = write(auction, bids, pool)
    assert found.valid.all()
    assert found.payments[0, 0] == 0


def test_rewards_of_ones_own():
    """Agents that want a token in the text: payments by the definition."""

    def names(token, tokens, mask):
        return ((tokens == token) & mask).any(1).astype(float)

    wants = [jax.tree_util.Partial(names, token) for token in (0, 2)]
    rule = ta.replies.best_of()
    auction = ta.replies.reply_auction(rule, num_replies=4, rewards=wants)
    found = write(auction)
    drawn = ta.replies.draw_candidates(
        *(jax.random.key(0), ta.agents.with_reference(agents(), "mean"), [0, 0, 1.0]),
        num_replies=4,
        num_tokens=TOKENS,
        num_auctions=len(BIDS),
    )
    reported = ta.replies.text_rewards(BIDS, drawn, wants)
    for a, bids in enumerate(BIDS.astype(float)):
        tokens = np.asarray(drawn.tokens[a])
        rewards = bids[:, None] * [(tokens == k).any(1) for k in (0, 2)]
        np.testing.assert_allclose(reported[a], rewards)
        best, paid = reference.best_of(rewards)
        np.testing.assert_array_equal(found.tokens[a], tokens[best])
        np.testing.assert_allclose(found.payments[a], paid.astype(float), atol=1e-6)
    with pytest.raises(ValueError, match=r"bids has shape"):
        ta.replies.text_rewards(BIDS, drawn, wants[:1])
    bad = [lambda tokens, mask: jnp.full(16, jnp.nan), wants[1]]
    with pytest.raises(ValueError, match=r"rewards\[0\] must be finite, got nan"):
        ta.replies.text_rewards(BIDS, drawn, bad)
    with pytest.raises(ValueError, match=r"rewards\[1\] has shape"):
        ta.replies.text_rewards(BIDS, drawn, [wants[0], lambda tokens, mask: mask])


def test_bad_input():
    rule = ta.replies.mosaic(1.0)
    with pytest.raises(ValueError, match="num_replies must be"):
        ta.replies.reply_auction(rule, num_replies=0)
    for make in (
        lambda: ta.replies.reply_auction(rule, num_replies=2, generator="all"),
        lambda: ta.replies.no_auction("all"),
    ):
        with pytest.raises(ValueError, match="must be 'reference', 'bids' or 'mean'"):
            make()
    with pytest.raises(ValueError, match="rule must follow ReplyMechanism"):
        ta.replies.reply_auction(ta.linear(), num_replies=2)
    with pytest.raises(ValueError, match="bids has shape"):
        write(ta.replies.reply_auction(rule, num_replies=2), np.ones((3, 3)))
