"""Audits of log-probabilities and samples."""
