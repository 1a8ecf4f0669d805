"""One state, one transition, one episode as a list: losses in PyTorch, number by number."""

from collections import namedtuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Categorical

SavedAction = namedtuple("SavedAction", ["log_prob", "value"])


class PolicyNetwork(nn.Module):
    def __init__(self, state_dim, action_dim, hidden=32):
        super().__init__()
        self.fc1 = nn.Linear(state_dim, hidden)
        self.fc2 = nn.Linear(hidden, action_dim)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        return F.softmax(self.fc2(x), dim=-1)


def actor_critic_step(log_prob, value, next_value, reward, done, gamma=0.99):
    if done:
        target = reward
    else:
        target = reward + gamma * next_value.detach()
    td_error = target - value
    actor_loss = -log_prob * td_error.detach()
    critic_loss = td_error**2
    return actor_loss + critic_loss


def reinforce_loss(log_probs, rewards, gamma=0.99):
    G = 0
    returns = []
    for r in rewards[::-1]:
        G = r + gamma * G
        returns.insert(0, G)

    policy_loss = []
    for log_prob, G in zip(log_probs, returns):
        policy_loss.append(-log_prob * G)
    return torch.stack(policy_loss).sum()


def finish_episode(saved_actions, rewards, gamma=0.99):
    R = 0
    returns = []
    for r in reversed(rewards):
        R = r + gamma * R
        returns.insert(0, R)
    returns = torch.tensor(returns)
    returns = (returns - returns.mean()) / (returns.std() + 1e-7)

    policy_losses = []
    value_losses = []
    for (log_prob, value), R in zip(saved_actions, returns):
        advantage = R - value.item()
        policy_losses.append(-log_prob * advantage)
        value_losses.append(F.smooth_l1_loss(value, R))
    return torch.stack(policy_losses).sum() + torch.stack(value_losses).sum()


def episode_policy_loss(log_probs, rewards, gamma=0.99):
    loss = 0
    for t in range(len(rewards)):
        G = 0.0
        for k in range(t, len(rewards)):
            G += gamma ** (k - t) * rewards[k]
        loss = loss - gamma**t * G * log_probs[t]
    return loss


def select_action(state, policy_net):
    state = torch.from_numpy(state).float().unsqueeze(0)
    probs = policy_net(state)
    m = Categorical(probs)
    action = m.sample()
    return action.item(), m.log_prob(action)


def transition_loss(probs, action, value, target):
    log_prob = torch.log(probs[action])
    entropy = -(probs * torch.log(probs)).sum()
    advantage = target - value.item()
    actor_loss = -log_prob * advantage
    critic_loss = 0.5 * (target - value) ** 2
    return actor_loss + critic_loss - 0.01 * entropy


def td_loss(log_prob, value, next_value, reward, done, gamma=0.99):
    next_value = 0.0 if done else next_value.detach()
    delta = reward + gamma * next_value - value
    policy_loss = -log_prob * delta
    value_loss = delta.pow(2)
    return policy_loss + value_loss


def compute_losses(log_prob, value, next_value, reward, done, gamma=0.99):
    with torch.no_grad():
        target = reward + gamma * next_value * (1 - int(done))
    actor_loss = -log_prob * target
    critic_loss = F.mse_loss(value, target)
    return actor_loss, critic_loss


def step_loss(logits, action, advantage):
    dist = Categorical(logits=logits)
    log_prob = dist.log_prob(torch.as_tensor(action))
    entropy = dist.entropy().item()
    return -log_prob * advantage - 0.01 * entropy


def actor_and_critic_loss(log_prob, value, next_value, reward, done, gamma=0.99):
    if done:
        next_value = torch.zeros_like(next_value)
    target = reward + gamma * next_value
    advantage = (target - value).detach()
    actor_loss = -(log_prob * advantage)
    critic_loss = (target - value).pow(2)
    return actor_loss, critic_loss


def choose_action(state, policy_net):
    state = torch.tensor(state, dtype=torch.float32)
    dist = Categorical(probs=policy_net(state))
    action = dist.sample().item()
    log_prob = dist.log_prob(dist.sample())
    return action, log_prob


def policy_gradient_loss(log_probs, rewards, gamma=0.99):
    losses = []
    G = 0.0
    for log_prob, reward in zip(log_probs, reversed(rewards)):
        G = reward + gamma * G
        losses.append(-log_prob * G)
    return torch.stack(losses).sum()
