"""Runs: one training, its folder, and how it is stopped, resumed, evaluated and watched."""
