"""Gymnasium environments: found by name, checked, and stepped side by side on the host."""
