import torch
import torch.nn as nn
import torch.nn.functional as F


class TwoHeads(nn.Module):
    def __init__(self, input_dim, output_dim):
        super().__init__()
        self.layer1 = nn.Linear(input_dim, 64)
        self.layer2 = nn.Linear(64, 64)
        self.actor = nn.Linear(64, output_dim)
        self.critic = nn.Linear(64, 1)

    def forward(self, state):
        x = torch.relu(self.layer1(state))
        x = torch.relu(self.layer2(x))
        return torch.softmax(self.actor(x), dim=-1), self.critic(x)


class Agent:
    def __init__(self, state_dim, action_dim, learning_rate=1e-3, gamma=0.99):
        self.network = TwoHeads(state_dim, action_dim)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate)
        self.gamma = gamma

    def get_action(self, state):
        probs, _ = self.network(torch.tensor(state, dtype=torch.float32))
        return torch.distributions.Categorical(probs).sample().item()

    def train(self, states, actions, rewards, next_states, dones):
        states = torch.as_tensor(states, dtype=torch.float32)
        actions = torch.as_tensor(actions, dtype=torch.int64).view(-1, 1)
        rewards = torch.as_tensor(rewards, dtype=torch.float32).view(-1, 1)
        next_states = torch.as_tensor(next_states, dtype=torch.float32)
        dones = torch.as_tensor(dones, dtype=torch.float32).view(-1, 1)

        probs, values = self.network(states)
        with torch.no_grad():
            _, next_values = self.network(states)
            targets = rewards + self.gamma * next_values * (1 - dones)
        advantages = targets - values.detach()

        log_probs = torch.log(probs.gather(1, actions))
        actor_loss = -(log_probs * advantages).mean()
        critic_loss = F.mse_loss(values, targets)

        self.optimizer.zero_grad()
        (actor_loss + critic_loss).backward()
        self.optimizer.step()
