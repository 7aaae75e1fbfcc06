"""Adapters: beside the weights or in them, many over one base, bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_decoder import CONFIG, VARIANTS, answers, filled, log_probs, make

import tokenauction_jax as ta
from tokenauction_jax import testing
from tokenauction_jax.agents.language_model import from_language_model
from tokenauction_jax.agents.models.lora import (
    Adapter,
    adapter_of,
    attach,
    merge,
    new_adapter,
    stack,
)

PROMPTS = [[5, 6, 7, 8, 9, 10], [11], [12, 13, 14], [15, 16]]
FEW = ["attention.query", "mlp.down"]


def trained(model, seed=0, rank=2, targets=None):
    """An adapter that changes the answers."""
    fresh = jax.eval_shape(
        lambda key: new_adapter(key, model, rank, targets=targets), jax.random.key(0)
    )
    return filled(fresh, seed + 100, jax.tree.leaves(fresh)[0].dtype)


def texts(shape, seed=2):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(CONFIG.vocab_size, size=shape), jnp.int32)


@nnx.jit
def distributions(model, tokens):
    return jax.nn.log_softmax(model(tokens))


def whole(model, prompt, text):
    """What one agent answers to one text, without any cache: `(T + 1, V)`."""
    return log_probs(model, [*prompt, *text.tolist()])[len(prompt) - 1 :]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_beside_the_weights_equals_one_in_them(family):
    model = make(**VARIANTS[family])
    adapter = trained(model)
    attached, merged = attach(model, adapter), merge(model, adapter)
    tokens = texts((2, 9))
    expected = distributions(merged, tokens)
    assert jnp.abs(expected - distributions(model, tokens)).max() > 1
    np.testing.assert_allclose(distributions(attached, tokens), expected, atol=1e-4)
    pools = [from_language_model(m, None, PROMPTS) for m in (attached, merged)]
    stepped = [answers(pool, texts((2, 4))) for pool in pools]
    np.testing.assert_allclose(*stepped, atol=1e-4)


def test_merging_adds_the_product_of_the_factors():
    model = make()
    adapter = trained(model, targets=["mlp.down"])
    merged = merge(model, adapter)
    down, up = map(np.float64, adapter.factors["layers.1.mlp.down"])
    weights = [np.asarray(m.layers[1].mlp.down.weight[...]) for m in (model, merged)]
    np.testing.assert_allclose(weights[1], weights[0] + up @ down, atol=1e-6)
    assert merged.layers[1].mlp.up.weight[...] is model.layers[1].mlp.up.weight[...]


def test_a_fresh_adapter_changes_nothing():
    model = make()
    adapter = new_adapter(jax.random.key(0), model, 4)
    assert len(adapter.factors) == 2 * 7
    fresh = from_language_model(model, None, PROMPTS, adapters=adapter)
    plain = from_language_model(model, None, PROMPTS)
    text = texts((2, 4))
    np.testing.assert_array_equal(answers(fresh, text), answers(plain, text))


def test_a_fresh_adapter_keeps_the_scale_of_its_inputs():
    adapter = new_adapter(jax.random.key(0), make(width=256), 32)
    down = adapter.factors["layers.0.attention.query"].down
    np.testing.assert_allclose(down.std() * 16, 1, atol=0.04)  # 5 standard errors
    other = adapter.factors["layers.1.attention.query"].down
    assert not jnp.array_equal(down, other)


def test_every_agent_answers_as_its_merged_model_alone():
    model = make()
    first, second = trained(model), trained(model, seed=1, rank=3, targets=FEW)
    adapters = [first, None, second, first]
    pool = from_language_model(model, None, PROMPTS, adapters=adapters)
    (group,) = pool.groups
    assert group.adapters.factors["layers.0.mlp.up"].down.shape == (3, 2, 24)
    assert group.adapters.factors["layers.0.mlp.down"].down.shape == (3, 3, 40)
    text = texts((3, 5))
    got = answers(pool, text)
    for agent, adapter in enumerate(adapters):
        own = model if adapter is None else merge(model, adapter)
        for auction in range(3):
            expected = whole(own, PROMPTS[agent], text[auction])
            np.testing.assert_allclose(got[:, auction, agent], expected, atol=1e-4)


def test_one_adapter_may_serve_all_agents():
    model = make()
    adapter = trained(model)
    pool = from_language_model(model, None, PROMPTS, adapters=adapter)
    assert pool.groups[0].adapters.factors["layers.0.mlp.up"].down.shape[0] == 1
    merged = from_language_model(merge(model, adapter), None, PROMPTS)
    text = texts((2, 3))
    np.testing.assert_allclose(answers(pool, text), answers(merged, text), atol=1e-4)


def test_adapters_go_with_the_models_of_their_agents():
    one, other = make(), make(seed=1, **VARIANTS["gpt2"])
    models, adapters = [one, other, one], [trained(one), trained(other), None]
    pool = from_language_model(models, None, PROMPTS[:3], adapters=adapters)
    assert len(pool.groups) == 2
    text = texts((1, 4))
    got = answers(pool, text)
    owns = [merge(one, adapters[0]), merge(other, adapters[1]), one]
    for agent, own in enumerate(owns):
        expected = whole(own, PROMPTS[agent], text[0])
        np.testing.assert_allclose(got[:, 0, agent], expected, atol=1e-4)


def test_simulations_draw_from_the_adapted_agents():
    model = make()
    adapters = [trained(model), trained(model, seed=1)]
    pool = from_language_model(model, None, PROMPTS[:2], adapters=adapters)
    testing.check_pool(pool)
    mechanism = ta.Mechanism(ta.linear(), ta.second_price(ta.linear()))
    rollout = ta.simulate(
        jax.random.key(0), mechanism, pool, [1.0, 2.0], num_tokens=5, num_auctions=3
    )
    weights = jnp.array([1 / 3, 2 / 3])
    for auction, text in enumerate(rollout.tokens):
        owns = [merge(model, adapter) for adapter in adapters]
        each = [
            whole(own, prompt, text[:-1])
            for own, prompt in zip(owns, PROMPTS[:2], strict=True)
        ]
        q = jnp.einsum("i,itv->tv", weights, jnp.exp(jnp.stack(each)))
        expected = jnp.log(q[jnp.arange(5), text])
        np.testing.assert_allclose(rollout.log_prob[auction], expected, atol=1e-4)


def test_the_base_is_kept_once():
    model = make()
    base = jax.tree.leaves(nnx.state(model))
    adapters = [trained(model, seed) for seed in range(4)]
    pool = from_language_model(model, None, PROMPTS, adapters=adapters)
    (group,) = pool.groups
    weights = jax.tree.leaves(group.weights)
    assert all(one is two for one, two in zip(weights, base, strict=True))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(pool))
    own = sum(leaf.nbytes for leaf in jax.tree.leaves(adapters))
    assert size < sum(leaf.nbytes for leaf in base) + own + 1000
    state = nnx.state(attach(model, adapters[0]))
    frozen = [leaf for _, leaf in nnx.to_flat_state(nnx.filter_state(state, is_frozen))]
    assert {id(leaf[...]) for leaf in frozen} == {id(leaf) for leaf in base}


def is_frozen(path, value):
    return not isinstance(value, nnx.LoRAParam)


def primitives(function, *arguments):
    equations = jax.make_jaxpr(function)(*arguments).jaxpr.eqns
    return [equation.primitive.name for equation in equations]


def test_no_adapters_cost_nothing_and_others_no_gather_per_token():
    model, none = make(), [None] * 4
    plain, without, adapted = (
        from_language_model(model, None, PROMPTS, adapters=adapters)
        for adapters in (None, none, [trained(model), None, None, None])
    )
    assert jax.tree.structure(plain) == jax.tree.structure(without)
    init = jax.jit(lambda pool: pool.init(2, num_tokens=3))
    tokens = jnp.array([3, 4])
    first = primitives(type(plain).step, plain, init(plain), tokens)
    second = primitives(type(plain).step, adapted, init(adapted), tokens)
    assert second.count("dot_general") == first.count("dot_general") + 2 * 7 * 2
    assert second.count("gather") == first.count("gather")  # None of them per token.


def test_adapters_are_arguments_of_the_compiled_program():
    model, traces = make(), []
    first, second = (
        from_language_model(model, None, PROMPTS, adapters=each)
        for each in (
            [trained(model), None, None, trained(model, 1)],
            [trained(model, 2), None, trained(model, 3), None],
        )
    )

    @jax.jit
    def run(pool):
        traces.append(1)
        state = pool.init(2, num_tokens=1)
        return pool.step(state, jnp.full(2, -1, jnp.int32))[1]

    assert not jnp.array_equal(run(first), run(second))
    assert len(traces) == 1
    constants = jax.make_jaxpr(run)(first).consts
    assert sum(np.size(constant) for constant in constants) < 100


def test_gradients_reach_the_factors_and_leave_the_base():
    model = make()
    adapter = trained(model)
    graph, factors, frozen = nnx.split(attach(model, adapter), nnx.LoRAParam, ...)
    assert len(jax.tree.leaves(factors)) == 2 * len(adapter.factors)
    assert len(jax.tree.leaves(frozen)) == len(jax.tree.leaves(nnx.state(model)))

    @jax.jit
    def loss(factors, frozen):
        model = nnx.merge(graph, factors, frozen)
        return jax.nn.log_softmax(model(texts((2, 9))))[..., 7].mean()

    gradient = jax.jit(jax.grad(loss))(factors, frozen)
    leaves = jax.tree.leaves(gradient)
    assert all(jnp.isfinite(leaf).all() and (leaf != 0).any() for leaf in leaves)
    changed = jax.tree.map(lambda leaf, slope: leaf + 1e-3 * slope, factors, gradient)
    assert loss(changed, frozen) > loss(factors, frozen)
    updated = adapter_of(nnx.merge(graph, changed, frozen))
    expected = distributions(merge(model, updated), texts((2, 9)))[..., 7].mean()
    np.testing.assert_allclose(loss(changed, frozen), expected, atol=1e-4)


def test_gradients_reach_the_adapters_of_a_pool():
    model = make()
    adapters = [trained(model), None, trained(model, seed=1)]
    pool = from_language_model(model, None, PROMPTS[:3], adapters=adapters)
    (group,), text = pool.groups, texts((2, 3))

    def loss(adapters):
        changed = dataclasses.replace(group, adapters=adapters)
        changed = dataclasses.replace(pool, groups=(changed,))
        return answers(changed, text)[-1, :, 0, 7].sum()

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(group.adapters)):
        assert jnp.isfinite(leaf).all()
        assert (leaf[0] != 0).any()
        assert (leaf[1:] == 0).all()  # Only agent 0 counts.


def test_a_fresh_adapter_learns():
    model = make()
    attached = attach(model, new_adapter(jax.random.key(0), model, 2))
    graph, factors, frozen = nnx.split(attached, nnx.LoRAParam, ...)

    def loss(factors):
        model = nnx.merge(graph, factors, frozen)
        return jax.nn.log_softmax(model(texts((2, 9))))[..., 7].mean()

    for path, leaf in nnx.to_flat_state(jax.jit(jax.grad(loss))(factors)):
        assert jnp.isfinite(leaf[...]).all()
        assert (leaf[...] != 0).any() == (path[-1] == "up")


def test_detaching_gives_the_same_adapter():
    model = make()
    adapter = trained(model, targets=FEW)
    back = adapter_of(attach(model, adapter))
    assert back.factors.keys() == adapter.factors.keys()
    for one, two in zip(jax.tree.leaves(back), jax.tree.leaves(adapter), strict=True):
        assert one is two
    assert adapter_of(model).factors == {}


def test_bfloat16_bases_take_float32_adapters():
    model = make(dtype=jnp.bfloat16)
    adapter = trained(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(adapter)} == {jnp.dtype("float32")}
    assert merge(model, adapter).layers[0].mlp.up.weight.dtype == jnp.bfloat16
    pool = from_language_model(model, None, PROMPTS, adapters=adapter)
    state = jax.eval_shape(lambda pool: pool.init(2, num_tokens=3), pool)
    assert state.groups[0].cache[0].keys.dtype == jnp.bfloat16
    assert answers(pool, texts((2, 3))).dtype == jnp.float32


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtypes_do_not_drift_in_double_precision(dtype):
    model = make(dtype=dtype)
    adapter = trained(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(adapter)} == {jnp.dtype(dtype)}
    pool = from_language_model(model, None, PROMPTS, adapters=adapter)
    assert answers(pool, texts((2, 3))).dtype == dtype


def test_float32_products_are_exact_on_accelerators():
    model = make()
    graph, state = nnx.split(attach(model, trained(model)))
    forward = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))
    products = [
        equation.params["precision"]
        for equation in forward(state, texts((1, 4))).jaxpr.eqns
        if equation.primitive.name == "dot_general"
    ]
    assert len(products) > 3 * 14
    highest = jax.lax.Precision.HIGHEST
    assert all(precision == (highest, highest) for precision in products)


def without_a_layer(model):
    return make(num_layers=1)


def transposed(adapter):
    return jax.tree.map(jnp.transpose, adapter)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, a: new_adapter(jax.random.key(0), m, 0), "rank is 0: give at least"),
        (
            lambda m, a: new_adapter(jax.random.key(0), m, 2, targets=["mlp.gait"]),
            r"targets is \['mlp.gait'\]: give some of .*mlp.gate",
        ),
        (
            lambda m, a: new_adapter(jax.random.key(0), m, 2, targets=[]),
            r"targets is \[\]: give some",
        ),
        (
            lambda m, a: new_adapter(jax.random.key(0), m, 2, targets="mlp.up"),
            "targets is 'mlp.up': give some",
        ),
        (lambda m, a: attach(without_a_layer(m), a), "layers.1.*does not have"),
        (lambda m, a: merge(without_a_layer(m), a), "layers.1.*not belong together"),
        (
            lambda m, a: attach(m, transposed(a)),
            r"\(24, 2\) and \(2, 12\) for the weight \(12, 24\) of layers",
        ),
        (lambda m, a: attach(attach(m, a), a), "has an adapter already: give its base"),
        (lambda m, a: merge(attach(m, a), a), "has an adapter already"),
        (lambda m, a: stack(m, [None, transposed(a)]), "do not belong together"),
        (
            lambda m, a: from_language_model(m, None, PROMPTS, adapters=[a]),
            "1 adapters for 4 prompts: give one each",
        ),
        (
            lambda m, a: from_language_model(
                without_a_layer(m), None, PROMPTS, adapters=a
            ),
            "do not belong together",
        ),
    ],
)
def test_adapters_that_fit_nowhere_are_refused(call, message):
    model = make()
    with pytest.raises(ValueError, match=message):
        call(model, trained(model))


def test_an_adapter_is_a_pytree_of_its_factors():
    model = make()
    adapter = trained(model)
    halved = jax.tree.map(lambda leaf: 0.5 * leaf, adapter)
    assert isinstance(halved, Adapter)
    assert len(jax.tree.leaves(halved)) == 2 * 14
