"""Experiments: several variants of a training, and what may be said of them."""
