"""Audits of functions that collect."""
