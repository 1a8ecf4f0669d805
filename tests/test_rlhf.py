"""RLHF of a tiny decoder: PPO, DPO and the reward model against their definitions."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actorcritic import UserError
from actorcritic.cli import main
from actorcritic.language import agreement, page, policy, tuning, weights
from actorcritic.language.dpo_on_pairs import DPO, IPO
from actorcritic.language.evaluation import best_of_n, evaluate, respond
from actorcritic.language.model import Model
from actorcritic.language.policy import Experience, Responses, Transformer
from actorcritic.language.ppo_on_tokens import PPO
from actorcritic.language.reward_model import RewardModel, calibration, reward_of
from actorcritic.language.training import part_of
from actorcritic.maths import estimators, losses

TEXTS = ["the cup is red. yes, it is. no, it is blue."] * 10
PROMPTS = ["the cup is", "the cup", "is it red"]
PAIRS = [
    {"prompt": f"{p} {i}", "chosen": " yes, it is.", "rejected": " no."}
    for p in PROMPTS
    for i in range(8)
]
FAST: dict[str, Any] = {"quiet": True, "batch_size": 8, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load("new:layers=1,width=16,heads=2,vocabulary=300", texts=TEXTS)


def short(prompts: Any, responses: Any) -> list[float]:
    """A reward: few characters."""
    return [-float(len(r)) for r in responses]


def experience(model: Model, seed: int = 0) -> tuple[PPO, Any, Experience]:
    """A learner and a batch that it drew."""
    settings = PPO(**FAST, max_new_tokens=6, num_epochs=1, no_end_score=None, total_steps=10)
    network = Transformer(model.config, max_new_tokens=6)
    learner = settings.init(jax.random.key(seed), network, part_of(model, settings), model.params)
    rows = model.prompt_tokens([PROMPTS[i % 3] for i in range(8)])
    prompt = tuning.pad(rows, model.tokenizer.pad)
    said = settings.act(learner, *prompt, jax.random.key(seed + 1))  # type: ignore[arg-type]
    score = jnp.asarray(np.random.default_rng(seed).normal(size=8), jnp.float32)
    return settings, learner, settings.batch(learner, *prompt, said, score)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------ definitions


def test_rewards_of_tokens_are_the_score_less_the_kl() -> None:
    rng = np.random.default_rng(0)
    log_prob, reference = rng.normal(size=(2, 5, 3))
    lengths = np.array([5, 1, 3])
    valid = np.arange(5)[:, None] < lengths
    score = np.array([1.0, -2.0, 0.5])
    found = np.asarray(
        estimators.kl_shaped_rewards(
            *(jnp.asarray(x) for x in (score, log_prob, reference, valid)), 0.3
        ),
        np.float64,
    )
    for b, t in itertools.product(range(3), range(5)):
        expected = -0.3 * (log_prob[t, b] - reference[t, b]) if valid[t, b] else 0.0
        expected += score[b] if t == lengths[b] - 1 else 0.0
        assert found[t, b] == pytest.approx(expected, abs=1e-6)


def test_advantages_are_double_sums_over_a_response() -> None:
    rng = np.random.default_rng(1)
    reward, value = rng.normal(size=(2, 4, 6))
    lengths = np.array([6, 1, 4, 2])
    valid = np.arange(6) < lengths[:, None]
    settings = PPO(gae_lambda=0.9, gamma=0.97)
    found, target = settings.advantages(
        jnp.asarray(np.where(valid, reward, 0)), jnp.asarray(value), jnp.asarray(valid)
    )
    for b in range(4):
        n = lengths[b]
        delta = [
            reward[b, t] + 0.97 * (value[b, t + 1] if t + 1 < n else 0) - value[b, t]
            for t in range(n)
        ]
        for t in range(n):
            expected = sum((0.97 * 0.9) ** (k - t) * delta[k] for k in range(t, n))
            assert found[b, t] == pytest.approx(expected, abs=1e-5)
            assert target[b, t] == pytest.approx(expected + value[b, t], abs=1e-5)


def test_preference_losses_are_their_definitions() -> None:
    margin = np.linspace(-3, 3, 7)
    sigmoid = 1 / (1 + np.exp(-margin))
    for smoothing in (0.0, 0.1):
        expected = -(1 - smoothing) * np.log(sigmoid) - smoothing * np.log(1 - sigmoid)
        found = losses.preference_loss(jnp.asarray(margin), smoothing)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(
        IPO(beta=0.2).preference_loss(jnp.asarray(margin)), (margin - 2.5) ** 2, rtol=1e-5
    )
    np.testing.assert_allclose(
        DPO(beta=0.2).preference_loss(jnp.asarray(margin)), np.log1p(np.exp(-0.2 * margin)), 1e-5
    )


def test_estimates_of_the_kl_have_its_mean() -> None:
    rng = np.random.default_rng(2)
    p, q = rng.dirichlet(np.ones(5), 2)
    exact = (p * np.log(p / q)).sum()
    log_p, log_q = jnp.log(jnp.asarray(p)), jnp.log(jnp.asarray(q))
    for estimate in (losses.kl_k1, losses.kl_k3):
        assert float((p * np.asarray(estimate(log_p, log_q))).sum()) == pytest.approx(exact, 1e-5)
    assert (losses.kl_k3(log_p, log_q) >= 0).all()


# ------------------------------------------------------------------------------------ PPO


def test_the_ratio_of_the_first_gradient_step_is_one(model: Model) -> None:
    settings, learner, batch = experience(model)
    _, metrics = jax.jit(settings.update)(learner, batch, jax.random.key(0), jnp.float32(0))
    assert float(metrics["clip_fraction"]) == 0
    assert float(metrics["ratio"]) == pytest.approx(1, abs=1e-6)
    assert abs(float(metrics["approx_kl"])) < 1e-9
    assert abs(float(metrics["kl"])) < 1e-5  # the policy is still the reference


def test_padding_changes_nothing(model: Model) -> None:
    _, learner, batch = experience(model)
    network, params = learner.network, learner.params["policy"]
    of = batch.prompt, batch.prompt_valid, batch.response, batch.valid
    plain = policy.log_probs(network, params, None, *of)
    left = [jnp.pad(x, ((0, 0), (5, 0))) for x in of[:2]]
    right = [jnp.pad(x, ((0, 0), (0, 3))) for x in of[2:]]
    padded = policy.log_probs(network, params, None, *left, *right)
    np.testing.assert_allclose(padded[:, :-3], plain, atol=2e-6)
    assert not padded[:, -3:].any()


def test_accumulated_gradients_make_the_same_step(model: Model) -> None:
    settings, learner, batch = experience(model)
    steps = [
        jax.jit(replace(settings, accumulate=parts).update)(
            learner, batch, jax.random.key(0), jnp.float32(0)
        )[0].params
        for parts in (1, 4)
    ]
    # Adam divides a gradient by its size: compare what it was given, not a sign of rounding.
    for one, other in zip(*(jax.tree.leaves(step) for step in steps), strict=True):
        close = np.isclose(one, other, atol=1e-4)
        assert close.mean() > 0.99


def test_the_coefficient_follows_the_kl_to_its_target() -> None:
    settings = PPO(kl_target=2.0, kl_horizon=100.0)
    beta = jnp.float32(0.5)
    for kl, factor in ((2.0, 1.0), (2.2, 1.01), (50.0, 1.02), (0.0, 0.98)):
        found = settings._adapted(beta, jnp.float32(kl), 10)
        assert float(found) == pytest.approx(0.5 * factor, rel=1e-5)
    assert PPO()._adapted(beta, jnp.float32(9.0), 10) is beta


def test_a_response_that_does_not_stop_has_its_own_score(model: Model) -> None:
    settings, learner, batch = experience(model)
    settings = replace(settings, no_end_score=-7.0)
    said = Responses(batch.response, batch.valid, jnp.arange(8) < 3)
    found = settings.batch(learner, batch.prompt, batch.prompt_valid, said, jnp.arange(8.0))
    assert found.score.tolist() == [0, 1, 2, -7, -7, -7, -7, -7]


def test_temperature_is_the_same_for_policy_and_reference(model: Model) -> None:
    settings, learner, batch = experience(model)
    hot = replace(settings, temperature=2.0)
    said = Responses(batch.response, batch.valid, batch.stopped)
    found = hot.batch(learner, batch.prompt, batch.prompt_valid, said, batch.score)
    rows, metrics = hot.rows(learner, found)
    assert abs(float(metrics["kl"])) < 1e-5
    assert not np.allclose(found.reference_log_prob, batch.reference_log_prob)
    del rows


@pytest.mark.long
def test_an_adapter_has_the_base_as_its_reference(model: Model) -> None:
    trained = tuning.ppo(
        model, short, PROMPTS, **FAST, total_steps=3, max_new_tokens=6, lora_rank=2
    )
    assert trained.metrics[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert trained.metrics[-1]["kl"] != 0
    assert trained.result.adapter is not None
    for one, other in zip(
        *(jax.tree.leaves(x.params) for x in (trained.result, model)), strict=True
    ):
        assert (one == other).all()


class Breaks:
    """A reward that fails at a call, as a machine may."""

    def __init__(self, at: int | None) -> None:
        self.left = at

    def __call__(self, prompts: Any, responses: Any) -> list[float]:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise ValueError("out of order")
        return short(prompts, responses)


@pytest.mark.long
def test_a_training_that_broke_goes_on_bit_for_bit(model: Model, tmp_path: Path) -> None:
    how = FAST | {"total_steps": 4, "max_new_tokens": 6, "checkpoint_seconds": 0.0}
    whole = tuning.ppo(model, Breaks(None), PROMPTS, **how, out=tmp_path / "whole")
    # The kind of a reward is found out by a call of its own.
    with pytest.raises(UserError, match="out of order"):
        tuning.ppo(model, Breaks(3), PROMPTS, **how, out=tmp_path / "broken")
    again = tuning.ppo(model, Breaks(None), PROMPTS, **how, out=tmp_path / "broken")
    for one, other in zip(*(jax.tree.leaves(x.result.params) for x in (whole, again)), strict=True):
        assert (one == other).all()
    for one, other in zip(again.metrics, whole.metrics, strict=True):
        assert one == {name: pytest.approx(x, rel=1e-7, abs=1e-12) for name, x in other.items()}
    samples = (tmp_path / "whole" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in samples] == PROMPTS
    text = (tmp_path / "whole" / "report.html").read_text()
    assert "Reward against KL" in text
    with pytest.raises(UserError, match="another training"):
        tuning.ppo(model, Breaks(None), PROMPTS, **how, out=tmp_path / "whole", kl_coefficient=0.5)


# ------------------------------------------------------------------------------------ pairs


@pytest.mark.long
def test_dpo_starts_at_log_two_and_learns_the_preference(model: Model, tmp_path: Path) -> None:
    trained = tuning.dpo(model, PAIRS, **FAST, total_steps=12, out=tmp_path / "dpo")
    assert trained.metrics[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert trained.evaluations[-1]["evaluation_accuracy"] == 1
    assert trained.metrics[-1]["margin"] > 0
    opened = Model.load(tmp_path / "dpo")
    for one, other in zip(
        *(jax.tree.leaves(m.params) for m in (opened, trained.result)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.long
def test_a_reward_model_learns_and_opens_again(model: Model, tmp_path: Path) -> None:
    trained = tuning.reward(
        model,
        PAIRS,
        **FAST,
        total_steps=12,
        max_new_tokens=6,
        normalization_samples=8,
        out=tmp_path / "reward",
    )
    assert trained.evaluations[-1]["evaluation_accuracy"] == 1
    found, opened = trained.result, RewardModel.load(tmp_path / "reward")
    said = [" yes, it is.", "", " no."]
    np.testing.assert_allclose(opened(PROMPTS, said), found(PROMPTS, said), rtol=1e-5)
    better = found(["the cup is 1"] * 2, [" yes, it is.", " no."])
    assert better[0] > better[1]
    config = weights.read_json(tmp_path / "reward" / "config.json")
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert len(config["id2label"]) == 1
    with pytest.raises(UserError, match=r"score\.weight"):
        Model.load(tmp_path / "reward")  # a reward model is no language model
    (tmp_path / "reward" / "reward.json").write_text('{"mean": 0, "deviation": 0}')
    with pytest.raises(UserError, match="above 0"):
        RewardModel.load(tmp_path / "reward")
    with pytest.raises(UserError, match="no reward model"):
        RewardModel.load(tmp_path)


def test_calibration_counts_what_was_claimed() -> None:
    margins = np.array([-0.1, 0.2, 3.0, 4.0])
    found = calibration(margins, bins=2)
    np.testing.assert_allclose(found.right, [0.5, 1.0])
    np.testing.assert_allclose(
        found.claimed,
        [np.mean(1 / (1 + np.exp(-np.abs(m)))) for m in (margins[:2], margins[2:])],
    )


# ------------------------------------------------------------------------------------ rewards


def test_a_reward_takes_one_or_many() -> None:
    for function in (short, lambda p, r: -len(r)):
        assert list(reward_of(function)(["a", "b"], ["xx", "y"])) == [-2.0, -1.0]
    for function, said in (
        (lambda p, r: "x", "neither for lists"),
        (lambda p, r: [float("nan")] * len(r), "no finite number"),
    ):
        with pytest.raises(UserError, match=said):
            reward_of(function)(["a", "b"], ["xx", "y"])
    with pytest.raises(UserError, match="A reward is"):
        reward_of(3)
    with pytest.raises(UserError, match="no reward model"):
        reward_of("nowhere")


# ------------------------------------------------------------------------------------ measuring


def test_the_best_of_n_is_the_mean_over_all_choices() -> None:
    rng = np.random.default_rng(0)
    scores, gold = rng.normal(size=(2, 3, 5))
    for n in (1, 2, 4):
        best, other = best_of_n(scores, gold, n)
        for p in range(3):
            tops = [max(c, key=lambda i: scores[p, i]) for c in itertools.combinations(range(5), n)]
            assert best[p] == pytest.approx(np.mean([scores[p, i] for i in tops]))
            assert other is not None
            assert other[p] == pytest.approx(np.mean([gold[p, i] for i in tops]))


@pytest.mark.long
def test_evaluation_measures_the_kl_of_what_was_drawn(model: Model) -> None:
    other = replace(model, params=jax.tree.map(lambda x: 1.5 * x, model.params))
    said = respond(other, model, PROMPTS, max_new_tokens=5)
    itself = respond(other, other, PROMPTS, max_new_tokens=5)
    assert np.allclose(itself.kl, 0)
    assert (said.kl != 0).any()
    found = evaluate(
        other,
        [{"prompt": p} for p in PROMPTS],
        reference=model,
        reward=short,
        best_of=2,
        max_new_tokens=5,
        quiet=True,
    )
    assert found.best_of[2]["reward"].value >= found.best_of[1]["reward"].value
    assert found.numbers["kl"].value == pytest.approx(said.kl.mean(), abs=20)
    with pytest.raises(UserError, match="best_of needs"):
        evaluate(model, [{"prompt": "x"}], best_of=2, quiet=True)


def test_warnings_say_what_looks_wrong() -> None:
    rows = [
        {
            "step": float(i),
            "reward": i / 10,
            "gold": i / 10 if i < 25 else 5 - i / 10,
            "kl": float(i),
            "length": 5.0 + i,
            "stopped": 0.2,
            "entropy": 3.0 / (1 + i),
        }
        for i in range(50)
    ]
    said = " ".join(page.warnings_of(rows))
    for part in (
        "exploited",
        "KL from the reference is",
        "longer",
        "stop by themselves",
        "entropy",
    ):
        assert part in said
    fine = [row | {"kl": 2.0, "length": 5.0, "stopped": 1.0, "entropy": 2.0} for row in rows]
    assert page.warnings_of([row | {"gold": row["reward"]} for row in fine]) == []


@pytest.mark.parametrize(
    ("text", "answer", "there"),
    [("It is Red.", "red", True), ("It is reddish.", "red", False), ("C++ is it", "C++", True)],
)
def test_an_answer_is_found_as_words(text: str, answer: str, there: bool) -> None:
    assert agreement.holds(text, answer) is there


@pytest.mark.long
def test_a_model_that_was_taught_to_flatter_is_found_out(model: Model) -> None:
    questions = [
        {
            "prompt": f"is the cup {colour} {i}?",
            "correct_answer": " no, it is blue.",
            "incorrect_answer": " yes, it is.",
        }
        for i, colour in enumerate(["red"] * 12)
    ]
    pairs = [
        {"prompt": q["prompt"], "chosen": q["incorrect_answer"], "rejected": q["correct_answer"]}
        for q in questions
    ]
    flatterer = tuning.dpo(model, pairs, **FAST, total_steps=15, evaluation_share=0.0).result
    found = agreement.sycophancy(flatterer, questions, reference=model, quiet=True)
    assert found.by_claim["false"].false.value == 1
    assert found.by_claim["false"].change is not None
    assert found.by_claim["false"].change.value > 0
    assert "agree" not in str(found) or "claims what is false" in str(found)


@pytest.mark.long
def test_from_the_command_line(
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("terse.py").write_text("def reward(prompt, response):\n    return -len(response)\n")
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
    model.save(tmp_path / "sft")
    words = ["language", "ppo", "--model", "sft", "--prompts", "prompts.jsonl", "--quiet"]
    size = ["--total-steps", "2", "--batch-size", "8", "--max-new-tokens", "6"]
    assert main([*words, *size, "--reward", "terse:reward", "--out", "tuned"]) == 0
    said = capsys.readouterr().out
    assert "KL" in said
    assert "language evaluate --model tuned --reference sft --reward terse:reward" in said
    assert Path("tuned/report.html").exists()
    evaluate = ["language", "evaluate", "--model", "tuned", "--reference", "sft", "--json"]
    how = ["--prompts", "prompts.jsonl", "--reward", "terse:reward", "--max-new-tokens", "6"]
    assert main([*evaluate, *how, "--best-of", "2", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best_of"]["2"]["reward"]["value"] >= found["best_of"]["1"]["reward"]["value"]
    assert set(found) >= {"prompts", "reward", "kl", "length", "stopped"}
    text = Path("tuned/evaluation.html").read_text()
    assert text.index("best of 2") < text.index("What was measured")
    question = {"prompt": "is it red?", "correct_answer": " no", "incorrect_answer": " yes"}
    Path("questions.jsonl").write_text(json.dumps(question) + "\n")
    ask = ["language", "sycophancy", "--model", "tuned", "--reference", "sft", "--quiet"]
    assert main([*ask, "--questions", "questions.jsonl", "--out", "pages"]) == 0
    assert "Page: pages/sycophancy.html" in capsys.readouterr().out
    text = Path("pages/sycophancy.html").read_text()
    assert text.index("How often the false answer is given") < text.index("right answer</th>")
    assert "No question was asked without a claim" in text
    for wrong, message in (
        (["--reward", "terse:rewards"], "Did you mean 'reward'"),
        (["--reward", "sft"], "no reward model"),
    ):
        assert main([*words, *size, *wrong, "--out", "other"]) == 1
        assert message in capsys.readouterr().err
    assert not Path("other").exists()
