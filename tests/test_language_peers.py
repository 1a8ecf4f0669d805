"""The decoder beside transformers: logits, greedy answers, and folders in both directions."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from language_models import VOCABULARY, prompts

from actorcritic.language import decoder, generation, weights
from actorcritic.language.model import Model
from actorcritic.language.tokens import Tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.extras

TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    **TOKENS,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
PEERS = {
    "gpt2": lambda t: t.GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, **TOKENS),
    "llama": lambda t: t.LlamaConfig(
        num_key_value_heads=2, rope_parameters=LLAMA3, tie_word_embeddings=True, **SIZES
    ),
    "llama-untied": lambda t: t.LlamaConfig(
        head_dim=12, attention_bias=True, mlp_bias=True, rope_parameters=LINEAR, **SIZES
    ),
    "qwen2": lambda t: t.Qwen2Config(num_key_value_heads=2, **SIZES),
    "qwen3": lambda t: t.Qwen3Config(num_key_value_heads=2, head_dim=16, **SIZES),
}


def logits_of(peer, tokens, valid):
    position = np.maximum(valid.cumsum(1) - 1, 0)
    with torch.no_grad():
        found = peer(
            input_ids=torch.tensor(tokens).long(),
            attention_mask=torch.tensor(valid).long(),
            position_ids=torch.tensor(position),
        )
    return found.logits.numpy()[valid]


@pytest.fixture(params=PEERS)
def peer(request, tmp_path):
    """A model of transformers with every parameter moved, and its folder."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(PEERS[request.param](transformers))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    return model.eval(), tmp_path


def test_logits_answers_and_folders(peer):
    model, folder = peer
    config = weights.read_config(folder / "theirs")
    params, config = weights.read(folder / "theirs", config)
    tokens, valid = prompts(rows=4, length=12)
    theirs = logits_of(model, tokens, valid)
    hidden, _ = decoder.hidden(params, config, tokens, valid)
    ours = np.asarray(decoder.logits(params, config, hidden))[valid]
    assert np.abs(ours - theirs).max() < 1e-4
    assert np.abs(theirs).max() > 1
    with torch.no_grad():
        answers = model.generate(
            input_ids=torch.tensor(tokens).long(),
            attention_mask=torch.tensor(valid).long(),
            max_new_tokens=20,
            do_sample=False,
        ).numpy()[:, 12:]
    found = generation.generate(
        params, config, tokens, valid, jax.random.key(0), max_new_tokens=20, temperature=0
    )
    ours = np.where(found.valid, found.tokens, 0)
    np.testing.assert_array_equal(ours[:, : answers.shape[1]], answers)
    assert not ours[:, answers.shape[1] :].any()
    for name, shard in (("one", weights.SHARD), ("many", 20_000)):
        weights.write(folder / name, params, config, shard)
        again = transformers.AutoModelForCausalLM.from_pretrained(folder / name).eval()
        np.testing.assert_array_equal(logits_of(again, tokens, valid), theirs)


def test_a_new_model_and_its_tokenizer_open_in_transformers(tmp_path):
    texts = ["the cat sat on the mat", "naïve Ω 猫 🐈"] * 5
    ours = Model.load("new:layers=1,width=16,heads=2,vocabulary=300", texts=texts)
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert [theirs(text).input_ids for text in texts] == ours.tokenizer.encode(texts)
    assert theirs.pad_token_id == ours.tokenizer.pad
    assert (theirs.eos_token_id,) == ours.tokenizer.eos
    messages = [{"role": "user", "content": "hi"}]
    said = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert said == ours.tokenizer.chat(messages)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    rows = np.asarray(ours.tokenizer.encode(["the cat"]))
    hidden, _ = decoder.hidden(ours.params, ours.config, rows, np.ones_like(rows, bool))
    found = np.asarray(decoder.logits(ours.params, ours.config, hidden))[0]
    np.testing.assert_allclose(found, logits_of(model, rows, rows >= 0), atol=1e-4)


def test_a_tokenizer_that_transformers_wrote(tmp_path):
    mine = Tokenizer.train(["a cat", "a dog"] * 3, 280)
    mine.save(tmp_path / "mine")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "mine")
    theirs.save_pretrained(tmp_path / "theirs")
    found = Tokenizer.load(tmp_path / "theirs")
    assert (found.bos, found.eos, found.pad) == (mine.bos, mine.eos, mine.pad)
    assert found.encode(["a cat and"]) == mine.encode(["a cat and"])
    assert found.template == mine.template
