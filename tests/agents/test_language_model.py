"""Language models as agents: caches, batches, prompts and bad input."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_decoder
from tiny_decoder import OTHER_VARIANTS, VARIANTS, answers, log_probs

import tokenauction_jax as ta
from tokenauction_jax.agents.checkpoints.text import Tokenizer
from tokenauction_jax.agents.language_model import from_language_model

VOCAB_SIZE = 300
PROMPTS = [[5, 6, 7, 8, 9, 10], [11], [12, 13, 14]]


def make(seed=0, **changes):
    return tiny_decoder.make(seed=seed, **{"vocab_size": VOCAB_SIZE, **changes})


def whole(model, prompt, text):
    """What one agent answers to one text, without any cache: `(T + 1, V)`."""
    return log_probs(model, [*prompt, *text.tolist()])[len(prompt) - 1 :]


def random_text(num_auctions, num_tokens):
    rng, shape = np.random.default_rng(3), (num_auctions, num_tokens)
    return jnp.asarray(rng.integers(VOCAB_SIZE, size=shape), jnp.int32)


@pytest.mark.parametrize("shared", [True, False], ids=["one model", "two models"])
def test_agents_answer_as_their_models_do_alone(shared):
    one, other = make(), make(1, context_length=48, **VARIANTS["gpt2"])
    models = one if shared else [one, other, one]
    pool = from_language_model(models, None, PROMPTS)
    assert len(pool.groups) == (1 if shared else 2)
    assert (pool.num_agents, pool.vocab_size, pool.end_token) == (3, VOCAB_SIZE, None)
    text = random_text(2, 6)
    got = answers(pool, text)
    for agent, prompt in enumerate(PROMPTS):
        model = one if shared else models[agent]
        for auction in range(2):
            expected = whole(model, prompt, text[auction])
            np.testing.assert_allclose(got[:, auction, agent], expected, atol=1e-4)


def test_equal_but_distinct_models_are_agents_of_their_own():
    pool = from_language_model([make(), make(seed=1)], None, PROMPTS[:2])
    assert len(pool.groups) == 2
    text = random_text(1, 3)
    for agent, seed in enumerate((0, 1)):
        expected = whole(make(seed=seed), PROMPTS[agent], text[0])
        got = answers(pool, text)[:, 0, agent]
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_auctions_and_agents_do_not_disturb_each_other():
    model, text = make(), random_text(5, 6)
    together = answers(from_language_model(model, None, PROMPTS), text)
    alone = answers(from_language_model(model, None, PROMPTS[1:2]), text[3:4])
    np.testing.assert_allclose(together[:, 3:4, 1:2], alone, atol=1e-4)


@pytest.mark.parametrize(
    "variant",
    [
        # Learned positions; windows in some layers; angles that depend on the text.
        pytest.param(x, marks=[pytest.mark.slow] * (x not in ("gpt2", "gemma", "phi3")))
        for x in VARIANTS | OTHER_VARIANTS
    ],
)
def test_texts_that_are_read_at_once_have_the_scores_of_their_steps(variant):
    """Behind unequal prompts longer than the windows, with filters of each agent."""
    model = make(**(VARIANTS | OTHER_VARIANTS)[variant])
    pool = from_language_model(
        [model, make(seed=1), model],
        None,
        [[5, 6, 7, 8, 9, 3], [8], [9, 4]],
        temperature=[0.7, 1.0, 1.3],
        top_k=[None, 40, None],
    )
    text = random_text(4, 7)
    mask = jnp.arange(7)[None] < jnp.array([7, 4, 1, 0])[:, None]
    steps = answers(pool, text)[:-1]
    drawn = jnp.take_along_axis(steps, text.T[:, :, None, None], axis=3)[..., 0]
    expected = jnp.where(mask.T[..., None], drawn, 0).sum(0)
    for agents in ([0, 1, 2], [2, 0]):
        found = jax.jit(lambda p: p.score(text, mask))(pool.only(agents))
        np.testing.assert_allclose(found, expected[:, np.array(agents)], atol=2e-4)


def test_there_is_no_step_beyond_the_room_of_a_state():
    """Not one that writes over the last token: concrete calls raise, others mark it."""
    pool, tokens = from_language_model(make(), None, PROMPTS), jnp.array([3, 4])
    state = pool.init(2, num_tokens=2)
    for _ in range(2):
        state, log_probs = pool.step(state, tokens)
        assert jnp.isfinite(log_probs).all()
    with pytest.raises(ValueError, match=r"room for 2 tokens.*larger num_tokens"):
        pool.step(state, tokens)
    _, log_probs = jax.jit(pool.step)(state, tokens)
    assert jnp.isnan(log_probs).all()


def test_filters_act_per_agent():
    options = {"temperature": [0.5, 1.0, 2.0], "top_k": [1, 5, None]}
    pool = from_language_model(make(), None, PROMPTS, **options)
    got = answers(pool, random_text(2, 3))
    counts = jnp.isfinite(got).sum(-1)
    np.testing.assert_array_equal(
        counts, jnp.broadcast_to(jnp.array([1, 5, 300]), (4, 2, 3))
    )
    plain = answers(from_language_model(make(), None, PROMPTS), random_text(2, 3))
    expected = jax.nn.log_softmax(plain[:, :, 2] / 2)
    np.testing.assert_allclose(got[:, :, 2], expected, atol=1e-4)


def test_weights_are_arguments_of_the_compiled_program():
    first = from_language_model(make(), None, PROMPTS)
    second = from_language_model(make(seed=7), None, PROMPTS)
    traces = []

    @jax.jit
    def run(pool):
        traces.append(1)
        state = pool.init(2, num_tokens=1)
        return pool.step(state, jnp.full(2, -1, jnp.int32))[1]

    assert not jnp.array_equal(run(first), run(second))
    assert len(traces) == 1
    constants = jax.make_jaxpr(run)(first).consts
    assert sum(np.size(constant) for constant in constants) < 100


def test_gradients_reach_the_weights_through_prompt_and_text():
    pool, text = from_language_model(make(), None, PROMPTS), random_text(2, 3)
    (group,) = pool.groups

    def loss(weights):
        changed = dataclasses.replace(group, weights=weights)
        changed = dataclasses.replace(pool, groups=(changed,))
        return answers(changed, text)[-1, :, :, 7].sum()

    gradient = jax.jit(jax.grad(loss))(group.weights)
    leaves = jax.tree.leaves(gradient)
    assert all(jnp.isfinite(leaf).all() and (leaf != 0).any() for leaf in leaves)


def test_a_simulation_runs_past_the_end_of_texts(tiny_tokenizer):
    tokenizer = Tokenizer(tiny_tokenizer, end_tokens=[0])
    prompts = ["a friendly paragraph", "fly to Hawaii"]
    pool = from_language_model(make(), tokenizer, prompts, temperature=3.0, top_k=40)
    mechanism = ta.Mechanism(ta.linear(), ta.second_price(ta.linear()))
    rollout = ta.simulate(
        jax.random.key(0), mechanism, pool, [1.0, 2.0], num_tokens=12, num_auctions=64
    )
    assert rollout.valid.all()
    assert jnp.isfinite(rollout.payments).all()
    assert ((rollout.tokens == 0) & rollout.mask).sum(axis=1).max() <= 1
    assert rollout.mask[:, 0].all()


def test_simulated_auctions_do_not_depend_on_the_batch():
    pool = from_language_model(make(), None, PROMPTS, top_k=20)
    mechanism = ta.Mechanism(ta.linear(), ta.second_price(ta.linear()))

    def run(first, count):
        bids, key = [1.0, 2.0, 0.5], jax.random.key(0)
        options = {"num_tokens": 8, "num_auctions": count, "first_auction": first}
        return ta.simulate(key, mechanism, pool, bids, **options)

    together, part = run(0, 8), run(5, 2)
    np.testing.assert_array_equal(together.tokens[5:7], part.tokens)
    np.testing.assert_allclose(together.payments[5:7], part.payments, rtol=1e-3)


def test_all_tokens_that_end_a_text_are_one(tiny_tokenizer):
    model, text = make(), random_text(2, 3)
    merged = Tokenizer(tiny_tokenizer, end_tokens=[4, 9])
    pool = from_language_model(model, merged, PROMPTS)
    assert pool.end_token == 4
    got = jnp.exp(answers(pool, text))
    plain = jnp.exp(answers(from_language_model(model, None, PROMPTS), text))
    assert (got[..., 9] == 0).all()
    np.testing.assert_allclose(got[..., 4], plain[..., 4] + plain[..., 9], rtol=1e-5)
    np.testing.assert_allclose(got[..., 10:], plain[..., 10:], rtol=1e-5)


def filled_up(tokenizer, rows):
    """A model whose embedding has more rows than its tokenizer has tokens."""
    return make(vocab_size=rows), Tokenizer(tokenizer, end_tokens=[4])


def test_rows_beyond_the_tokenizer_are_never_drawn(tiny_tokenizer):
    """As if they had no logits: the others are normalised without them."""
    model, tokenizer = filled_up(tiny_tokenizer, 320)
    text = random_text(2, 3)
    options = {"temperature": [0.5, 1.0, 3.0], "top_k": [None, 310, 5], "min_p": 0.0}
    got = answers(from_language_model(model, tokenizer, PROMPTS, **options), text)
    assert got.shape[-1] == 320
    assert (got[..., 300:] == -jnp.inf).all()
    np.testing.assert_allclose(jnp.exp(got).sum(-1), 1, rtol=1e-5)
    plain = from_language_model(model, None, PROMPTS, temperature=[0.5, 1.0, 3.0])
    plain = answers(plain, text)[:, :, :2, :300]
    expected = jax.nn.log_softmax(plain)
    np.testing.assert_allclose(got[:, :, :2, :300], expected, atol=1e-4)


def test_tokens_between_those_of_the_tokenizer_are_never_drawn(tiny_tokenizer):
    content = json.loads(tiny_tokenizer.to_str())
    vocab = content["model"]["vocab"]
    last = max(vocab, key=vocab.__getitem__)
    vocab[last] = 305
    tokenizer = Tokenizer(type(tiny_tokenizer).from_str(json.dumps(content)))
    pool = from_language_model(make(vocab_size=306), tokenizer, PROMPTS)
    got = answers(pool, random_text(2, 3))
    assert (got[..., 299:305] == -jnp.inf).all()
    assert jnp.isfinite(got[..., 305]).all()


def test_models_of_different_rows_share_their_tokens(tiny_tokenizer):
    """As those of one family do, whose smaller ones are filled up less."""
    models, tokenizers = zip(
        *(filled_up(tiny_tokenizer, rows) for rows in (304, 320, 300)), strict=True
    )
    text = random_text(2, 3)
    got = answers(from_language_model(models, tokenizers, PROMPTS), text)
    assert got.shape[-1] == 300
    for agent, model in enumerate(models):
        alone = from_language_model(model, tokenizers[0], PROMPTS[agent : agent + 1])
        expected = answers(alone, text)[:, :, 0, :300]
        np.testing.assert_allclose(got[:, :, agent], expected, atol=1e-4)
    with pytest.raises(ValueError, match=r"vocabularies of \[300, 304, 320\] tokens"):
        from_language_model(models, [tokenizers[0], None, None], PROMPTS)


def test_prompts_are_rendered_by_the_chat_template_unless_told_not_to(tiny_tokenizer):
    template = "Q{{ messages[0].content }}A"
    tokenizer = Tokenizer(tiny_tokenizer, chat_template=template)
    model = make()
    for chat, expected in ((True, "QhiA"), (False, "hi")):
        pool = from_language_model(model, tokenizer, ["hi"], chat=chat)
        tokens = pool.groups[0].tokens[0].tolist()
        assert tokens == tiny_tokenizer.encode(expected).ids
    other = Tokenizer(tiny_tokenizer, chat_template="B{{ messages[0].content }}")
    pool = from_language_model(model, [tokenizer, other], ["hi", "hi"])
    assert pool.groups[0].tokens[1, 0] == tiny_tokenizer.encode("B").ids[0]


def test_agents_have_system_prompts_and_variables_of_their_own(tiny_tokenizer):
    template = "{% for m in messages %}{{ m.content }}{{ x }}{% endfor %}"
    tokenizer = Tokenizer(tiny_tokenizer, chat_template=template)

    def prompts(**options):
        pool = from_language_model(make(), tokenizer, ["a", "b"], **options)
        (group,) = pool.groups
        rows = zip(group.tokens, group.lengths, strict=True)
        return [tokenizer.decode(row[:n].tolist()) for row, n in rows]

    assert prompts() == ["a", "b"]
    assert prompts(system="be") == ["bea", "beb"]
    assert prompts(system=[None, "be"]) == ["a", "beb"]
    assert prompts(chat_template_kwargs={"x": 1}) == ["a1", "b1"]
    assert prompts(chat_template_kwargs=[{"x": 2}, None]) == ["a2", "b"]


@pytest.mark.usefixtures("x64")
def test_dtypes_do_not_drift_in_double_precision():
    pool = from_language_model(make(), None, PROMPTS, temperature=0.7, top_k=9)
    got = answers(pool, random_text(2, 3))
    assert got.dtype == make().embedding.dtype == jnp.float32


@pytest.mark.parametrize(
    ("models", "prompts", "message"),
    [
        (lambda: make(), [], r"prompts is \[\]: give a list"),
        (lambda: make(), "one text", "give a list"),
        (lambda: [make()], PROMPTS, "1 models for 3 prompts"),
        (lambda: make(), [[]], "is empty"),
        (lambda: make(), [[300]], r"outside \[0, 300\)"),
        (lambda: make(), [[-1]], r"outside \[0, 300\)"),
        (lambda: make(), ["text"], "give a tokenizer, or token ids"),
        (lambda: make(), [[1, True]], "have True: give text, or whole numbers"),
        (lambda: make(), [[1.5]], "have 1.5: give text, or whole numbers"),
        (lambda: make(), [["1"]], "have '1': give text, or whole numbers"),
    ],
)
def test_wrong_agents_are_refused(models, prompts, message):
    with pytest.raises(ValueError, match=message):
        from_language_model(models(), None, prompts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"system": "x"}, "token ids, which system prompts"),
        ({"chat_template_kwargs": {"x": 1}}, "token ids, which system prompts"),
        ({"system": ["x"]}, "1 system for 3 prompts"),
        ({"chat_template_kwargs": [{}]}, "1 chat_template_kwargs for 3 prompts"),
    ],
)
def test_token_ids_are_no_chats(options, message):
    with pytest.raises(ValueError, match=message):
        from_language_model(make(), None, PROMPTS, **options)


def test_mismatched_vocabularies_are_refused(tiny_tokenizer):
    smaller = make(vocab_size=290)
    with pytest.raises(ValueError, match=r"mismatched vocabularies of \[290, 300\]"):
        from_language_model([make(), smaller], None, PROMPTS[:2])
    tokenizer = Tokenizer(tiny_tokenizer)
    with pytest.raises(ValueError, match="mismatched vocabularies: 300 tokens"):
        from_language_model(smaller, tokenizer, ["hi"])
    other = type(tiny_tokenizer).from_str(tiny_tokenizer.to_str())
    other.add_tokens(["<more>"])
    with pytest.raises(ValueError, match="of the tokenizers, which differ in <more>:"):
        from_language_model(make(), [tokenizer, Tokenizer(other)], ["hi", "hi"])


def test_a_text_beyond_the_context_is_refused():
    pool = from_language_model(make(), None, PROMPTS)
    pool.init(1, num_tokens=58)
    with pytest.raises(
        ValueError, match=r"\[0, 1, 2\], of 6 tokens.*59.*context of 64"
    ):
        pool.init(1, num_tokens=59)
    with pytest.raises(ValueError, match="num_tokens is None"):
        pool.init(1)
