import gymnasium as gym
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Categorical

ITERATIONS = 300
HORIZON = 256
K_EPOCHS = 4
CLIP_EPS = 0.2
GAMMA = 0.99
LAM = 0.95


class PPONet(nn.Module):
    def __init__(self, state_dim, action_dim):
        super().__init__()
        self.fc = nn.Linear(state_dim, 64)
        self.fc_pi = nn.Linear(64, action_dim)
        self.fc_v = nn.Linear(64, 1)

    def pi(self, x):
        return Categorical(logits=self.fc_pi(torch.tanh(self.fc(x))))

    def v(self, x):
        return self.fc_v(torch.tanh(self.fc(x))).squeeze(-1)


def gae(rewards, values, next_values, dones, gamma=GAMMA, lam=LAM):
    advantages = torch.zeros_like(rewards)
    advantage = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        not_done = 1.0 - dones[t]
        delta = rewards[t] + gamma * not_done * next_values[t] - values[t]
        advantage = delta + gamma * lam * not_done * advantage
        advantages[t] = advantage
    return advantages


def update(model, optimizer, states, actions, advantages, returns):
    for _ in range(K_EPOCHS):
        dist = model.pi(states)
        log_probs = dist.log_prob(actions)
        old_log_probs = model.pi(states).log_prob(actions)
        ratio = torch.exp(log_probs - old_log_probs)
        surr1 = ratio * advantages
        surr2 = torch.clamp(ratio, 1 - CLIP_EPS, 1 + CLIP_EPS) * advantages
        policy_loss = -torch.min(surr1, surr2).mean()
        value_loss = F.smooth_l1_loss(model.v(states), returns)
        loss = policy_loss + 0.5 * value_loss - 0.01 * dist.entropy().mean()

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main():
    env = gym.make("CartPole-v1")
    model = PPONet(4, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    state, _ = env.reset()
    for _ in range(ITERATIONS):
        memory = []
        for _ in range(HORIZON):
            with torch.no_grad():
                action = model.pi(torch.as_tensor(state)).sample().item()
            next_state, reward, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
            memory.append((state, action, reward, next_state, float(done)))
            state = env.reset()[0] if done else next_state

        states, actions, rewards, next_states, dones = (
            torch.stack([torch.as_tensor(x) for x in column]) for column in zip(*memory)
        )
        with torch.no_grad():
            values, next_values = model.v(states), model.v(next_states)
        advantages = gae(rewards.float(), values, next_values, dones.float())
        update(model, optimizer, states, actions, advantages, advantages + values)


if __name__ == "__main__":
    main()
