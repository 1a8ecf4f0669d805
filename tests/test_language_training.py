"""Supervised fine-tuning: the loss, the data, and trainings that are stopped and go on."""

from __future__ import annotations

import json
import math
import signal
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import command, start
from language_models import CONFIGS, parameters

import actorcritic as ac
from actorcritic.core.errors import UserError
from actorcritic.language import data, decoder, supervised, training
from actorcritic.language.data import Example, Sequences
from actorcritic.language.model import Model
from actorcritic.language.supervised import SFTSettings
from actorcritic.language.tokens import Tokenizer
from actorcritic.language.training import Sums
from actorcritic.runs import checkpoints

NEW = "new:layers=1,width=8,heads=2,vocabulary=300,positions=64"
ANIMALS = ("cat", "dog", "owl")
PAIRS = [
    {"prompt": f"{a} and {b} make", "response": f" {b} {a} {i}"}
    for i in range(7)
    for a in ANIMALS
    for b in ANIMALS
]
TINY = {"batch_size": 4, "max_length": 64, "quiet": True, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([str(pair) for pair in PAIRS], 300)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that was never stopped."""
    out = tmp_path_factory.mktemp("sft") / "whole"
    return supervised.sft(NEW, PAIRS, out=out, total_steps=6, checkpoint_seconds=0, **TINY)


# ------------------------------------------------------------------------------------ the loss


def test_the_loss_is_the_mean_over_the_tokens_of_answers():
    config = CONFIGS["qwen2"]
    params = parameters(config)
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 41, (4, 10)).astype(np.int32)
    valid = np.arange(10) < np.array([[10], [7], [4], [9]])
    learned = (rng.random((4, 10)) < 0.5) & valid
    rows = Sequences(tokens, valid, learned)
    hidden, _ = decoder.hidden(params, config, tokens, valid)
    logits = np.asarray(decoder.logits(params, config, hidden), np.float64)
    total = count = 0.0
    for row, place in np.argwhere(learned):
        if place > 0:
            before = logits[row, place - 1]
            total -= before[tokens[row, place]] - math.log(np.exp(before).sum())
            count += 1

    def loss(params, rows):
        return supervised._loss(config, False, (params, None), rows)

    gradient = jax.jit(partial(training.gradient, loss), static_argnames="accumulate")
    one, means = gradient(params, rows)
    assert float(means["loss"]) == pytest.approx(total / count, rel=1e-5)
    cut, again = gradient(params, rows, accumulate=2)
    assert float(again["loss"]) == pytest.approx(total / count, rel=1e-5)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(cut), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_a_gradient_is_of_the_mean_also_where_parts_differ_in_weight():
    x = jnp.asarray([1.0, 2.0, 3.0, 10.0])
    weight = jnp.asarray([1.0, 0.0, 1.0, 1.0])

    def loss(p, rows):
        x, w = rows
        return Sums((w * (p - x) ** 2).sum(), w.sum(), {"x": (w * x).sum()})

    slope, means = training.gradient(loss, jnp.float32(0.0), (x, weight), accumulate=2)
    assert float(slope) == pytest.approx(-2 * 14 / 3)
    assert float(means["loss"]) == pytest.approx(110 / 3)
    assert float(means["x"]) == pytest.approx(14 / 3)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_learning_rate_rises_and_falls(schedule):
    settings = SFTSettings(schedule=schedule, warmup=0.2, learning_rate=0.5)
    rate = [float(training.learning_rate(settings, 10)(i)) for i in range(11)]
    assert rate[:2] == pytest.approx([0.25, 0.5])
    done = np.arange(9) / 8
    falls = {"constant": 0 * done + 1, "linear": 1 - done, "cosine": (1 + np.cos(np.pi * done)) / 2}
    np.testing.assert_allclose(rate[2:], 0.5 * falls[schedule], atol=1e-6)


def test_decay_is_of_matrices_only():
    config = CONFIGS["gpt2"]
    params = parameters(config)
    settings = SFTSettings(weight_decay=0.5, warmup=0.0, schedule="constant", learning_rate=0.1)
    optimizer = training.optimizer(settings, 10)
    zero = jax.tree.map(jnp.zeros_like, params)
    change, _ = jax.jit(optimizer.update)(zero, optimizer.init(params), params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(change):
        moved = bool((leaf != 0).any())
        assert moved == (path[-1].key not in ("bias", "scale")), path


# ------------------------------------------------------------------------------------ data


def test_every_epoch_takes_every_row_once_in_another_order():
    batches = training.Batches(10, 4, 3)
    rows = np.concatenate([batches.at(n) for n in range(5)])
    for epoch in (rows[:10], rows[10:]):
        assert sorted(epoch.tolist()) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()
    np.testing.assert_array_equal(batches.at(2), rows[8:12])
    assert batches.steps(1) == 3


def learned_text(tokenizer, value) -> str:
    (example,), _ = data.examples([value], tokenizer, 512)
    return tokenizer.decode([example.tokens[example.learned].tolist()], special=True)[0]


@pytest.mark.parametrize(
    ("value", "learned"),
    [
        ("hi", "<|bos|>hi<|eos|>"),
        ({"text": "hi"}, "<|bos|>hi<|eos|>"),
        ({"prompt": "a", "response": "b"}, "b<|eos|>"),
        ({"prompt": "a", "completion": "b"}, "b<|eos|>"),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            "a<|eos|>",
        ),
        (
            {
                "prompt": [
                    {"role": "user", "content": "q"},
                    {"role": "assistant", "content": "before"},
                    {"role": "user", "content": "again"},
                ],
                "completion": [{"role": "assistant", "content": "after"}],
            },
            "after<|eos|>",
        ),
    ],
    ids=str,
)
def test_only_answers_are_learned(value, learned, tokenizer):
    assert learned_text(tokenizer, value) == learned


def test_the_prompt_of_a_chat_ends_where_generation_begins(tokenizer):
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (example,), _ = data.examples([{"messages": messages}], tokenizer, 64)
    prompt = tokenizer.encode([tokenizer.chat(messages[:1])], special=False)[0]
    assert example.tokens[: len(prompt)].tolist() == prompt
    assert not example.learned[: len(prompt)].any()
    assert example.learned[len(prompt) :].all()


def test_what_is_left_out_is_counted(tokenizer):
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "a", "response": " "}]
    rows += [{"prompt": "x" * 50, "response": "b"}, {"prompt": "a", "response": "y" * 50}]
    found, counts = data.examples(rows, tokenizer, 16)
    assert len(found) == 2
    assert counts.said() == [
        "1 of 4 examples have an empty text or answer and are left out",
        "1 of 4 examples have no token of their answer within 16 tokens and are left out",
        "1 of 4 examples are cut to 16 tokens",
    ]
    with pytest.raises(UserError, match="no example to learn from: 1 of 1"):
        data.examples(rows[1:2], tokenizer, 16)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is not JSON"),
        ('{"txt": "a"}', r"has the keys txt; expected \{\"text\""),
        ("3", "is int"),
        ('{"text": 3}', "text must be a text; it is int"),
        ('{"prompt": "a", "response": null}', "response must be a text"),
        ('{"messages": []}', "not empty"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "no message of the assistant"),
        ('{"messages": ["a"]}', "a message is"),
        ("\\xff", "not JSON"),
    ],
)
def test_lines_that_are_no_example(line, said, tokenizer, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(f'{{"text": "good"}}\n{line}\n')
    with pytest.raises(UserError, match=said):
        data.examples(path, tokenizer, 64)


def test_packing_keeps_every_token_in_order():
    rows = [Example(np.arange(n, dtype=np.int32), np.ones(n, bool)) for n in (3, 9, 5)]
    found = data.packed(rows, 4)
    assert [len(row.tokens) for row in found] == [4, 4, 4, 4]
    joined = np.concatenate([row.tokens for row in found])
    np.testing.assert_array_equal(joined, np.concatenate([row.tokens for row in rows])[:16])


def test_held_out_rows_are_none_that_are_learned():
    rows = [Example(np.array([i // 2 if i < 10 else i]), np.array([True])) for i in range(30)]
    rest, apart = data.held_out(rows, 0.2, 0)
    assert len(apart) == 6
    assert len(rest) + len(apart) == 30
    assert not {row.key for row in rest} & {row.key for row in apart}


# ------------------------------------------------------------------------------------ runs


def as_rounded(rows) -> list[dict[str, np.float32]]:
    return [{name: np.float32(x) for name, x in row.items()} for row in rows]


def test_a_run_leaves_a_model_that_learned(whole):
    assert whole.finished
    assert [row["step"] for row in whole.metrics] == [1, 2, 3, 4, 5, 6]
    assert whole.metrics[-1]["loss"] < whole.metrics[0]["loss"]
    assert as_rounded(training.read_rows(whole.out / "metrics.csv")) == as_rounded(whole.metrics)
    (evaluation,) = training.read_rows(whole.out / "evaluations.csv")
    assert evaluation["perplexity"] == pytest.approx(math.exp(evaluation["evaluation_loss"]))
    found = Model.load(whole.out)
    for a, b in zip(
        jax.tree.leaves(found.params), jax.tree.leaves(whole.result.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_answers_do_not_depend_on_how_prompts_are_put_together(whole):
    model, prompts = whole.result, ["cat", "a dog and", "owl", "", "dog"]
    asked = {"max_new_tokens": 6, "temperature": 0}
    together = model.generate(prompts, **asked)
    assert model.generate(prompts, batch_size=2, **asked) == together


def test_a_finished_training_is_only_read_again(whole):
    again = supervised.sft(NEW, PAIRS, out=whole.out, total_steps=6, **TINY)
    assert again.finished
    assert len(again.metrics) == 6
    assert len(again.evaluations) == 1
    assert [p.name for p in (whole.out / "checkpoints").glob("*6*")] == ["000000000006"]


def test_a_killed_training_goes_on_bit_for_bit(whole, tmp_path, monkeypatch):
    """Killed after each of several steps, whatever was being done then."""
    out = tmp_path / "killed"
    plain = supervised.SFT.step
    left = [2]

    def step(self, learner, number):
        if not left[0]:
            left[0] = 2
            raise MemoryError("killed")
        left[0] -= 1
        return plain(self, learner, number)

    monkeypatch.setattr(supervised.SFT, "step", step)
    for _ in range(2):
        with pytest.raises(MemoryError):
            supervised.sft(NEW, PAIRS, out=out, total_steps=6, checkpoint_seconds=0, **TINY)
    again = supervised.sft(NEW, PAIRS, out=out, total_steps=6, checkpoint_seconds=0, **TINY)
    assert again.finished
    assert as_rounded(again.metrics) == as_rounded(whole.metrics)
    assert (out / "model.safetensors").read_bytes() == (
        whole.out / "model.safetensors"
    ).read_bytes()
    (one,), (other,) = (list((p / "checkpoints").glob("*6"))[-1:] for p in (out, whole.out))
    assert (one / checkpoints.STATE).read_bytes() == (other / checkpoints.STATE).read_bytes()


def test_a_folder_goes_on_only_with_the_same_training(whole):
    with pytest.raises(UserError, match=r"another training: learning_rate = 0.01 \(now 0.5\)"):
        supervised.sft(NEW, PAIRS, out=whole.out, total_steps=6, **TINY | {"learning_rate": 0.5})
    with pytest.raises(UserError, match="holds another training: data"):
        supervised.sft(NEW, PAIRS[1:], out=whole.out, total_steps=6, **TINY)


@pytest.mark.parametrize("name", ["lora", "bfloat16"])
def test_an_adapter_or_rounded_weights_are_trained_in_float32(name, whole, tmp_path):
    options = {"lora_rank": 2} if name == "lora" else {"dtype": "bfloat16"}
    found = supervised.sft(whole.out, PAIRS, total_steps=3, out=tmp_path, **options, **TINY)
    assert found.metrics[-1]["loss"] < whole.metrics[0]["loss"]
    base = Model.load(whole.out)
    if name == "lora":
        for a, b in zip(
            jax.tree.leaves(found.result.params), jax.tree.leaves(base.params), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        (adapted,) = {x.dtype for x in jax.tree.leaves(found.result.adapter)}
        assert adapted == jnp.float32
        mine = Model.load(tmp_path / supervised.ADAPTER).merged()
        np.testing.assert_array_equal(
            mine.params["layers"]["up"]["kernel"],
            Model.load(tmp_path).params["layers"]["up"]["kernel"],
        )
    else:
        assert found.result.dtype == jnp.bfloat16
        assert Model.load(tmp_path).dtype == jnp.bfloat16


def test_settings_that_cannot_be_meant():
    with pytest.raises(UserError, match="Did you mean 'learning_rate'"):
        ac.language.sft(NEW, PAIRS, learning_rat=1.0)
    with pytest.raises(UserError, match="multiple of accumulate"):
        ac.language.sft(NEW, PAIRS, batch_size=4, accumulate=3)
    with pytest.raises(UserError, match="max_length is 512, and the model knows 64"):
        ac.language.sft(NEW, PAIRS, quiet=True)


# ------------------------------------------------------------------------------------ commands


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return path


@pytest.mark.long
def test_from_texts_to_answers_on_the_command_line(file, tmp_path):
    out = tmp_path / "run"
    words = ["language", "sft", "--model", NEW, "--data", file, "--out", out, "--total-steps", "4"]
    done = command(*words, "--max-length", "64")
    assert done.returncode == 0, done.stderr
    assert "sft: 4 steps, loss" in done.stdout
    words = ["language", "generate", "--model", out, "--prompt", "cat", "--json"]
    done = command(*words, "--max-new-tokens", "5")
    assert json.loads(done.stdout)["prompt"] == "cat"


@pytest.mark.faults
def test_ctrl_c_saves_and_the_same_command_goes_on(file, tmp_path):
    out = tmp_path / "run"
    words = ["language", "sft", "--model", NEW, "--data", file, "--out", out]
    words += ["--max-length", "64", "--total-steps", "100000", "--checkpoint-seconds", "0.1"]
    process = start(*words)
    for _ in range(2000):
        if checkpoints.newest(out / "checkpoints"):
            break
        signal.sigtimedwait([], 0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped and saved. Go on with: actorcritic language sft" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sfft"], "Did you mean 'sft'"),
        (["sft", "--model", "new:tiny"], "--data is missing"),
        (["generate", "--model", "x"], "needs something to continue"),
    ],
)
def test_mistakes_are_one_line(words, said, capsys):
    from actorcritic.cli import main

    assert main(["language", *words]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
