"""Audits of losses."""
