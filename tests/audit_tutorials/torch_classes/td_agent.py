import torch
import torch.nn as nn
from torch.distributions import Categorical


def mlp(sizes):
    layers = []
    for i in range(len(sizes) - 1):
        layers.append(nn.Linear(sizes[i], sizes[i + 1]))
        if i < len(sizes) - 2:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class TDActorCritic:
    def __init__(self, state_dim, action_dim, gamma=0.99, lr_actor=1e-3, lr_critic=1e-3):
        self.gamma = gamma
        self.actor = mlp([state_dim, 64, action_dim])
        self.critic = mlp([state_dim, 64, 1])
        self.optim_actor = torch.optim.Adam(self.actor.parameters(), lr=lr_actor)
        self.optim_critic = torch.optim.Adam(self.actor.parameters(), lr=lr_critic)

    def select_action(self, state):
        state = torch.FloatTensor(state)
        return Categorical(logits=self.actor(state)).sample().item()

    def update(self, state, action, reward, next_state, done):
        state = torch.FloatTensor(state)
        next_state = torch.FloatTensor(next_state)

        with torch.no_grad():
            target = reward + self.gamma * self.critic(next_state) * (1 - int(done))
        value = self.critic(state)
        critic_loss = (target - value).pow(2).mean()
        self.optim_critic.zero_grad()
        critic_loss.backward()
        self.optim_critic.step()

        advantage = (target - value).detach()
        log_prob = Categorical(logits=self.actor(state)).log_prob(torch.tensor(action))
        actor_loss = -(log_prob * advantage).mean()
        self.optim_actor.zero_grad()
        actor_loss.backward()
        self.optim_actor.step()
