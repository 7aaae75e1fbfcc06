import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table_scenario import END, TABLE, cells, pool, scenario

import tokenauction_jax as ta
from tokenauction_jax.scenarios import runner
from tokenauction_jax.scenarios.scenario import Agent, Rule


def summary(chosen, cell, texts=None):
    texts = [""] * chosen.num_auctions if texts is None else texts
    return {
        (m.name, m.agent): m.estimate for m in runner.summarize(chosen, cell, texts)
    }


def test_cells_are_rules_by_shares():
    found = cells(scenario(), [0.25, 1.0])
    assert [cell.rule.name for cell in found] == ["linear"] * 2 + ["log_linear"] * 2
    np.testing.assert_allclose([c.share for c in found], [0.25, 1.0] * 2)
    np.testing.assert_allclose(found[0].bids, [1, 3])
    np.testing.assert_allclose(found[1].bids, [4, 0])
    assert found[0].tokens.shape == (40, 6)
    assert found[0].payments.shape == (40, 6, 2)


def test_blocks_do_not_change_the_auctions(monkeypatch):
    whole = cells(scenario())[0]
    monkeypatch.setattr(runner, "BLOCK", 16)
    parts = cells(scenario())[0]
    np.testing.assert_array_equal(whole.tokens, parts.tokens)
    np.testing.assert_array_equal(whole.mask, parts.mask)
    np.testing.assert_allclose(whole.payments, parts.payments, rtol=1e-5)


def test_observations_belong_to_the_tokens():
    cell = cells(scenario())[0]
    log_q = np.log([0.25, 0.75] @ TABLE)
    kept = cell.mask
    np.testing.assert_allclose(cell.log_prob[kept], log_q[cell.tokens[kept]], rtol=1e-5)
    expected = np.log(TABLE).T[cell.tokens[kept]]
    np.testing.assert_allclose(cell.agent_log_probs[kept], expected, rtol=1e-5)
    entropy = -(np.exp(log_q) * log_q).sum()
    np.testing.assert_allclose(cell.entropy[kept], entropy, rtol=1e-5)
    favourite = TABLE.argmax(0)[cell.tokens[kept]]
    np.testing.assert_array_equal(cell.favoured_by()[kept], favourite)


def test_texts_stop_before_the_end_token():
    cell = cells(scenario())[0]
    ended = 0
    for auction in range(40):
        tokens = cell.text_tokens(auction, [END])
        drawn = cell.tokens[auction][cell.mask[auction]].tolist()
        assert END not in tokens
        ended += drawn[-1] == END
        assert tokens == [token for token in drawn if token != END]
    assert 0 < ended < 40


def test_summary_against_the_definition():
    chosen = scenario()
    cell = cells(chosen)[0]
    texts = ["A is here", "nothing", "about b"] + ["a and B"] * 37
    found = summary(chosen, cell, texts)
    n_tokens = cell.mask.sum()
    assert found["mention_rate", "A"].mean == 38 / 40
    assert found["mention_rate", "B"].mean == 38 / 40
    for i, name in enumerate("AB"):
        paid = cell.payments[..., i].sum() / n_tokens
        np.testing.assert_allclose(found["payment", name].mean, paid, rtol=1e-5)
    revenue = found["payment", "A"].mean + found["payment", "B"].mean
    np.testing.assert_allclose(found["revenue", ""].mean, revenue, rtol=1e-5)
    q = [0.25, 0.75] @ TABLE
    welfare = -sum(w * abs(q - p).sum() / 2 for w, p in zip([2, 3], TABLE, strict=True))
    np.testing.assert_allclose(found["welfare", ""].mean, welfare, rtol=1e-5)
    assert found["undefined", ""].mean == 0
    assert found["infinite_welfare", ""].mean == 0


def test_infinite_welfare_is_counted_apart():
    # Under forward KL agent A's exclusive token is worth -inf to it once B is alone.
    table = np.array([[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0]])
    chosen = scenario(valuation="forward_kl", rules=["linear"])
    mixed, alone = cells(chosen, [0.5, 0.0], table)
    assert summary(chosen, mixed)["infinite_welfare", ""].mean == 0
    assert np.isfinite(summary(chosen, mixed)["welfare", ""].mean)
    assert summary(chosen, alone)["infinite_welfare", ""].mean == 1
    assert np.isnan(summary(chosen, alone)["welfare", ""].mean)


def test_undefined_auctions_are_counted_and_left_out():
    table = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    linear, log_linear = cells(scenario(), table=table)
    assert summary(scenario(), linear)["undefined", ""].mean == 0
    found = summary(scenario(), log_linear)
    assert found["undefined", ""].mean == 1
    assert np.isnan(found["revenue", ""].mean)
    assert found["mention_rate", "A"].n == 0


def test_progress_hears_every_token():
    heard = []
    chosen = scenario(rules=["linear"])
    list(runner.run_scenario(chosen, pool(), None, lambda t: heard.append(int(t))))
    assert sorted(heard) == sorted(list(range(6)) * 2)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Fly with alpha air!", True),
        ("ALPHA AIR.", True),
        ("Alpha Airlines", False),
        ("an alpha, air", False),
        ("the AA fleet", True),
    ],
)
def test_mentions_are_whole_words_in_any_case(text, named):
    agent = Agent("Alpha", "prompt", mentions=("Alpha Air", "AA"))
    assert runner.mentions(text, agent) is named
    assert runner.mentions("by alpha", Agent("Alpha", "prompt"))


def test_a_rule_of_a_traced_number_is_one_program():
    # The influence is a leaf: a second one must not compile again.
    from tokenauction_jax.simulation import rollout

    shape = {"num_auctions": 3, "num_tokens": 2}
    before = None
    for influence in (1.0, 2.0):
        rule = Rule("linear", influence=influence)
        bids = jnp.array([1.0, 2.0])
        ta.simulate(jax.random.key(0), rule.build(), pool(), bids, **shape)
        size = rollout._rollout._cache_size()
        assert before in (None, size)
        before = size
