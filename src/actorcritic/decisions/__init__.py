"""Decisions in a live application: one at a time, with feedback that comes later."""
