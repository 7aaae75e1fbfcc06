"""What GGUF files may say: refused by key before anything is built."""

import os
import struct

import gguf
import numpy as np
import pytest
from checkpoint_refusals import refusal
from tiny_checkpoint import write_gguf

from tokenauction_jax.agents.checkpoints import gguf_file
from tokenauction_jax.agents.checkpoints.load import CheckpointError, load_checkpoint


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_and_devices_are_no_gguf_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "not a regular file" in refusal(tmp_path / "pipe.gguf")
    assert "not a regular file" in refusal("/dev/zero")


def gguf_bytes(
    kind, value, key=b"general.architecture", count=1, tensors=b"", number=0
):
    """A file with one entry of metadata."""
    entry = struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value
    header = b"GGUF" + struct.pack("<IQQ", 3, number, count)
    return header + entry + tensors


def tensor(shape, kind=0, offset=0, name=b"token_embd.weight"):
    head = struct.pack("<Q", len(name)) + name + struct.pack("<I", len(shape))
    return head + struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset)


NUMBER = (4, struct.pack("<I", 1))


@pytest.mark.parametrize(
    "data",
    {
        "array of 2^60": gguf_bytes(9, struct.pack("<IQ", 0, 2**60)),
        "strings of 2^60": gguf_bytes(9, struct.pack("<IQ", 8, 2**60)),
        "string of 2^60": gguf_bytes(8, struct.pack("<Q", 2**60)),
        "nested arrays": gguf_bytes(9, struct.pack("<IQ", 9, 1) * 9999),
        "nested empty arrays": gguf_bytes(9, struct.pack("<IQIQ", 9, 2**60, 9, 0)),
        "array of nothing": gguf_bytes(9, struct.pack("<IQ", 99, 1)),
        "unknown type": gguf_bytes(13, b"\0" * 99),
        "key of 2^60": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**60),
        "2^60 keys": gguf_bytes(*NUMBER, count=2**60),
        "2^60 tensors": gguf_bytes(*NUMBER, number=2**60),
        "not UTF-8": gguf_bytes(8, struct.pack("<Q", 1) + b"\xff"),
        "architecture is a list": gguf_bytes(9, struct.pack("<IQ", 4, 0)),
        "2^32 dimensions": gguf_bytes(
            *NUMBER, number=1, tensors=b"\0" * 8 + b"\xff" * 99
        ),
        "overflow": gguf_bytes(*NUMBER, number=1, tensors=tensor([2**32, 2**32])),
        "beyond": gguf_bytes(*NUMBER, number=1, tensors=tensor([1], offset=2**63)),
        "type": gguf_bytes(*NUMBER, number=1, tensors=tensor([1], kind=999)),
        "block": gguf_bytes(*NUMBER, number=1, tensors=tensor([1], kind=2)),
        "twice": gguf_bytes(*NUMBER, number=2, tensors=2 * tensor([1])) + b"\0" * 99,
        "alignment": gguf_bytes(4, b"\0" * 4, key=b"general.alignment"),
        "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        "version 1": b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
    }.items(),
    ids=lambda item: item[0],
)
def test_gguf_files_that_lie_about_lengths(tmp_path, data):
    path = tmp_path / "model.gguf"
    path.write_bytes(data[1])
    refusal(path)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("llama.context_length", [0, "128", 1.5, [128]]),
        ("llama.block_count", [0, 2**31, True]),
        ("llama.embedding_length", [0, 2**31]),
        ("llama.feed_forward_length", [0, "24"]),
        ("llama.attention.head_count", [0, 3, [2, 2], "2"]),
        ("llama.attention.head_count_kv", [0, [2, 2]]),
        ("llama.attention.key_length", [0, 1.5]),
        ("llama.attention.layer_norm_rms_epsilon", [0.0, -1.0, float("nan"), "1"]),
        ("llama.rope.freq_base", [0.0, -5.0, float("inf"), "1"]),
        ("llama.rope.scaling.factor", [0.0, -1.0, float("nan"), 0.5]),
        ("llama.rope.scaling.type", [3]),
        ("tokenizer.ggml.tokens", ["a", [1, 2]]),
        ("tokenizer.ggml.merges", ["a", [1]]),
        ("tokenizer.ggml.token_type", ["a", ["a"], 3]),
        ("tokenizer.ggml.pre", [3]),
        ("tokenizer.ggml.eos_token_id", [257, 2**31, -1, "0", [0]]),
        ("tokenizer.ggml.bos_token_id", [257, -1, "0"]),
        ("tokenizer.ggml.add_bos_token", ["no", 1]),
        ("tokenizer.chat_template", [3, ["a"]]),
    ],
)
def test_gguf_settings_are_refused_by_key(directory, tmp_path, key, values):
    path = tmp_path / "model.gguf"
    scaled = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    write_gguf(path, directory, scaled)
    load_checkpoint(path)
    for value in values:
        write_gguf(path, directory, scaled | {key: value})
        assert key.rpartition(".")[2] in refusal(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.block_count", 1000, "1000 layers, but the files hold 20 tensors"),
        ("llama.block_count", 3, "9 parameters without a tensor"),
        ("llama.embedding_length", 2**31 - 1, "no multiple of attention.head_count 2"),
        ("llama.embedding_length", 10**9, "a head has size 500000000"),
        ("llama.embedding_length", 32, "they belong to different checkpoints"),
        ("llama.feed_forward_length", 10**9, "asks for (16, 1000000000)"),
        ("llama.attention.head_count", 16, "a head has size 1"),
        ("llama.attention.head_count", 10**9, "no multiple of attention.head_count"),
        ("llama.attention.head_count_kv", 3, "2 attention heads cannot share 3"),
        ("llama.attention.key_length", 7, "a head has size 7"),
        ("llama.attention.key_length", 10**9, "a head has size 1000000000"),
        ("llama.rope.scaling.type", "long", "unsupported rotary scaling 'long'"),
        ("tokenizer.ggml.tokens", ["a"], "out of vocabulary"),
        ("tokenizer.ggml.merges", ["a zz"], "out of vocabulary"),
        ("tokenizer.ggml.merges", ["a"], "tokenizer.ggml: "),
        ("tokenizer.ggml.pre", "other", "unknown pre-tokenizer 'other'"),
        ("tokenizer.ggml.model", "llama", "tokenizer.ggml has no 'scores'"),
        ("tokenizer.ggml.model", "t5", "unknown tokenizer model 't5'"),
        ("tokenizer.ggml.model", ["gpt2"], "unknown tokenizer model"),
        ("tokenizer.ggml.add_bos_token", True, "no 'bos_token_id'"),
        ("general.architecture", "mamba", "unknown architecture 'mamba'"),
    ],
)
def test_gguf_settings_are_compared_with_the_file(
    directory, tmp_path, key, value, message
):
    write_gguf(tmp_path / "model.gguf", directory, {key: value})
    assert message in refusal(tmp_path / "model.gguf")


@pytest.mark.parametrize("kind", list(gguf.GGMLQuantizationType), ids=lambda k: k.name)
def test_gguf_types_are_floats_or_refused(tmp_path, kind):
    """Every type of the format is read as floats, or refused in one line."""
    items, size = gguf.GGML_QUANT_SIZES[kind]
    infos = tensor([items], kind.value)
    data = gguf_bytes(*NUMBER, number=1, tensors=infos)
    data += b"\0" * (-len(data) % 32) + b"\0" * size
    (tmp_path / "model.gguf").write_bytes(data)
    stored = gguf_file.read_gguf(tmp_path / "model.gguf").tensors["token_embd.weight"]
    try:
        values = stored.read()
    except CheckpointError as error:
        assert f"unknown type {kind.name}" in str(error)  # noqa: PT017
    else:
        assert np.issubdtype(values.dtype, np.floating)
        assert values.shape == stored.shape == (items,)
