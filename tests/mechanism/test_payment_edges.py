"""Payments at the edges of the model, and the errors they raise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.compare import smooth_auction

import tokenauction_jax as ta

PAYMENTS = {
    "pay_your_bid": ta.pay_your_bid,
    "second_price": lambda: ta.second_price(ta.linear()),
    "second_price_2": lambda: ta.second_price(ta.linear(2.0)),
    "clarke_linear": lambda: ta.clarke(ta.linear()),
    "clarke_log_linear": lambda: ta.clarke(ta.log_linear()),
}


@jax.jit
def every_method(payment, bids, log_probs):
    """Expected, conditional on token 1, and realised payments."""
    args = (bids, log_probs)
    return (
        payment.expected(*args),
        payment.conditional(*args, 1),
        payment.realized(jax.random.key(0), *args, 1),
    )


class TestEdgeCases:
    @pytest.mark.parametrize("name", PAYMENTS)
    def test_nobody_else_bids(self, name):
        log_probs = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
        payment = PAYMENTS[name]()
        due = 3.0 if name == "pay_your_bid" else 0.0
        for bids, rows in (([3.0, 0.0], log_probs), ([3.0], log_probs[:1])):
            args = (jnp.array(bids), rows)
            for found in every_method(payment, *args):
                np.testing.assert_array_equal(found, [due, *[0.0] * (len(bids) - 1)])

    @pytest.mark.parametrize("name", PAYMENTS)
    def test_a_zero_bidder_changes_and_pays_nothing(self, name):
        bids, log_probs = smooth_auction()
        log_probs = np.concatenate([log_probs, np.log([[1.0] + [0.5] * 6])])
        log_probs[-1, 1:] = -np.inf
        args = (np.append(bids, 0.0), log_probs)
        with_it = jax.jit(PAYMENTS[name]().expected)(*args)
        without = jax.jit(PAYMENTS[name]().expected)(bids, log_probs[:-1])
        np.testing.assert_allclose(with_it[:-1], without, rtol=1e-5)
        assert with_it[-1] == 0

    @pytest.mark.parametrize("name", PAYMENTS)
    def test_identical_agents_pay_nothing_for_agreement(self, name):
        row = jnp.log(jnp.array([0.1, 0.3, 0.6]))
        found = PAYMENTS[name]().expected(jnp.ones(3), jnp.stack([row] * 3))
        due = 1.0 if name == "pay_your_bid" else 0.0
        np.testing.assert_allclose(found, jnp.full(3, due), atol=1e-7)

    def test_disjoint_supports(self):
        """`B KL(r || q) = -B log(1 - lambda)`; the second price is `B phi(b / B)`."""
        bids = jnp.array([1.0, 3.0])
        log_probs = jnp.log(jnp.eye(2))
        found = ta.clarke(ta.linear()).expected(bids, log_probs)
        np.testing.assert_allclose(found, [3 * np.log(4 / 3), np.log(4.0)], rtol=1e-6)
        found = ta.second_price(ta.linear()).expected(bids, log_probs)
        phi = [3 * (np.log(4 / 3) - 0.25), np.log(4.0) - 0.75]
        np.testing.assert_allclose(found, phi, rtol=2e-6)

    def test_an_undefined_auction(self):
        bids, log_probs = jnp.array([1.0, 3.0]), jnp.log(jnp.eye(2))
        payment = ta.clarke(ta.log_linear())
        with pytest.raises(ValueError, match=r"(?s)0.*1"):
            payment.expected(bids, log_probs)
        for found in every_method(payment, bids, log_probs):
            np.testing.assert_array_equal(found, 0)
        slopes = jax.jit(jax.grad(lambda *x: payment.expected(*x).sum(), (0, 1)))
        for gradient in slopes(bids, log_probs):
            assert np.isfinite(gradient).all()

    @pytest.mark.parametrize("name", PAYMENTS)
    def test_no_bids_under_jit_pay_nothing(self, name):
        log_probs = jnp.log(jnp.full((2, 3), 1 / 3))
        found = jax.jit(PAYMENTS[name]().expected)(jnp.zeros(2), log_probs)
        np.testing.assert_array_equal(found, 0)

    def test_clarke_charges_a_veto_in_full(self):
        log_probs = jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]))
        found = ta.clarke(ta.log_linear()).expected(jnp.array([1e-6, 2.0]), log_probs)
        np.testing.assert_allclose(found[0], 2 * np.log(2), rtol=1e-5)


class TestErrors:
    def test_rules_that_have_no_such_payment(self):
        with pytest.raises(ValueError, match="clarke"):
            ta.second_price(ta.log_linear())
        for rule in (ta.power_mean(0.5), ta.power_mean(1.0)):
            with pytest.raises(ValueError, match="linear"):
                ta.second_price(rule)
            with pytest.raises(ValueError, match="power_mean"):
                ta.clarke(rule)
        for rule in (ta.linear(influence=2.0), ta.log_linear(influence=0.5)):
            with pytest.raises(ValueError, match="influence"):
                ta.clarke(rule)

    def test_a_traced_influence_is_the_callers_promise(self):
        bids, log_probs = smooth_auction()

        @jax.jit
        def pays(influence):
            return ta.clarke(ta.linear(influence)).expected(bids, log_probs)

        due = ta.clarke(ta.linear()).expected(bids, log_probs)
        np.testing.assert_allclose(pays(1.0), due, rtol=1e-6)

    @pytest.mark.parametrize("name", PAYMENTS)
    @pytest.mark.parametrize(
        "bids", [[0.0, 0.0], [1.0, np.nan], [1.0, -0.5], [1.0, np.inf]], ids=str
    )
    def test_bad_bids(self, name, bids):
        payment, log_probs = PAYMENTS[name](), jnp.log(jnp.full((2, 3), 1 / 3))
        for call in (
            lambda: payment.expected(jnp.array(bids), log_probs),
            lambda: payment.conditional(jnp.array(bids), log_probs, 0),
            lambda: payment.realized(jax.random.key(0), jnp.array(bids), log_probs, 0),
        ):
            with pytest.raises(ValueError, match="bids"):
                call()

    @pytest.mark.parametrize("name", PAYMENTS)
    def test_wrong_shapes(self, name):
        payment, log_probs = PAYMENTS[name](), jnp.log(jnp.full((2, 3), 1 / 3))
        with pytest.raises(ValueError, match=r"bids|log_probs"):
            payment.expected(jnp.ones(3), log_probs)
        with pytest.raises(ValueError, match="log_probs"):
            payment.expected(jnp.ones(2), log_probs[0])
        with pytest.raises(ValueError, match="token"):
            payment.conditional(jnp.ones(2), log_probs, jnp.zeros(4, int))
        with pytest.raises(ValueError, match="token"):
            payment.realized(
                jax.random.key(0), jnp.ones(2), log_probs, jnp.zeros(1, int)
            )

    @pytest.mark.parametrize(
        "rows",
        [
            [[0.8, 0.2], [0.3, 0.7]],
            [[0.0, 0.0], [0.0, 0.0]],
            [[-0.7, np.nan], [-0.7, -0.7]],
            [[np.inf, -np.inf], [-0.7, -0.7]],
        ],
        ids=["probabilities", "logits", "nan", "infinite"],
    )
    def test_what_is_no_log_probability(self, rows):
        """Refused on concrete values by every function that takes distributions."""
        rows, bids, key = np.array(rows), np.array([1.0, 2.0]), jax.random.key(0)
        rules = [ta.linear(), ta.log_linear(), ta.power_mean(0.5)]
        payments = [make() for make in PAYMENTS.values()]
        payments += [ta.myerson(ta.linear(), ta.forward_kl())]
        calls = [lambda rule=rule: rule.log_prob(bids, rows) for rule in rules]
        for pay in payments:
            calls += [
                lambda pay=pay: pay.expected(bids, rows),
                lambda pay=pay: pay.conditional(bids, rows, 0),
                lambda pay=pay: pay.realized(key, bids, rows, 0),
            ]
        path = (ta.linear(), 0, np.array([1.0, 3.0]), bids, rows)
        calls += [
            lambda: ta.stable_sample(key, *path),
            lambda: ta.critical_bid(key, ta.linear(), 0, bids, rows, 0),
            lambda: ta.monotonicity_gap(*path),
            lambda: ta.welfare(ta.total_variation(), bids, np.log([0.5, 0.5]), rows),
            lambda: ta.optimal_welfare(ta.forward_kl(), bids, rows),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="logs of probabilities"):
                call()

    @pytest.mark.parametrize("bids", [[-1.0, 2.0], [np.nan, 2.0], [np.inf, 2.0]])
    def test_bids_of_a_critical_bid(self, bids):
        log_probs = np.log(np.array([[0.8, 0.2], [0.3, 0.7]]))
        for rule in (ta.linear(), Halved()):
            for agent in (0, 1):
                with pytest.raises(ValueError, match="bids must be finite"):
                    ta.critical_bid(jax.random.key(0), rule, agent, bids, log_probs, 0)
            for own_bids, others in ((np.ones(2), bids), (bids, np.ones(2))):
                args = (rule, 1, np.array(own_bids), np.array(others), log_probs)
                with pytest.raises(ValueError, match="bids must be finite"):
                    ta.stable_sample(jax.random.key(0), *args)


@ta.record
class Halved:
    """A monotone rule of one's own, without methods beyond the protocol."""

    name = "halved"
    monotone = True

    def weights(self, bids):
        return ta.linear(0.5).weights(bids)

    def log_prob(self, bids, log_probs):
        return ta.linear(0.5).log_prob(bids, log_probs)
