"""An actor's loss in PyTorch that computes its advantage from the critic's output."""

import torch


def actor_loss(log_probs: torch.Tensor, returns, values, entropy, entropy_coef=0.01):
    advantages = returns - values
    return -(log_probs * advantages).mean() + entropy_coef * entropy.mean()
