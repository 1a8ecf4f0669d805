import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Categorical


class ActorCritic(nn.Module):
    def __init__(self, state_dim, action_dim, hidden=64):
        super().__init__()
        self.fc = nn.Linear(state_dim, hidden)
        self.policy_head = nn.Linear(hidden, action_dim)
        self.value_head = nn.Linear(hidden, 1)

    def forward(self, x):
        x = F.relu(self.fc(x))
        return self.policy_head(x), self.value_head(x).squeeze(-1)


class A2CAgent:
    def __init__(self, state_dim, action_dim, lr=7e-4, gamma=0.99):
        self.gamma = gamma
        self.entropy_coef = 0.01
        self.value_coef = 0.5
        self.model = ActorCritic(state_dim, action_dim)
        self.optimizer = torch.optim.RMSprop(self.model.parameters(), lr=lr)

    def select_action(self, state):
        with torch.no_grad():
            logits, _ = self.model(torch.FloatTensor(state).unsqueeze(0))
        return Categorical(logits=logits).sample().item()

    def update(self, states, actions, rewards, next_states, dones):
        states = torch.FloatTensor(np.array(states))
        actions = torch.LongTensor(np.array(actions))
        rewards = torch.FloatTensor(np.array(rewards))
        next_states = torch.FloatTensor(np.array(next_states))
        dones = torch.FloatTensor(np.array(dones))

        logits, values = self.model(states)
        with torch.no_grad():
            _, next_values = self.model(next_states)
        targets = rewards + self.gamma * next_values * (1 - dones)
        advantages = targets - values

        dist = Categorical(logits=logits)
        actor_loss = -(dist.log_prob(actions) * advantages.detach()).mean()
        critic_loss = advantages.pow(2).mean()
        entropy = dist.entropy().mean()
        loss = actor_loss + self.value_coef * critic_loss - self.entropy_coef * entropy

        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()
