"""GGUF files of every family, written from the same weights as `transformers`."""

import json

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_texts import random_texts

import tokenauction_jax as ta
from tokenauction_jax.agents.checkpoints.load import CheckpointError, load_checkpoint

TOKENS = [5, 250, 17, 3, 99, 120, 4, 4, 201, 33, 7, 150]
TRANSPOSED = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
PERMUTED = ("llama", "granite", "smollm3")
# What the format has no place for: the windows of Mistral and Qwen2, other scales.
ELSEWHERE = ("mistral", "qwen2_window", "gemma2_scaled")


def permuted(values, heads):
    """The order of rows in llama.cpp's files: a head's halves interleaved."""
    half = len(values) // heads // 2
    rows = [
        head * 2 * half + part * half + pair
        for head in range(heads)
        for pair in range(half)
        for part in (0, 1)
    ]
    return values[rows]


def architecture_of(family):
    base = family.partition("_")[0]
    return {"gpt": "gptneox", "olmo3": "olmo2"}.get(base, base)


def tensors(model, architecture):
    """The weights of a `transformers` model by their names in GGUF files."""
    config = model.config
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        values = tensor.numpy()
        ours = names.get_name(name, (".weight", ".bias"))
        part = ours.split(".")[2] if ours.startswith("blk.") else ours.split(".")[0]
        if architecture == "gpt2" and part in TRANSPOSED:
            values = values.T
        if architecture in PERMUTED and part in ("attn_q", "attn_k"):
            query = part == "attn_q"
            heads = config.num_attention_heads if query else config.num_key_value_heads
            values = permuted(values, heads)
        if architecture == "gptneox" and part == "attn_qkv":
            apart = values.reshape(config.num_attention_heads, 3, -1, *values.shape[1:])
            values = np.swapaxes(apart, 0, 1).reshape(values.shape)
        if architecture.startswith("gemma") and ours.endswith("norm.weight"):
            values = values + 1
        yield ours, np.ascontiguousarray(values)


def add_hyperparameters(writer, config, architecture):
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if architecture == "gpt2":
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    if hasattr(config, "layer_norm_eps"):
        writer.add_layer_norm_eps(config.layer_norm_eps)
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = config.hidden_size // config.num_attention_heads
    if architecture == "gptneox":
        writer.add_parallel_residual(config.use_parallel_residual)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
    if architecture in ("qwen3", "gemma2", "gemma3"):
        head_dim = config.head_dim
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    rotary = config.rope_parameters
    if "full_attention" in rotary:
        if architecture == "gemma3":
            local = rotary["sliding_attention"]["rope_theta"]
            writer.add_float32("gemma3.rope.freq_base_swa", local)
        rotary = rotary["full_attention"]
    writer.add_rope_freq_base(rotary["rope_theta"])
    writer.add_rope_dimension_count(
        int(head_dim * (rotary.get("partial_rotary_factor") or 1))
    )
    if getattr(config, "sliding_window", None) and architecture not in (
        *("qwen2", "qwen3", "smollm3"),
    ):
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if architecture == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if rotary["rope_type"] in ("linear", "yarn"):
        kind = gguf.RopeScalingType(rotary["rope_type"])
        writer.add_rope_scaling_type(kind)
        writer.add_rope_scaling_factor(rotary["factor"])
    if rotary["rope_type"] in ("yarn", "longrope"):
        original = rotary["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
    if rotary["rope_type"] == "longrope":
        scale = transformers_scale(config)
        writer.add_rope_scaling_attn_factors(scale)


def transformers_scale(config):
    """What Phi-3's converter writes beside the divisors of LongRoPE."""
    original = config.rope_parameters["original_max_position_embeddings"]
    ratio = config.max_position_embeddings / original
    return float(np.sqrt(1 + np.log(ratio) / np.log(original)))


def add_tokenizer(writer, tokenizer, size, eos, eot=None):
    """Describes a tokenizer, in which every added token is special."""
    content = json.loads(tokenizer.to_str())
    spelled = {id: f"[PAD{id}]" for id in range(size)}
    spelled |= {id: token for token, id in tokenizer.get_vocab().items()}
    types = {id: 5 if spelled[id].startswith("[PAD") else 1 for id in range(size)}
    types |= {token["id"]: 3 for token in content["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([spelled[id] for id in range(size)])
    writer.add_token_types([types[id] for id in range(size)])
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    writer.add_eos_token_id(eos)
    if eot is not None:
        writer.add_eot_token_id(eot)


@pytest.fixture
def write(tiny_model, tiny_tokenizer, tmp_path):
    """Writes a tiny model of a family as a GGUF file; returns both."""

    def written(
        family,
        edit=lambda writer: None,
        rope_freqs=None,
        skip=(),
        tokenizer=(tiny_tokenizer, 0, 9),
    ):
        model, architecture = tiny_model(family), architecture_of(family)
        path = tmp_path / f"{family}.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        add_hyperparameters(writer, model.config, architecture)
        add_tokenizer(writer, tokenizer[0], model.config.vocab_size, *tokenizer[1:])
        edit(writer)
        for name, values in tensors(model, architecture):
            if name not in skip:
                writer.add_tensor(name, values)
        if rope_freqs is not None:
            writer.add_tensor("rope_freqs.weight", rope_freqs)
        for kind in ("long", "short"):
            rotary = getattr(model.config, "rope_parameters", None) or {}
            factors = rotary.get(f"{kind}_factor")
            if factors:
                values = np.array(factors, np.float32)
                writer.add_tensor(f"rope_factors_{kind}.weight", values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path, model

    return written


def llama3_divisors(model):
    """What converters store for Llama 3: plain over scaled angles."""
    config = model.config
    size = config.head_dim
    theta = config.rope_parameters["rope_theta"]
    plain = theta ** (-np.arange(0, size, 2) / size)
    return (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)


def test_every_family_agrees_with_transformers(
    family, write, tiny_model, oracle_logits
):
    if family in ELSEWHERE:
        pytest.skip("the format has no such files")
    divisors = llama3_divisors(tiny_model(family)) if "llama3" in family else None
    path, theirs = write(family, rope_freqs=divisors)
    checkpoint = load_checkpoint(path)
    ours = jax.nn.log_softmax(checkpoint.model(jnp.array([TOKENS])))[0]
    expected = jax.nn.log_softmax(jnp.asarray(oracle_logits(theirs, TOKENS)))
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert checkpoint.tokenizer.end_tokens == (0, 9)


def key(name):
    return lambda writer: writer.add_uint32(name, 4)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (key("llama.expert_count"), "expert_count 4"),
        (key("llama.attention.sliding_window"), "sliding_window 4"),
        (key("llama.rope.dimension_count"), "rope.dimension_count"),
        (
            lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.YARN),
            "rope.scaling.factor is missing",
        ),
    ],
)
def test_what_the_decoder_cannot_compute_is_refused(write, edit, message):
    path, _ = write("llama", edit)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_tensor_is_named(write):
    path, _ = write("llama", skip=("blk.1.ffn_up.weight",))
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up\.weight"):
        load_checkpoint(path)


def test_an_unknown_tensor_is_named(write):
    def edit(writer):
        writer.add_tensor("blk.0.ffn_gate_exps.weight", np.ones((2, 2), np.float32))

    path, _ = write("llama", edit)
    with pytest.raises(CheckpointError, match=r"blk\.0\.ffn_gate_exps\.weight"):
        load_checkpoint(path)


def test_an_unknown_architecture_is_refused(tmp_path):
    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"architecture 'mamba'.*llama, qwen2"):
        load_checkpoint(path)


@pytest.mark.parametrize("size", [0, 3, 30, 3000, 60_000, -100])
def test_truncated_files_give_one_clear_line(write, size):
    path, _ = write("llama")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        CheckpointError, match="incomplete or not a GGUF file"
    ) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_foreign_files_give_one_clear_line(tmp_path):
    path = tmp_path / "foreign.gguf"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 10)
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        load_checkpoint(path)


@pytest.fixture
def both(write, save_tiny, tiny_tokenizer, tmp_path):
    """A model as a directory and as a GGUF file, with embeddings of 7 more rows."""
    content = json.loads(tiny_tokenizer.to_str())
    vocab = content["model"]["vocab"]
    content["model"]["vocab"] = {x: id for x, id in vocab.items() if id < 290}
    content["model"]["merges"] = content["model"]["merges"][:-10]
    tokenizer = type(tiny_tokenizer).from_str(json.dumps(content))
    tokenizer.add_special_tokens(["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"])
    folder = tmp_path / "directory"
    folder.mkdir()
    save_tiny("llama", folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|eot_id|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ends = {"eos_token_id": [290, 291, 292]}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    raw = json.loads((folder / "config.json").read_text()) | ends
    (folder / "config.json").write_text(json.dumps(raw))
    path, _ = write("llama", tokenizer=(tokenizer, 292))
    return load_checkpoint(folder), load_checkpoint(path)


def test_a_model_means_the_same_in_both_formats(both):
    one, other = (checkpoint.tokenizer for checkpoint in both)
    assert one.end_tokens == other.end_tokens == (292, 290, 291)
    assert one.vocabulary == other.vocabulary
    for text in random_texts(200, ("<|eot_id|>", "<|eom_id|>", "<end>", "<bos>")):
        tokens = one.encode(text)
        assert other.encode(text) == tokens
        assert other.decode(tokens) == one.decode(tokens)
    one, other = (rollout([checkpoint] * 2) for checkpoint in both)
    assert (one.mask.sum(axis=1) < 24).any()
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(one.mask, other.mask)
    np.testing.assert_allclose(one.payments, other.payments, rtol=1e-5)


def rollout(checkpoints):
    models, tokenizers = ([x[i] for x in checkpoints] for i in (1, 2))
    pool = ta.agents.from_language_model(
        models, tokenizers, ["fly to Hawaii", "the sea"], temperature=3.0
    )
    rule = ta.linear()
    mechanism = ta.Mechanism(rule, ta.second_price(rule))
    key, bids = jax.random.key(0), [1.0, 2.0]
    return ta.simulate(key, mechanism, pool, bids, num_tokens=24, num_auctions=64)


def test_both_formats_share_an_auction(both):
    found = rollout(both)
    assert found.valid.all()
    assert (found.tokens < 293).all()


def split(path, parts):
    """Splits a file by tensors, as `gguf-split` does; returns the parts."""
    reader = gguf.GGUFReader(path)
    groups = np.array_split(np.arange(len(reader.tensors)), parts)
    paths = [
        path.with_name(f"{path.stem}-{number + 1:05}-of-{parts:05}.gguf")
        for number in range(parts)
    ]
    for number, (group, part) in enumerate(zip(groups, paths, strict=True)):
        writer = gguf.GGUFWriter(part, "llama")
        for field in reader.fields.values() if number == 0 else ():
            if field.types and field.name != "general.architecture":
                inner = field.types[-1] if len(field.types) > 1 else None
                content = field.contents()
                writer.add_key_value(field.name, content, field.types[0], inner)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", parts)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for place in group:
            tensor = reader.tensors[place]
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths


def test_a_model_in_several_files(write):
    path, _ = write("llama")
    whole, parts = load_checkpoint(path), split(path, 3)
    for part in parts:  # Whichever is named.
        found = load_checkpoint(part)
        assert found.tokenizer.vocabulary == whole.tokenizer.vocabulary
        jax.tree.map(
            np.testing.assert_array_equal,
            nnx.to_pure_dict(nnx.state(found.model)),
            nnx.to_pure_dict(nnx.state(whole.model)),
        )


def test_several_files_that_do_not_belong_together(write):
    path, _ = write("llama")
    parts = split(path, 3)
    content = parts[1].read_bytes()
    parts[1].unlink()
    with pytest.raises(CheckpointError, match=f"{parts[1].name} missing: get the"):
        load_checkpoint(parts[0])
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(CheckpointError, match=f"{parts[1].name} says .* part 2 of 3"):
        load_checkpoint(parts[0])
    parts[1].write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match=f"{parts[1].name} says .* part None"):
        load_checkpoint(parts[0])
    parts[1].write_bytes(content)
    other = parts[0].rename(path.with_name("renamed.gguf"))
    with pytest.raises(CheckpointError, match="is one of 3 files: name"):
        load_checkpoint(other)
