"""Losses, advantages and samplers over batches of tensors."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Categorical, Normal

MAX_ACTION = 2.0


class Batch(NamedTuple):
    states: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    next_states: torch.Tensor
    dones: torch.Tensor


@dataclass
class PPOBatch:
    log_probs: torch.Tensor
    old_log_probs: torch.Tensor
    advantages: torch.Tensor


class ActorCritic(nn.Module):
    def __init__(self, state_dim, action_dim, hidden=32):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(state_dim, hidden), nn.Tanh())
        self.actor = nn.Linear(hidden, action_dim)
        self.critic = nn.Linear(hidden, 1)

    def forward(self, states):
        x = self.body(states)
        return self.actor(x), self.critic(x)


def a2c_loss(logits, actions, values, returns):
    dist = Categorical(logits=logits)
    log_probs = dist.log_prob(actions)
    advantages = returns - values
    policy_loss = -(log_probs * advantages.detach()).mean()
    value_loss = advantages.pow(2).mean()
    entropy = dist.entropy().mean()
    return policy_loss + 0.5 * value_loss - 0.01 * entropy


def gaussian_a2c_loss(mean, log_std, actions, values, returns):
    dist = Normal(mean, log_std.exp())
    log_prob = dist.log_prob(actions).sum(dim=-1)
    entropy = dist.entropy().sum(dim=-1)
    with torch.no_grad():
        advantage = returns - values
    actor_loss = -log_prob * advantage
    critic_loss = F.mse_loss(values, returns)
    return actor_loss.mean() + 0.5 * critic_loss - 0.001 * entropy.mean()


def ppo_loss(batch, clip=0.2):
    dist = Categorical(logits=batch["logits"])
    log_probs = dist.log_prob(batch["actions"])
    adv = batch["advantages"]
    adv = (adv - adv.mean()) / (adv.std() + 1e-8)

    ratio = (log_probs - batch["old_log_probs"]).exp()
    surr1 = ratio * adv
    surr2 = torch.clamp(ratio, 1 - clip, 1 + clip) * adv
    actor_loss = -torch.min(surr1, surr2).mean()
    critic_loss = F.mse_loss(batch["values"], batch["returns"])
    return actor_loss + 0.5 * critic_loss - 0.01 * dist.entropy().mean()


def sample_squashed(mean, log_std):
    normal = Normal(mean, log_std.exp())
    x = normal.rsample()
    y = torch.tanh(x)
    action = MAX_ACTION * y
    log_prob = normal.log_prob(x) - torch.log(MAX_ACTION * (1 - y.pow(2)) + 1e-6)
    return action, log_prob.sum(-1)


def generalized_advantages(rewards, values, dones, last_value, gamma=0.99, lam=0.95):
    T = rewards.shape[0]
    advantages = torch.zeros_like(rewards)
    gae = torch.zeros_like(last_value)
    next_value = last_value
    for t in reversed(range(T)):
        mask = 1.0 - dones[t]
        delta = rewards[t] + gamma * next_value * mask - values[t]
        gae = delta + gamma * lam * mask * gae
        advantages[t] = gae
        next_value = values[t]
    return advantages, advantages + values


def actor_critic_loss(model, batch, gamma=0.99):
    logits, values = model(batch.states)
    values = values.squeeze(-1)
    with torch.no_grad():
        _, next_values = model(batch.next_states)
        targets = batch.rewards + gamma * next_values.squeeze(-1) * (1 - batch.dones)
    log_probs = F.log_softmax(logits, dim=-1)
    chosen = log_probs.gather(1, batch.actions.unsqueeze(1)).squeeze(1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    actor_loss = -chosen * (targets - values.detach())
    critic_loss = F.smooth_l1_loss(values, targets)
    return actor_loss.mean() + critic_loss - 0.01 * entropy.mean()


def actor_critic_objective(logits, actions, values, returns):
    log_probs = torch.log_softmax(logits, dim=1)
    probs = log_probs.exp()
    entropy = -(probs * log_probs).sum(dim=1).mean()
    taken = log_probs[torch.arange(len(actions)), actions]
    advantage = returns - values
    actor_loss = -(taken * advantage).mean()
    critic_loss = F.mse_loss(values, returns)
    return actor_loss + 0.5 * critic_loss - 0.01 * entropy


def gaussian_policy_loss(mean, log_std, actions, advantages):
    std = torch.exp(log_std)
    log_prob = -((actions - mean) ** 2) / (2 * std) - log_std - 0.5 * math.log(2 * math.pi)
    return -(log_prob.sum(dim=-1) * advantages).mean()


def clipped_surrogate(batch: PPOBatch, epsilon=0.2):
    ratio = torch.exp(batch.log_probs - batch.old_log_probs)
    loss1 = -ratio * batch.advantages
    loss2 = -ratio.clamp(1 - epsilon, 1 + epsilon) * batch.advantages
    return torch.min(loss1, loss2).mean()


def model_loss(model, states, actions, returns):
    logits, values = model(states)
    dist = Categorical(logits=logits)
    advantages = returns - values.detach().squeeze(-1)
    policy_loss = -(dist.log_prob(actions) * advantages).mean()
    value_loss = ((returns - values) ** 2).mean()
    return policy_loss + 0.5 * value_loss


def squashed_gaussian(mean, log_std):
    dist = Normal(mean, torch.exp(log_std))
    u = dist.rsample()
    action = 2.0 * torch.tanh(u)
    log_prob = dist.log_prob(action)
    log_prob = log_prob - torch.log(2.0 * (1 - torch.tanh(u) ** 2) + 1e-6)
    return action, log_prob.sum(dim=-1)


def continuous_loss(batch):
    mean, std, actions, advantages, values, returns = batch
    dist = Normal(mean, std)
    log_probs = dist.log_prob(actions).sum(-1)
    policy_loss = -(log_probs * advantages).mean()
    value_loss = 0.5 * (values - returns).pow(2).mean()
    entropy = dist.entropy().sum(-1).mean()
    return policy_loss + value_loss + 0.01 * entropy
