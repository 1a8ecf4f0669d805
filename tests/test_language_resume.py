"""Trainings of language models that are killed, go on, and are repeated when they are finished."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from command_line import ENVIRONMENT

from actorcritic.cli import main
from actorcritic.language import training
from actorcritic.language.model import Model
from actorcritic.runs import checkpoints

TEXTS = [{"prompt": f"the cup is {i}", "response": " yes, it is."} for i in range(24)]
SIZE = ("--total-steps", "4", "--batch-size", "4", "--checkpoint-seconds", "0", "--quiet")
SHORT = ("--max-new-tokens", "6")
COMMANDS: dict[str, tuple[str, ...]] = {
    "sft": ("sft", "--data", "texts.jsonl", "--max-length", "64"),
    "reward": ("reward", "--data", "pairs.jsonl", "--normalization-samples", "4", *SHORT),
    "ppo": ("ppo", "--reward", "terse:reward", "--prompts", "texts.jsonl", *SHORT),
    "dpo": ("dpo", "--data", "pairs.jsonl"),
}
TASKS = {"sft": "supervised.SFT", "reward": "tuning.RewardTask"}
TASKS |= {"ppo": "tuning.PPOTask", "dpo": "tuning.DPOTask"}
KILLED = """
import os, signal, sys
from actorcritic.cli import main
from actorcritic.language import supervised, tuning
plain = {task}.step
def step(self, learner, number):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, learner, number)
{task}.step = step
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, data and a reward."""
    path = tmp_path_factory.mktemp("resume")
    pairs = [{"prompt": t["prompt"], "chosen": " yes.", "rejected": " no, no."} for t in TEXTS]
    for name, rows in (("texts", TEXTS), ("pairs", pairs)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "terse.py").write_text("def reward(prompt, response):\n    return -len(response)\n")
    texts = [t["prompt"] + t["response"] for t in TEXTS]
    Model.load("new:layers=1,width=8,heads=2,vocabulary=300", texts=texts).save(path / "base")
    return path


def words(kind: str, out: str) -> list[str]:
    return ["language", *COMMANDS[kind], "--model", "base", "--out", out, *SIZE]


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was written, and what it holds."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


@pytest.mark.faults
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_killed_command_goes_on_bit_for_bit_and_then_rests(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    whole, killed = folder / f"{kind}-whole", folder / f"{kind}-killed"
    assert main(words(kind, whole.name)) == 0
    program = [sys.executable, "-c", KILLED.format(task=TASKS[kind]), *words(kind, killed.name)]
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{folder}:{ENVIRONMENT.get('PYTHONPATH', '')}"}
    done = subprocess.run(program, env=environment, capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    newest = checkpoints.newest(killed / "checkpoints")
    assert newest is not None
    assert int(newest.name.partition(".")[0]) in (1, 2)
    assert main(words(kind, killed.name)) == 0

    weights = (safetensors.numpy.load_file(p / "model.safetensors") for p in (whole, killed))
    one, other = weights
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    metrics = (training.read_rows(p / "metrics.csv") for p in (whole, killed))
    for row, again in zip(*metrics, strict=True):
        assert row == {name: pytest.approx(x, rel=1e-7, abs=1e-12) for name, x in again.items()}
    if kind != "sft":
        assert (killed / "report.html").exists()

    capsys.readouterr()
    before = contents(killed)
    assert main(words(kind, killed.name)) == 0
    assert contents(killed) == before
    assert f"{kind}:" in capsys.readouterr().out


@pytest.mark.extras
def test_a_reward_model_scores_the_same_in_transformers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from language_models import CONFIGS, parameters

    from actorcritic.language.preferences import Answered
    from actorcritic.language.reward_model import RewardModel
    from actorcritic.language.tokens import Tokenizer

    rng = np.random.default_rng(0)
    tokenizer = Tokenizer.train(["a b c"], 300)
    for family, config in CONFIGS.items():
        sized = replace(config, vocab_size=tokenizer.size)
        sized = sized.with_tokens(tokenizer.bos, tokenizer.eos, tokenizer.pad)
        model = Model(parameters(sized), sized, tokenizer)
        head = rng.normal(size=config.hidden_size).astype(np.float32)
        RewardModel(model, head).save(tmp_path / family)
        peer = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / family)
        assert peer.config.num_labels == 1
        found = RewardModel.load(tmp_path / family)
        for length in (3, 9):
            row = rng.integers(4, 40, length).tolist()
            with torch.no_grad():
                theirs = float(peer.eval()(input_ids=torch.tensor([row])).logits[0, 0])
            ours = float(found.score_rows([Answered(row[:2], row[2:])])[0])
            assert ours == pytest.approx(theirs, abs=1e-4)
