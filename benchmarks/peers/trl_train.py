"""Train with TRL, in an environment of its own: `trl_train.py ppo|dpo FOLDER`.

FOLDER is what `benchmarks/language.py tuning` wrote: a model, a reward model, prompts, pairs and
`settings.json`. For each line on the standard input one step is trained, and its seconds are
printed.
"""

import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer

MANY = 10**6  # steps: the driver ends the process


class Turns(TrainerCallback):  # type: ignore[misc]
    """Waits for a line behind each step, and prints how long the step before took."""

    def __init__(self, answers: Any) -> None:
        self.answers, self.began = answers, 0.0

    def wait(self, *_: Any, **__: Any) -> None:
        if self.began:
            print(time.perf_counter() - self.began, file=self.answers, flush=True)
        if not sys.stdin.readline():
            sys.exit()
        self.began = time.perf_counter()

    on_train_begin = on_step_end = wait


def main(what: str, folder: Path) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # trainers print
    settings = json.loads((folder / "settings.json").read_text())
    torch.set_num_threads(settings["cores"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    shared = {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": settings["batch"],
        "learning_rate": 1e-5,
        "max_grad_norm": 1.0,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": MANY,
        "disable_tqdm": True,
    }
    if what == "ppo":
        reward = AutoModelForSequenceClassification.from_pretrained(
            folder / "reward", num_labels=1, dtype=torch.float32
        )
        critic = copy.deepcopy(reward)
        if (
            settings["critic"] == "small"
        ):  # ours is a head on the policy: this costs next to nothing
            critic.model.layers = critic.model.layers[:1]
        trainer: Any = PPOTrainer(
            PPOConfig(
                **shared,
                total_episodes=MANY,
                num_ppo_epochs=settings["epochs"],
                num_mini_batches=1,
                response_length=settings["new"],
                temperature=1.0,
                kl_coef=0.05,
                gamma=1.0,
                lam=0.95,
                num_sample_generations=0,
            ),
            tokenizer,
            model,
            copy.deepcopy(model),
            reward,
            Dataset.from_dict({"input_ids": json.loads((folder / "prompts.json").read_text())}),
            critic,
            callbacks=[Turns(answers)],
        )
    else:
        trainer = DPOTrainer(
            model,
            args=DPOConfig(**shared, max_steps=MANY, beta=0.1, precompute_ref_log_probs=True),
            train_dataset=Dataset.from_list(json.loads((folder / "pairs.json").read_text())),
            processing_class=tokenizer,
            callbacks=[Turns(answers)],
        )
    trainer.train()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
