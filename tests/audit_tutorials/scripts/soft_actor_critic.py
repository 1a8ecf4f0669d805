"""Soft actor-critic on Pendulum."""

import copy

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn

STEPS = 10_000
WARMUP = 500
BATCH = 64
gamma, alpha, tau = 0.99, 0.2, 0.01


class Pi(nn.Module):
    def __init__(self, obs_dim, act_dim, act_limit):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(obs_dim, 64), nn.ReLU(), nn.Linear(64, 2 * act_dim))
        self.act_limit = act_limit

    def forward(self, obs):
        mu, log_std = self.net(obs).chunk(2, dim=-1)
        dist = torch.distributions.Normal(mu, log_std.clamp(-5, 2).exp())
        raw = dist.rsample()
        squashed = raw.tanh()
        logp = dist.log_prob(raw) - torch.log(self.act_limit * (1 - squashed**2) + 1e-6)
        return self.act_limit * squashed, logp.sum(dim=-1)


class Q(nn.Module):
    def __init__(self, obs_dim, act_dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(obs_dim + act_dim, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, obs, act):
        return self.net(torch.cat((obs, act), dim=-1)).squeeze(-1)


class Replay:
    def __init__(self):
        self.rows = []

    def add(self, *row):
        self.rows.append(row)

    def batch(self, size):
        chosen = np.random.randint(len(self.rows), size=size)
        columns = zip(*[self.rows[i] for i in chosen])
        return [torch.as_tensor(np.stack(column), dtype=torch.float32) for column in columns]


def update_critics(pi, q1, q2, q1_targ, q2_targ, q_optimizer, obs, act, rew, next_obs, term):
    with torch.no_grad():
        next_act, next_logp = pi(next_obs)
        q_next = torch.min(q1_targ(next_obs, next_act), q2_targ(next_obs, next_act))
        backup = rew + gamma * (1 - term) * (q_next - alpha * next_logp)
    loss = ((q1(obs, act) - backup) ** 2).mean() + ((q2(obs, act) - backup) ** 2).mean()
    q_optimizer.zero_grad()
    loss.backward()
    q_optimizer.step()


def update_actor(pi, q1, q2, pi_optimizer, obs):
    act, logp = pi(obs)
    with torch.no_grad():
        q = torch.min(q1(obs, act), q2(obs, act))
    loss = (alpha * logp - q).mean()
    pi_optimizer.zero_grad()
    loss.backward()
    pi_optimizer.step()


def main():
    env = gym.make("Pendulum-v1")
    pi = Pi(3, 1, 2.0)
    q1, q2 = Q(3, 1), Q(3, 1)
    q1_targ, q2_targ = copy.deepcopy(q1), copy.deepcopy(q2)
    pi_optimizer = torch.optim.Adam(pi.parameters(), lr=1e-3)
    q_optimizer = torch.optim.Adam([*q1.parameters(), *q2.parameters()], lr=1e-3)
    replay = Replay()

    obs, _ = env.reset()
    for step in range(STEPS):
        with torch.no_grad():
            act = pi(torch.as_tensor(obs))[0].numpy()
        next_obs, rew, term, trunc, _ = env.step(act)
        replay.add(obs, act, rew, next_obs, term)
        obs = env.reset()[0] if term or trunc else next_obs
        if step < WARMUP:
            continue
        o, a, r, o2, d = replay.batch(BATCH)
        update_critics(pi, q1, q2, q1_targ, q2_targ, q_optimizer, o, a, r, o2, d)
        update_actor(pi, q1, q2, pi_optimizer, o)
        with torch.no_grad():
            for q, q_targ in ((q1, q1_targ), (q2, q2_targ)):
                for p, p_targ in zip(q.parameters(), q_targ.parameters()):
                    p_targ.lerp_(p, tau)


if __name__ == "__main__":
    main()
