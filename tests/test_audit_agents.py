"""Classes with a deterministic actor, and errors that only the gradients of rows tell apart."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from actorcritic import audit

pytestmark = pytest.mark.extras
TUTORIALS = Path(__file__).parent / "audit_tutorials" / "torch_classes"
TD3 = """
import copy
import torch
import torch.nn as nn
import torch.nn.functional as F

class Critic(nn.Module):
    def __init__(self, state_dim, action_dim):
        super().__init__()
        self.q = nn.Sequential(nn.Linear(state_dim + action_dim, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, state, action):
        return self.q(torch.cat([state, action], 1))

class TD3:
    def __init__(self, state_dim, action_dim):
        self.actor = nn.Sequential(nn.Linear(state_dim, action_dim), nn.Tanh())
        self.critics = [Critic(state_dim, action_dim) for _ in range(2)]
        self.targets = copy.deepcopy(self.critics)
        self.actor_target = copy.deepcopy(self.actor)
        parameters = [p for critic in self.critics for p in critic.parameters()]
        self.critic_optimizer = torch.optim.Adam(parameters, lr=1e-3)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=1e-3)

    def select_action(self, state):
        return self.actor(torch.as_tensor(state)).detach().numpy()

    def train(self, states, actions, rewards, next_states, dones):
        s, a, after = (torch.as_tensor(x) for x in (states, actions, next_states))
        r, d = (torch.as_tensor(x).unsqueeze(1) for x in (rewards, dones))
        with torch.no_grad():
            noise = (0.2 * torch.randn_like(a)).clamp(-0.5, 0.5)
            next_actions = (self.actor_target(after) + noise).clamp(-1, 1)
            q = torch.min(*(target(after, next_actions) for target in self.targets))
            y = r + 0.99 * (1 - d) * q
        loss = sum(F.mse_loss(critic(s, a), y) for critic in self.critics)
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        actor_loss = -self.critics[0](s, self.actor(s)).mean()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()
"""


def failed(path: Path, text: str, name: str) -> list[str]:
    pytest.importorskip("torch")
    path.write_text(text)
    report = audit.of(f"{path}:{name}")
    assert report.judged, str(report)
    return [finding.check for finding in report.findings]


@pytest.mark.parametrize(
    ("right", "wrong", "check"),
    [
        ("", "", None),
        ("actor_loss = -self", "actor_loss = self", "policy-sign"),
        ("torch.min", "torch.max", "soft-target"),
        ("(1 - d) * q", "q", "termination-drops-bootstrap"),
    ],
)
def test_a_deterministic_actor(tmp_path, right, wrong, check):
    text = TD3.replace(right, wrong)
    assert failed(tmp_path / "td3.py", text, "TD3") == ([check] if check else [])


NORMALISED = "(advantages - advantages.mean()) / (advantages.std(unbiased=False) + 1e-8)"
RATIO = "torch.exp(log_probs - old_log_probs)"


@pytest.mark.parametrize(
    ("file", "name", "changes", "check"),
    [
        ("ppo_continuous.py", "PPO",
         {NORMALISED: "advantages", RATIO: "torch.exp((log_probs - old_log_probs).mean())"},
         "ratio-per-sample"),
        ("a2c_shared.py", "A2CAgent", {"advantages.pow(2).mean()": "advantages.mean().pow(2)"},
         "value-loss"),
        ("advantage_actor_critic.py", "Agent", {}, "bootstrap-from-true-successor"),
    ],
)  # fmt: skip
def test_one_cause_is_told_once(tmp_path, file, name, changes, check):
    text = (TUTORIALS / file).read_text()
    for right, wrong in changes.items():
        assert right in text
        text = text.replace(right, wrong)
    assert failed(tmp_path / file, text, name) == [check]


def test_the_compiler_is_there_for_who_wants_it(tmp_path):
    """PyTorch's optimisers import it for nothing; code that does use it finds it."""
    text = (TUTORIALS / "a2c_shared.py").read_text()
    uses = "import torch._dynamo.config\n        torch._dynamo.config.cache_size_limit\n        "
    first = "self.gamma = gamma"
    assert not failed(tmp_path / "a2c.py", text.replace(first, uses + first), "A2CAgent")
    assert importlib.util.find_spec("torch._dynamo.utils") is not None
