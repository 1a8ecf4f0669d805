"""V-trace by rlax, of arrays [T, B] in one file to another: vtrace_rlax.py IN.npz OUT.npz."""

import sys

import jax
import numpy as np
import rlax

jax.config.update("jax_enable_x64", True)
given = np.load(sys.argv[1])
gamma, gae_lambda, rho_clip = (float(given[name]) for name in ("gamma", "gae_lambda", "rho_clip"))


def column(value, next_value, reward, terminated, ratio):
    found = rlax.vtrace_td_error_and_advantage(
        value,
        next_value,
        reward,
        gamma * (1.0 - terminated),
        ratio,
        lambda_=gae_lambda,
        clip_rho_threshold=rho_clip,
        clip_pg_rho_threshold=rho_clip,
    )
    return found.errors + value, found.pg_advantage


names = ("value", "next_value", "reward", "terminated", "ratio")
parts = [given[name].astype(np.float64) for name in names]
target, advantage = jax.vmap(column, in_axes=1, out_axes=1)(*parts)
np.savez(sys.argv[2], target=target, advantage=advantage)
