"""The loops: what collects experience and hands it to an algorithm."""
