"""The density of a Gaussian policy that tanh squashes into the bounds of the actions."""

import torch
from torch.distributions import Normal


def log_prob(action, mean, log_std, low, high):
    squashed = 2 * (action - low) / (high - low) - 1
    u = torch.atanh(torch.clamp(squashed, -0.999999, 0.999999))
    density = Normal(mean, log_std.exp()).log_prob(u)
    density = density - torch.log(1 - squashed.pow(2) + 1e-6)
    return density.sum(-1)
