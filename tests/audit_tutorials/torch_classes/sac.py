import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Normal


class Actor(nn.Module):
    def __init__(self, state_dim, action_dim, max_action, hidden=64):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(state_dim, hidden), nn.ReLU())
        self.mu = nn.Linear(hidden, action_dim)
        self.log_std = nn.Linear(hidden, action_dim)
        self.max_action = max_action

    def sample(self, state):
        x = self.body(state)
        std = self.log_std(x).clamp(-20, 2).exp()
        normal = Normal(self.mu(x), std)
        u = normal.rsample()
        squashed = torch.tanh(u)
        log_prob = normal.log_prob(u)
        log_prob = log_prob - torch.log(self.max_action * (1 - squashed.pow(2)) + 1e-6)
        return squashed * self.max_action, log_prob.sum(1, keepdim=True)


class QNetwork(nn.Module):
    def __init__(self, state_dim, action_dim, hidden=64):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(state_dim + action_dim, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, state, action):
        return self.net(torch.cat([state, action], dim=1))


class SAC:
    def __init__(self, state_dim, action_dim, max_action=1.0, alpha=0.2, gamma=0.99, tau=0.005):
        self.actor = Actor(state_dim, action_dim, max_action)
        self.q1 = QNetwork(state_dim, action_dim)
        self.q2 = QNetwork(state_dim, action_dim)
        self.q1_target = copy.deepcopy(self.q1)
        self.q2_target = copy.deepcopy(self.q2)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=3e-4)
        self.critic_optimizer = torch.optim.Adam(
            list(self.q1.parameters()) + list(self.q2.parameters()), lr=3e-4
        )
        self.alpha = alpha
        self.gamma = gamma
        self.tau = tau

    def select_action(self, state):
        state = torch.FloatTensor(state).unsqueeze(0)
        with torch.no_grad():
            action, _ = self.actor.sample(state)
        return action.squeeze(0).numpy()

    def update(self, states, actions, rewards, next_states, dones):
        states = torch.as_tensor(states, dtype=torch.float32)
        actions = torch.as_tensor(actions, dtype=torch.float32)
        rewards = torch.as_tensor(rewards, dtype=torch.float32).unsqueeze(1)
        next_states = torch.as_tensor(next_states, dtype=torch.float32)
        dones = torch.as_tensor(dones, dtype=torch.float32).unsqueeze(1)

        with torch.no_grad():
            next_actions, next_log_probs = self.actor.sample(next_states)
            next_q = torch.min(
                self.q1_target(next_states, next_actions),
                self.q2_target(next_states, next_actions),
            )
            target = rewards + self.gamma * (1 - dones) * (next_q - self.alpha * next_log_probs)

        critic_loss = F.mse_loss(self.q1(states, actions), target)
        critic_loss = critic_loss + F.mse_loss(self.q2(states, actions), target)
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()

        new_actions, log_probs = self.actor.sample(states)
        q = torch.min(self.q1(states, new_actions), self.q2(states, new_actions))
        actor_loss = (self.alpha * log_probs - q).mean()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()

        for net, target_net in ((self.q1, self.q1_target), (self.q2, self.q2_target)):
            for p, target_p in zip(net.parameters(), target_net.parameters()):
                target_p.data.copy_(self.tau * p.data + (1 - self.tau) * target_p.data)
