"""Audits of advantages, returns and V-trace."""
