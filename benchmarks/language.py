"""Language models: generation beside transformers, tokens a second, and memory.

    python benchmarks/language.py generation --peer PYTHON [--only small|gpt2]
                                     [--work 64+64] [--repeats 5]
    python benchmarks/language.py training [--only small|gpt2]
    python benchmarks/language.py memory
    python benchmarks/language.py tuning ppo|dpo --peer PYTHON [--model new:small] [--repeats 5]
                                     [--critic full|small]

PYTHON is the interpreter of an environment with benchmarks/peers/transformers.txt, or for `tuning`
with benchmarks/peers/trl.txt. `tuning` times one iteration of PPO or one step of DPO beside TRL's:
the same folder of a model, the same prompts or pairs, both sides warm in processes of their own,
a step of each in turn. TRL's critic is a network of its own; `--critic small` gives it one layer.
For the rest, weights are
random, in float32; both sides sample at temperature 1 without truncation and are kept from ending
early. The sides take turns, each in a process of its own on one core; what is compared is the CPU
time of the process, which other work on the machine disturbs less than the clock. `--cores 2`
compares by the clock on that many cores. On a GPU, `training` and `generation` also say the device
and the share of its peak.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
SMALL = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
BATCH = 32
Work = list[tuple[int, int]]  # tokens of a prompt, new tokens
WORK: Work = [(16, 64), (64, 64), (16, 128)]
PEAK = {"H100": 989e12, "H200": 989e12}  # floating-point operations a second, dense bfloat16


def ours(shape: str, dtype: str = "float32") -> tuple[Any, Any]:
    import jax

    from actorcritic.language import decoder, weights

    data: dict[str, Any] = {"model_type": "gpt2"} if shape == "gpt2" else SMALL
    config = weights.config_of({"model_type": "llama", **data})
    return decoder.init(jax.random.key(0), config, dtype), config


def side_ours(shape: str, work: Work, clock: Callable[[], float], repeats: int) -> dict[str, float]:
    import jax
    import numpy as np

    from actorcritic.language import generation

    params, config = ours(shape)
    found = {}
    for prompt, new in work:
        tokens = np.ones((BATCH, prompt), np.int32)
        best = []
        for repeat in range(repeats + 1):  # the first compiles
            start = clock()
            made = generation.generate(
                params, config, tokens, tokens > 0, jax.random.key(repeat),
                max_new_tokens=new, stop=(),
            )  # fmt: skip
            jax.block_until_ready(made)
            best.append(clock() - start)
        found[f"{prompt}+{new}"] = statistics.median(best[1:])
    return found


def side_peer(
    shape: str, work: Work, clock: Callable[[], float], repeats: int, cores: int
) -> dict[str, float]:
    import torch
    import transformers

    torch.set_num_threads(cores)
    torch.manual_seed(0)
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    if shape == "gpt2":
        config = transformers.GPT2Config(**ends)
    else:
        config = transformers.LlamaConfig(**SMALL, **ends)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    found = {}
    for prompt, new in work:
        tokens = torch.ones((BATCH, prompt), dtype=torch.long)
        best = []
        for _ in range(repeats + 1):
            start = clock()
            with torch.no_grad():
                made = model.generate(
                    input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=new,
                    min_new_tokens=new, do_sample=True, top_k=0, pad_token_id=0,
                )  # fmt: skip
            assert made.shape == (BATCH, prompt + new)
            best.append(clock() - start)
        found[f"{prompt}+{new}"] = statistics.median(best[1:])
    return found


def generation_rows(shapes: list[str], work: Work, peer: str, repeats: int, cores: int) -> None:
    command = [str(HERE), "side", "--repeats", str(repeats), "--cores", str(cores), "--work"]
    command += [f"{prompt}+{new}" for prompt, new in work]
    for shape in shapes:
        sides = {}
        for name, python in (("ours", sys.executable), ("transformers", peer)):
            done = subprocess.run(
                [python, *command, "--only", shape, "--name", name],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            sides[name] = json.loads(done.stdout.splitlines()[-1])
        for name, seconds in sides["ours"].items():
            new = int(name.partition("+")[2])
            other = sides["transformers"][name]
            print(
                f"{shape:6} {name:>7}: ours {BATCH * new / seconds:,.0f} tokens/s, transformers "
                f"{BATCH * new / other:,.0f}: {other / seconds:.2f} times",
                flush=True,
            )


def training_step(
    shape: str, rank: int | None, batch: int, length: int, dtype: str, again: bool = False
) -> Any:
    """A compiled step of supervised fine-tuning, and what it is called with."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from actorcritic.language.data import Example, Sequences
    from actorcritic.language.model import Model
    from actorcritic.language.supervised import SFT, SFTSettings

    params, config = ours(shape, dtype)
    rows = [Example(np.ones(length, np.int32), np.ones(length, bool))] * batch
    settings = SFTSettings(
        batch_size=batch,
        total_steps=100,
        max_length=length,
        lora_rank=rank,
        rematerialise=again,
    )
    task = SFT(Model(params, config, None), rows, [], settings)  # type: ignore[arg-type]
    ones = jnp.ones((batch, length), jnp.int32)
    inputs = Sequences(ones, ones > 0, ones > 0)
    learner = jax.jit(task.init)()
    frozen = None if rank is None else params
    compiled = task._update.lower(learner, frozen, inputs, 0).compile()
    return compiled, learner, frozen, inputs, sum(x.size for x in jax.tree.leaves(params))


def training_rows(shapes: list[str], dtype: str) -> None:
    import jax

    device = jax.devices()[0]
    peak = next((p for name, p in PEAK.items() if name in device.device_kind), None)
    for shape in shapes:
        batch, length = (8, 128) if device.platform == "cpu" else (32, 512)
        for rank in (None, 8):
            step, learner, frozen, inputs, size = training_step(shape, rank, batch, length, dtype)
            seconds = []
            for _ in range(4):
                start = time.perf_counter()
                learner, metrics = step(learner, frozen, inputs, 0)
                jax.block_until_ready(metrics)
                seconds.append(time.perf_counter() - start)
            rate = batch * length / min(seconds[1:])
            share = f", {rate * 6 * size / peak:.0%} of peak" if peak and rank is None else ""
            kind = "all parameters" if rank is None else f"LoRA of rank {rank}"
            print(f"{shape:6} {kind}: {rate:,.0f} tokens/s on {device.device_kind}{share}")


def memory_rows() -> None:
    """GPT-2 small's shape, 8 × 128 tokens: what XLA allocates, and the most the process held."""
    for task in ("sft", "ppo"):
        for rank in ("none", "none,again", "8", "8,again"):
            done = subprocess.run(
                [sys.executable, str(HERE), "one-memory", "--name", f"{task},{rank}"],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            print(done.stdout, end="", flush=True)


def ppo_update(rank: int | None, batch: int, length: int, again: bool) -> Any:
    """A compiled update of PPO on responses of half the length, and what it is called with."""
    import jax
    import jax.numpy as jnp

    from actorcritic.language.model import Model
    from actorcritic.language.policy import Experience
    from actorcritic.language.ppo_on_tokens import PPO
    from actorcritic.language.tuning import PPOTask

    params, config = ours("gpt2")
    half = length // 2
    settings = PPO(
        batch_size=batch, lora_rank=rank, rematerialise=again, max_new_tokens=half, num_epochs=1
    )
    task = PPOTask(Model(params, config, None), None, None, [""], [[1]], settings)  # type: ignore[arg-type]
    ones = jnp.ones((batch, half), jnp.int32)
    numbers = jnp.zeros((batch, half))
    of = Experience(ones, ones > 0, ones, ones > 0, ones[:, 0] > 0, numbers, numbers[:, 0])
    rest = (task._fixed, of, jax.random.key(0), jnp.float32(0))
    learner = jax.jit(task.init)()
    return task._updated.lower(learner, *rest).compile(), learner, rest


def one_memory(name: str) -> None:
    import jax

    task, rank_name, *more = name.split(",")
    rank, again = None if rank_name == "none" else int(rank_name), bool(more)
    if task == "sft":
        step, learner, *rest, _ = training_step("gpt2", rank, 8, 128, "float32", again)
        rest = [*rest, 0]
    else:
        step, learner, rest = ppo_update(rank, 8, 128, again)
    stats = step.memory_analysis()
    held = stats.argument_size_in_bytes + stats.temp_size_in_bytes
    held += stats.output_size_in_bytes - stats.alias_size_in_bytes
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        learner, metrics = step(learner, *rest)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    kind = "all parameters" if rank is None else f"LoRA of rank {rank}"
    kind += ", rematerialised" * again
    print(
        f"{task}, {kind}: {held / 2**20:,.0f} MiB by XLA, {peak / 2**20:,.0f} MiB at most in the "
        f"process, {min(seconds[1:]):.1f} s a step"
    )


# ------------------------------------------------------------------------------ beside TRL

BATCH_TUNING, PROMPT, NEW, EPOCHS = 32, 16, 48, 4


def write_tuning(folder: Path, model: str, cores: int, critic: str) -> None:
    """A model, a reward model, prompts and pairs that both sides read."""
    import jax
    import numpy as np

    from actorcritic.language.model import Model
    from actorcritic.language.reward_model import RewardModel, new_head

    draw = np.random.default_rng(0)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    words = ["".join(draw.choice(letters, 2 if i < 200 else 6)) for i in range(2000)]
    texts = [" ".join(draw.choice(words[:200], 50)) for _ in range(400)] + [" ".join(words)] * 2
    made = Model.load(model, texts=texts)
    made.save(folder / "model")
    head = new_head(jax.random.key(1), made.config.hidden_size)["kernel"]
    RewardModel(made, head).save(folder / "reward")
    short = [f" {word}" for word in words[:200]]
    tokens = made.tokenizer.encode(short, special=False)
    whole = [word for word, ids in zip(short, tokens, strict=True) if len(ids) == 1]

    def text(count: int) -> str:  # of so many tokens, but for the one that begins or ends it
        return "".join(draw.choice(whole, count))

    asked = [text(PROMPT - 1) for _ in range(8 * BATCH_TUNING)]
    pairs = [{"prompt": p, "chosen": text(NEW - 1), "rejected": text(NEW - 1)} for p in asked]
    rows = made.tokenizer.encode(asked)
    assert {len(row) for row in rows} == {PROMPT}
    settings = {"batch": BATCH_TUNING, "new": NEW, "epochs": EPOCHS, "cores": cores}
    settings |= {"critic": critic, "size": made.size}
    for name, value in {"prompts": rows, "pairs": pairs, "settings": settings}.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


def tuning_side(what: str, folder: Path) -> None:
    """Our side: for each line on the standard input a step, and its seconds on the output."""
    import dataclasses

    import jax

    from actorcritic.language import tuning
    from actorcritic.language.dpo_on_pairs import DPO
    from actorcritic.language.model import Model
    from actorcritic.language.pairs import pairs_of
    from actorcritic.language.ppo_on_tokens import PPO
    from actorcritic.language.reward_model import RewardModel

    model = Model.load(folder / "model")
    shared: dict[str, Any] = {"batch_size": BATCH_TUNING, "total_steps": 1000, "quiet": True}
    task: Any
    if what == "ppo":
        config = model.config.with_tokens(model.config.bos, (), model.config.pad)  # none ends early
        rows = json.loads((folder / "prompts.json").read_text())
        settings = PPO(**shared, max_new_tokens=NEW, num_epochs=EPOCHS, no_end_score=None)
        prompts = model.tokenizer.decode(rows)
        reward = RewardModel.load(folder / "reward")
        model = dataclasses.replace(model, config=config)
        task = tuning.PPOTask(model, reward, None, prompts, rows, settings)
    else:
        found = DPO(**shared, evaluation_share=0.0)
        pairs = json.loads((folder / "pairs.json").read_text())
        task = tuning.DPOTask(model, pairs_of(model, pairs, None, found), None, found)
    learner, number = jax.jit(task.init)(), 0
    while sys.stdin.readline():
        start = time.perf_counter()
        learner, metrics = task.step(learner, number)
        jax.block_until_ready((learner, metrics))
        number += 1
        print(time.perf_counter() - start, flush=True)


def tuning_rows(
    what: str, model: str, peer: str, repeats: int, cores: int, critic: str, warm: int = 2
) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tuning(folder, model, cores, critic)
        size = json.loads((folder / "settings.json").read_text())["size"]
        commands = (
            [sys.executable, str(HERE), "tuning-side", what, "--folder", name],
            [peer, str(HERE.parent / "peers" / "trl_train.py"), what, name],
        )
        sides = []
        for command in commands:
            pipe = subprocess.PIPE
            sides.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        seconds: list[list[float]] = [[], []]
        for _ in range(warm + repeats):
            for side, own in zip(sides, seconds, strict=True):
                assert side.stdin is not None
                assert side.stdout is not None
                side.stdin.write("\n")
                side.stdin.flush()
                own.append(float(side.stdout.readline()))
        for side in sides:
            assert side.stdin is not None
            side.stdin.close()
            side.wait()
    mine, theirs = (own[warm:] for own in seconds)
    ratio = [b / a for a, b in zip(mine, theirs, strict=True)]
    of = f"{what}, {size / 1e6:.1f}M parameters, {BATCH_TUNING} × ({PROMPT} + {NEW}) tokens"
    of += f", critic {critic}" if what == "ppo" else ""
    print(
        f"{of}, {cores} cores: ours {statistics.median(mine):.3f} s, TRL "
        f"{statistics.median(theirs):.3f} s: {statistics.median(ratio):.2f} times "
        f"({min(ratio):.2f} to {max(ratio):.2f} in {repeats} pairs)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    what = ("generation", "training", "memory", "tuning", "side", "one-memory", "tuning-side")
    parser.add_argument("what", choices=what)
    parser.add_argument("algorithm", nargs="?", choices=("ppo", "dpo"), help="of tuning")
    parser.add_argument("--peer", help="the Python of an environment with transformers")
    parser.add_argument("--only", choices=("small", "gpt2"))
    parser.add_argument("--work", nargs="+", help="tokens of prompts + new tokens, as 64+64")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cores", type=int, help="default: 1; for tuning 2")
    parser.add_argument("--model", default="new:small", help="of tuning")
    parser.add_argument("--critic", choices=("full", "small"), default="full")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--name", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cores = options.cores or (2 if options.what == "tuning" else 1)
    work = WORK
    if options.work:
        work = [(int(a), int(b)) for a, b in (w.split("+") for w in options.work)]
    shapes = [options.only] if options.only else ["small", "gpt2"]
    if options.what == "generation":
        if options.peer is None:
            parser.error("generation needs --peer PYTHON")
        generation_rows(shapes, work, options.peer, options.repeats, cores)
    elif options.what == "tuning":
        if options.peer is None or options.algorithm is None:
            parser.error("tuning needs ppo or dpo, and --peer PYTHON")
        tuning_rows(
            options.algorithm, options.model, options.peer, options.repeats, cores, options.critic
        )
    elif options.what == "tuning-side":
        tuning_side(options.algorithm, options.folder)
    elif options.what == "training":
        training_rows(shapes, options.dtype)
    elif options.what == "memory":
        memory_rows()
    elif options.what == "one-memory":
        one_memory(options.name)
    else:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        clock = time.process_time if cores == 1 else time.perf_counter
        if options.name == "ours":
            found = side_ours(shapes[0], work, clock, options.repeats)
        else:
            found = side_peer(shapes[0], work, clock, options.repeats, cores)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
