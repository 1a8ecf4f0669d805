import torch
import torch.nn as nn
import torch.nn.functional as F


class Actor(nn.Module):
    def __init__(self, state_dim, action_dim):
        super().__init__()
        self.fc1 = nn.Linear(state_dim, 64)
        self.fc2 = nn.Linear(64, action_dim)

    def forward(self, state):
        return F.softmax(self.fc2(torch.tanh(self.fc1(state))), dim=-1)


class Critic(nn.Module):
    def __init__(self, state_dim):
        super().__init__()
        self.fc1 = nn.Linear(state_dim, 64)
        self.fc2 = nn.Linear(64, 1)

    def forward(self, state):
        return self.fc2(torch.tanh(self.fc1(state)))


class ActorCriticAgent:
    def __init__(self, state_dim, action_dim, actor_lr=1e-3, critic_lr=5e-3, gamma=0.99):
        self.actor = Actor(state_dim, action_dim)
        self.critic = Critic(state_dim)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=actor_lr)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=critic_lr)
        self.gamma = gamma

    def choose_action(self, state):
        state = torch.tensor(state, dtype=torch.float32)
        probs = self.actor(state)
        return torch.multinomial(probs, 1).item()

    def learn(self, state, action, reward, next_state, done):
        state = torch.tensor(state, dtype=torch.float32)
        next_state = torch.tensor(next_state, dtype=torch.float32)

        value = self.critic(state)
        next_value = self.critic(next_state).detach()
        td_target = reward + (0 if done else self.gamma * next_value)
        td_error = td_target - value

        log_prob = torch.log(self.actor(state)[action])
        actor_loss = -log_prob * td_error.detach()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()

        critic_loss = td_error.pow(2)
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()
