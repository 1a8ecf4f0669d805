"""The 60 tutorials that the audit is held to are programs that run; expected.py names them all."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent / "audit_tutorials"


def load(file):
    """The module of a file in the folder, fresh."""
    name = "audit_tutorials_" + file.removesuffix(".py").replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, FOLDER / file)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXPECTED = load("expected.py")
STYLES = ("NUMPY_LISTS", "TORCH_SCALARS", "TORCH_BATCHES", "TORCH_CLASSES", "SCRIPTS")
N, STATE, ACTION = 6, 3, 2


@pytest.fixture
def torch():
    module = pytest.importorskip("torch")
    module.manual_seed(0)
    return module


def names(style):
    return [subject.name for subject in getattr(EXPECTED, style)]


def files(style):
    return [subject.file for subject in getattr(EXPECTED, style)]


def test_half_of_each_style_is_wrong_in_one_way():
    for style in STYLES:
        subjects = getattr(EXPECTED, style)
        wrong = [subject for subject in subjects if subject.verdict == "wrong"]
        assert (len(subjects), len(wrong)) == (12, 6), style
    for subject in EXPECTED.SUBJECTS:
        assert bool(subject.cause) == bool(subject.words) == (subject.verdict != "right"), subject
    listed = {subject.file for subject in EXPECTED.SUBJECTS} | {"expected.py"}
    assert listed == {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.py")}


@pytest.mark.parametrize("name", names("NUMPY_LISTS"))
def test_numpy_lists(name):
    rewards, values, after = ([float(k * s) for k in range(1, 7)] for s in (1, 2, 3))
    dones = [False, False, True, False, False, False]
    memory = [(0, 0, *row) for row in zip(rewards, values, dones, strict=True)]
    arguments = {
        "rewards_to_go": (rewards, dones),
        "compute_gae": (rewards, values, dones, 1.0),
        "td_target": (1.0, 2.0, False),
        "process_memory": (memory, 1.0),
        "calculate_returns": (rewards, dones),
        "gae_advantages": (rewards, values, dones, 1.0),
        "n_step_targets": (rewards, after, dones),
        "compute_advantages": (memory,),
    }
    result = getattr(load(EXPECTED.LISTS), name)(*arguments.get(name, (rewards,)))
    assert np.all(np.isfinite(result))


@pytest.mark.extras
@pytest.mark.parametrize("name", names("TORCH_SCALARS"))
def test_torch_scalars(name, torch):
    module = load(EXPECTED.SCALARS)

    def number():
        return torch.randn(()).requires_grad_()

    if name in ("select_action", "choose_action"):
        state, policy = np.zeros(STATE, np.float32), module.PolicyNetwork(STATE, ACTION)
        action, log_prob = getattr(module, name)(state, policy)
        assert action in (0, 1)
        loss = log_prob.sum()
    else:
        log_probs, rewards = [number() for _ in range(N)], [1.0, 0.5, -1.0, 2.0, 0.0, 1.0]
        step = (number(), number(), number(), 1.0, False)
        arguments = {
            "finish_episode": ([module.SavedAction(x, number()) for x in log_probs], rewards),
            "transition_loss": (number().repeat(3).softmax(0), 1, number(), 2.0),
            "step_loss": (torch.randn(3, requires_grad=True), 1, 0.5),
            **dict.fromkeys(
                ("reinforce_loss", "episode_policy_loss", "policy_gradient_loss"),
                (log_probs, rewards),
            ),
        }
        loss = getattr(module, name)(*arguments.get(name, step))
        loss = sum(loss) if isinstance(loss, tuple) else loss
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.extras
@pytest.mark.parametrize("name", names("TORCH_BATCHES"))
def test_torch_batches(name, torch):
    module = load(EXPECTED.BATCHES)

    def batch(*shape):
        return torch.randn(*shape, requires_grad=True)

    actions, flat = torch.randint(ACTION, (N,)), [batch(N) for _ in range(4)]
    flags = (torch.rand(N, 2) < 0.3).float()
    model = module.ActorCritic(STATE, ACTION)
    logits, mean, log_std, drawn, states = (batch(N, k) for k in (2, 2, 2, 2, STATE))
    rows = {
        "logits": logits, "actions": actions, "old_log_probs": flat[0], "advantages": flat[1],
        "values": flat[2], "returns": flat[3],
    }  # fmt: skip
    arguments = {
        "a2c_loss": (logits, actions, *flat[:2]),
        "gaussian_a2c_loss": (mean, log_std, drawn, *flat[:2]),
        "ppo_loss": (rows,),
        "sample_squashed": (mean, log_std),
        "generalized_advantages": (batch(N, 2), batch(N, 2), flags, batch(2)),
        "actor_critic_loss": (model, module.Batch(states, actions, flat[0], states, flags[:, 0])),
        "actor_critic_objective": (logits, actions, *flat[:2]),
        "gaussian_policy_loss": (mean, log_std, drawn, flat[0]),
        "clipped_surrogate": (module.PPOBatch(*flat[:3]),),
        "model_loss": (model, states, actions, flat[0]),
        "squashed_gaussian": (mean, log_std),
        "continuous_loss": ((mean, log_std.exp(), drawn, *flat[:3]),),
    }
    result = getattr(module, name)(*arguments[name])
    for x in result if isinstance(result, tuple) else (result,):
        x.sum().backward(retain_graph=True)
        assert torch.isfinite(x).all()


@pytest.mark.extras
@pytest.mark.parametrize("file", files("TORCH_CLASSES"))
def test_torch_classes(file, torch):
    """An agent is built, acts, and learns twice."""
    (subject,) = (x for x in EXPECTED.TORCH_CLASSES if x.file == file)
    agent = getattr(load(file), subject.name)(STATE, ACTION)
    networks = [x for x in vars(agent).values() if isinstance(x, torch.nn.Module)]
    before = [p.detach().clone() for network in networks for p in network.parameters()]

    act = next(
        getattr(agent, k)
        for k in ("select_action", "choose_action", "get_action", "act")
        if hasattr(agent, k)
    )
    states = np.random.default_rng(0).normal(size=(N + 1, STATE)).astype(np.float32)
    outcomes = [act(state) for state in states[:N]]
    actions, log_probs = zip(
        *(x if isinstance(x, tuple) else (x, -1.0) for x in outcomes), strict=True
    )
    actions = np.array(actions)
    rewards, dones = np.linspace(-1, 1, N, dtype=np.float32), np.eye(N, dtype=np.float32)[2]
    here, there = states[:N], states[1:]
    transitions = (here, actions, rewards, there, dones)
    for _ in range(2):
        match subject.name:
            case "REINFORCE":
                [act(state) for state in here[len(agent.log_probs) :]]
                agent.update(list(map(float, rewards)))
            case "ActorCriticAgent":
                agent.learn(here[0], actions[0], 1.0, there[0], False)
            case "TDActorCritic":
                agent.update(here[0], actions[0], 1.0, there[0], False)
            case "PPO":
                agent.update(here, actions, log_probs, rewards, rewards)
            case "PPOAgent" | "GaussianPPO":
                agent.update(here, actions, log_probs, rewards)
            case "ContinuousA2C":
                agent.train_step(here, actions, rewards)
            case "VPGAgent":
                agent.update(here, actions, rewards)
            case "Agent":
                agent.train(*transitions)
            case "SoftActorCritic":
                agent.update(*(torch.as_tensor(x) for x in transitions))
            case "A2CAgent" | "SAC":
                agent.update(*transitions)
    after = [p for network in networks for p in network.parameters()]
    assert all(torch.isfinite(p).all() for p in after)
    assert any((a != b).any() for a, b in zip(after, before, strict=True))


SHORT = {
    "EPISODES": 2, "NUM_EPISODES": 2, "MAX_EPISODES": 2, "NUM_UPDATES": 2, "UPDATES": 2,
    "ITERATIONS": 2, "STEPS_PER_ITERATION": 256, "TOTAL_STEPS": 140, "START_STEPS": 130,
    "STEPS": 70, "WARMUP": 66,
}  # fmt: skip


@pytest.mark.extras
@pytest.mark.parametrize("file", files("SCRIPTS"))
def test_scripts(file, torch, monkeypatch):
    """Imports and trains for a moment."""
    script = load(file)
    for name, few in SHORT.items():
        if hasattr(script, name):
            monkeypatch.setattr(script, name, few)
    if hasattr(script, "main"):
        script.main()
    else:
        assert torch.isfinite(torch.as_tensor(script.loss))
