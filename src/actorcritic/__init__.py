"""Actor-critic reinforcement learning: train, compare, ablate and audit agents."""
