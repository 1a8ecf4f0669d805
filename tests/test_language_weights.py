"""Model folders: what is written is read bit for bit; what is damaged is refused in a sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from language_models import CONFIGS, parameters

from actorcritic.core.errors import UserError
from actorcritic.language import lora, weights
from actorcritic.language.model import Model
from actorcritic.language.tokens import Tokenizer, pad

TEXTS = ["the cat sat on the mat", "a dog ran after the cat", "naïve Ω 猫 🐈"] * 3


def same(one, other) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in zip(
            map(np.asarray, jax.tree.leaves(one)),
            map(np.asarray, jax.tree.leaves(other)),
            strict=True,
        )
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = Model.load("new:layers=1,width=8,heads=2,vocabulary=270,positions=32", texts=TEXTS)
    return model, model.save(folder)


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may damage."""
    for path in saved[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_written_is_read_bit_for_bit_in_one_file_or_many(name, dtype, tmp_path):
    config = CONFIGS[name]
    params = parameters(config, dtype=dtype)
    weights.write(tmp_path, params, config, shard=4000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    found, read = weights.read(tmp_path, weights.read_config(tmp_path))
    assert read == config
    assert same(found, params)
    weights.write(tmp_path, params, config)  # over it: nothing of the shards is left
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}
    assert same(weights.read(tmp_path, weights.read_config(tmp_path))[0], params)


def test_float16_is_read_as_float32_and_another_type_on_request(tmp_path):
    config = CONFIGS["llama"]
    weights.write(tmp_path, parameters(config), config)
    file = tmp_path / weights.WEIGHTS
    halves = {k: v.astype(np.float16) for k, v in safetensors.numpy.load_file(file).items()}
    safetensors.numpy.save_file(halves, file)
    found, _ = weights.read(tmp_path, config)
    assert found["embedding"].dtype == jnp.float32
    np.testing.assert_array_equal(found["embedding"], halves["model.embed_tokens.weight"])
    found, _ = weights.read(tmp_path, config, jnp.bfloat16)
    assert found["layers"]["query"]["kernel"].dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_names_without_prefix_old_buffers_and_a_second_head(name, tmp_path):
    config = CONFIGS[name]
    params = parameters(config)
    weights.write(tmp_path, params, config)
    file = tmp_path / weights.WEIGHTS
    there = safetensors.numpy.load_file(file)
    bare = {k.removeprefix("transformer.").removeprefix("model."): v for k, v in there.items()}
    bare["h.0.attn.bias"] = np.ones((1, 1, 4, 4), np.float32)
    bare["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    bare["lm_head.weight"] = np.asarray(params["embedding"])  # tied, and yet written
    safetensors.numpy.save_file(bare, file)
    assert same(weights.read(tmp_path, config)[0], params)


def test_a_missing_head_is_the_embedding(tmp_path):
    config = CONFIGS["qwen2"]
    weights.write(tmp_path, parameters(config), config)
    file = tmp_path / weights.WEIGHTS
    there = safetensors.numpy.load_file(file)
    del there["lm_head.weight"]
    safetensors.numpy.save_file(there, file)
    params, read = weights.read(tmp_path, config)
    assert read.tied
    assert "head" not in params


@pytest.mark.parametrize("name", CONFIGS)
def test_both_spellings_of_rope_settings(name):
    config = CONFIGS[name]
    data = weights.config_json(config)
    for spelling in ("rope_parameters", "rope_scaling"):
        assert weights.config_of({k: v for k, v in data.items() if k != spelling}) == config


def test_generation_config_says_what_ends_an_answer(tmp_path):
    config = CONFIGS["llama"]
    weights.write(tmp_path, parameters(config), config)
    (tmp_path / weights.GENERATION).write_text('{"eos_token_id": [5, 6]}')
    assert weights.read_config(tmp_path).eos == (5, 6)


def changed(**settings):
    def change(folder: Path) -> None:
        data = json.loads((folder / "config.json").read_text()) | settings
        (folder / "config.json").write_text(json.dumps(data))

    return change


def tensors(change):
    def rewrite(folder: Path) -> None:
        there = safetensors.numpy.load_file(folder / weights.WEIGHTS)
        change(there)
        safetensors.numpy.save_file(there, folder / weights.WEIGHTS)

    return rewrite


def pickled(folder: Path) -> None:
    (folder / weights.WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80")


def piped(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def sharded(folder: Path) -> None:
    (folder / weights.WEIGHTS).unlink()
    table = {"model.norm.weight": "../other.safetensors"}
    (folder / weights.INDEX).write_text(json.dumps({"weight_map": table}))


NORM = "model.norm.weight"
DAMAGES = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "a pipe": (piped, "has no config.json"),
    "not JSON": (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object"),
    "another family": (changed(model_type="lama"), "Did you mean 'llama'"),
    "an activation": (changed(hidden_act="tanh"), "activation 'tanh' is not known"),
    "a window": (changed(use_sliding_window=True), "use_sliding_window is true"),
    "quantised": (changed(quantization_config={"bits": 4}), "quantised"),
    "a rope": (changed(rope_parameters={"rope_type": "yarn"}), "'yarn' is not known"),
    "heads": (changed(num_attention_heads=3), "multiple of"),
    "a size": (changed(hidden_size="8"), "hidden_size must be a positive number"),
    "a token": (changed(eos_token_id="x"), "whole numbers"),
    "shapes": (changed(intermediate_size=32), "has the shape"),
    "more layers": (changed(num_hidden_layers=2), "lacks"),
    "fewer layers": (changed(vocab_size=2), "tokenizer has"),
    "a surplus": (tensors(lambda t: t.update(extra=t[NORM])), "holds.*extra"),
    "a lack": (tensors(lambda t: t.pop(NORM)), "lacks norm.weight"),
    "integers": (
        tensors(lambda t: t.update({NORM: t[NORM].astype(np.int32)})),
        "tensors of the type I32",
    ),
    "a pickle": (pickled, "a pickle, which can execute code"),
    "cut short": (
        lambda f: (f / weights.WEIGHTS).write_bytes((f / weights.WEIGHTS).read_bytes()[:-9]),
        "no intact safetensors",
    ),
    "no weights": (lambda f: (f / weights.WEIGHTS).unlink(), "has no weights"),
    "a shard elsewhere": (sharded, "must have a weight_map"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "a tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "no tokenizer that can be"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_folders_are_refused_in_one_sentence(damage, said, folder):
    damage(folder)
    with pytest.raises(UserError, match=said):
        Model.load(folder)


def test_a_model_comes_back_with_its_tokenizer(saved):
    model, folder = saved
    found = Model.load(folder)
    assert same(found.params, model.params)
    assert found.config == model.config
    texts = ["the cat", "naïve Ω 🐈", ""]
    assert found.tokenizer.encode(texts) == model.tokenizer.encode(texts)
    assert found.tokenizer.decode(found.tokenizer.encode(texts)) == texts
    assert found.tokenizer.template == model.tokenizer.template


def test_an_adapter_comes_back_from_its_folder(saved, tmp_path):
    model, folder = saved
    rng = np.random.default_rng(0)
    adapter = jax.tree.map(
        lambda x: x + rng.standard_normal(x.shape).astype(np.float32),
        lora.init(jax.random.key(0), model.config, rank=2, alpha=3.0, targets=["query", "down"]),
    )
    lora.save(tmp_path, adapter, model.config, str(folder))
    found = Model.load(tmp_path)
    assert found.adapter is not None
    assert (found.adapter.rank, found.adapter.alpha) == (2, 3.0)
    assert same(found.adapter.layers, adapter.layers)
    assert same(found.params, model.params)
    about = json.loads((tmp_path / lora.ABOUT).read_text())
    (tmp_path / lora.ABOUT).write_text(json.dumps(about | {"use_dora": True}))
    with pytest.raises(UserError, match="use_dora"):
        Model.load(tmp_path)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("new:tinny", "Did you mean 'tiny'"),
        ("new:layers=x", "layers must be a whole number"),
        ("new:layers=0", "at least 1"),
        ("new:width=9", "multiple of heads"),
        ("new:vocabulary=20", "at least 262 tokens"),
        ("nowhere", "There is no folder nowhere"),
    ],
)
def test_models_that_do_not_exist(source, said):
    with pytest.raises(UserError, match=said):
        Model.load(source, texts=TEXTS)


def test_a_new_model_needs_texts():
    with pytest.raises(UserError, match="trains its tokenizer on texts"):
        Model.load("new:tiny")


# ------------------------------------------------------------------------------------ tokenizers


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 300)


def test_any_text_is_said_and_pad_is_no_end(tokenizer):
    texts = ["", " two  spaces\n", "Zażółć 🐍", "<|eos|>"]
    rows = tokenizer.encode(texts, special=False)
    assert tokenizer.decode(rows, special=True) == texts
    assert tokenizer.encode(["x"])[0][0] == tokenizer.bos
    assert tokenizer.pad not in tokenizer.eos
    assert tokenizer.size <= 300


def test_where_a_folder_names_no_pad_token_it_is_none_that_ends(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    found = Tokenizer.load(tmp_path, bos=1, eos=(0, 2), pad=0)
    assert found.pad == 3


def test_chats_go_through_the_template(tokenizer, tmp_path):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    assert tokenizer.chat(messages[:1]) == "<|bos|><|user|>hi<|eos|><|assistant|>"
    whole = tokenizer.chat(messages, add_generation_prompt=False)
    assert whole == "<|bos|><|user|>hi<|eos|><|assistant|>ho<|eos|>"
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    with pytest.raises(UserError, match="refuses: no"):
        Tokenizer.load(tmp_path).chat(messages)
    marked = "{% generation %}{{ messages|tojson }}{% endgeneration %}"
    (tmp_path / "chat_template.jinja").write_text(marked)
    assert Tokenizer.load(tmp_path).chat(messages[:1]) == '[{"role": "user", "content": "hi"}]'
    (tmp_path / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(tmp_path).chat(messages)


def test_a_template_from_a_stranger_reaches_nothing(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    attack = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    (tmp_path / "chat_template.jinja").write_text(attack)
    with pytest.raises(UserError, match="unsafe"):
        Tokenizer.load(tmp_path).chat([{"role": "user", "content": "hi"}])


def test_padding():
    found = pad([[5, 6], [7]], 0)
    assert found.tokens.tolist() == [[5, 6], [0, 7]]
    assert found.valid.tolist() == [[True, True], [False, True]]
    assert pad([[5]], 0, side="right", length=3).tokens.tolist() == [[5, 0, 0]]
    with pytest.raises(UserError, match="does not fit"):
        pad([[5, 6]], 0, length=1)
