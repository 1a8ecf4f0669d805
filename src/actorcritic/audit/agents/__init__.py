"""Audits of classes and scripts: what reaches the parameters of their networks."""
