"""Functions that collect batches, right ones in several styles and wrong ones, for the audit."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

# ------------------------------------------------------------------------------- right


def next_step_masked(envs, policy, num_steps, seed):
    """Gymnasium's default mode; rows that only reset are marked."""
    obs, _ = envs.reset(seed=seed)
    keys = ("observations", "actions", "rewards", "terminated", "truncated", "next_observations")
    batch: dict[str, list] = {key: [] for key in (*keys, "log_probs", "valid")}
    resetting = np.zeros(envs.num_envs, bool)
    for _ in range(num_steps):
        action, log_prob, _ = policy(obs)
        after, reward, terminated, truncated, _ = envs.step(action)
        row = (obs, action, reward, terminated, truncated, after)
        for key, x in zip(keys, row, strict=True):
            batch[key].append(np.array(x))
        batch["log_probs"].append(log_prob)
        batch["valid"].append(~resetting)
        resetting = terminated | truncated
        obs = after
    return {key: np.stack(x) for key, x in batch.items()}


class Transition(NamedTuple):
    state: Any
    action: Any
    reward: Any
    next_state: Any
    done: Any


def next_step_transitions(env, policy, n_steps):
    """A list of single transitions; only `done`, both kinds of ends."""
    states, _ = env.reset()
    transitions, resetting = [], np.zeros(env.num_envs, bool)
    for _ in range(n_steps):
        actions = policy(states)
        after, rewards, terminated, truncated, _ = env.step(actions)
        done = terminated | truncated
        for k in range(env.num_envs):
            if not resetting[k]:
                transitions.append(
                    Transition(states[k].copy(), actions[k], rewards[k], after[k].copy(), done[k])
                )
        resetting, states = done, after
    return transitions


def same_step(envs, agent, horizon):
    """A tuple of arrays, of the mode that resets in the same step."""
    obs, _ = envs.reset(seed=3)
    observations, actions, rewards, successors, terminations, truncations = ([] for _ in range(6))
    for _ in range(horizon):
        action = agent(obs)
        after, reward, terminated, truncated, infos = envs.step(action)
        successor = after.copy()
        if "final_obs" in infos:
            for k in np.flatnonzero(terminated | truncated):
                successor[k] = infos["final_obs"][k]
        observations.append(obs.copy())
        actions.append(action)
        rewards.append(reward)
        successors.append(successor)
        terminations.append(terminated)
        truncations.append(truncated)
        obs = after
    return (
        np.array(observations),
        np.array(actions),
        np.array(rewards),
        np.array(successors),
        np.array(terminations),
        np.array(truncations),
    )


@dataclass
class Batch:
    obs: np.ndarray
    act: np.ndarray
    rew: np.ndarray
    term: np.ndarray
    trunc: np.ndarray
    next_obs: np.ndarray


def disabled(envs, policy, n):
    """It resets the environments itself; [environment, time]."""
    obs, _ = envs.reset()
    rows = []
    for _ in range(n):
        action = policy(obs)
        after, reward, terminated, truncated, _ = envs.step(action)
        rows.append((obs.copy(), action, reward, terminated, truncated, after.copy()))
        done = terminated | truncated
        obs = after
        if done.any():
            obs, _ = envs.reset(options={"reset_mask": done})
    return Batch(*(np.stack(x, axis=1) for x in zip(*rows, strict=True)))


def cleanrl_arrays(envs, agent, num_steps, num_envs, seed):
    """Arrays made beforehand; dones[t] belongs to the observation of row t."""
    obs = np.zeros((num_steps, *envs.observation_space.shape))
    actions = np.zeros((num_steps, *envs.action_space.shape))
    logprobs, rewards, dones, values = (np.zeros((num_steps, num_envs)) for _ in range(4))
    next_obs, _ = envs.reset(seed=seed)
    next_done = np.zeros(num_envs)
    for step in range(num_steps):
        obs[step], dones[step] = next_obs, next_done
        action, logprob, _, value = agent.get_action_and_value(next_obs)
        actions[step], logprobs[step], values[step] = action, logprob, value
        next_obs, reward, terminations, truncations, _ = envs.step(action)
        next_done = np.logical_or(terminations, truncations)
        rewards[step] = reward
    next_value = agent.get_value(next_obs)
    return obs, actions, logprobs, rewards, dones, values, next_obs, next_done, next_value


def single_loop(env, policy, num_steps, seed=0):
    observations, actions, rewards, next_observations, terminateds, truncateds = (
        [] for _ in range(6)
    )
    obs, _ = env.reset(seed=seed)
    for _ in range(num_steps):
        action = policy(obs)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        observations.append(np.array(obs))
        actions.append(action)
        rewards.append(reward)
        next_observations.append(np.array(next_obs))
        terminateds.append(terminated)
        truncateds.append(truncated)
        obs = next_obs
        if terminated or truncated:
            obs, _ = env.reset()
    return {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "next_observations": next_observations,
        "terminated": terminateds,
        "truncated": truncateds,
    }


def one_episode(env, policy, max_steps=1000):
    """A tutorial's list of an episode."""
    state, _ = env.reset()
    episode = []
    for _ in range(max_steps):
        action, log_prob = policy(state)
        next_state, reward, terminated, truncated, _ = env.step(action)
        episode.append(
            {
                "state": state.copy(),
                "action": action,
                "log_prob": log_prob,
                "reward": reward,
                "done": terminated or truncated,
            }
        )
        state = next_state
        if terminated or truncated:
            break
    return episode


def from_factory(make_env, policy, n_steps, seed):
    envs = SyncVectorEnv([make_env] * 3, autoreset_mode=AutoresetMode.NEXT_STEP)
    return next_step_masked(envs, policy, n_steps, seed)


def continues(envs, policy, obs, num_steps):
    """The environments were reset outside."""
    rows, resetting = [], np.zeros(envs.num_envs, bool)
    for _ in range(num_steps):
        action = policy(obs)
        after, reward, terminated, truncated, _ = envs.step(action)
        rows.append((obs.copy(), action, reward, terminated, truncated, ~resetting))
        resetting, obs = terminated | truncated, after
    names = ("observations", "actions", "rewards", "terminated", "truncated", "valid")
    return dict(zip(names, map(np.stack, zip(*rows, strict=True)), strict=True)), obs


def flat_off_policy(envs, policy, num_steps):
    """Rows in a random order, [T * B], the truth about ends in `terminated`."""
    batch = next_step_masked(envs, lambda o: (policy(o), 0, 0), num_steps, None)
    valid = batch.pop("valid").ravel()
    del batch["log_probs"]
    order = np.random.default_rng(0).permutation(np.flatnonzero(valid))
    return {k: x.reshape(-1, *x.shape[2:])[order] for k, x in batch.items()}


def clipped_well(env, policy, num_steps):
    """Continuous actions: clipped for the environment, stored as drawn."""
    obs, _ = env.reset()
    low, high = env.action_space.low, env.action_space.high
    rows = []
    for _ in range(num_steps):
        action, log_prob = policy(obs)
        after, reward, terminated, truncated, _ = env.step(np.clip(action, low, high))
        rows.append((obs.copy(), action, log_prob, reward, terminated, truncated))
        obs = after
        if terminated or truncated:
            obs, _ = env.reset()
    names = ("observations", "actions", "log_probs", "rewards", "terminated", "truncated")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def reward_bootstrapped(env, policy, num_steps, gamma):
    """V of the last observation is added to the reward at a time limit."""
    obs, _ = env.reset()
    rows = []
    for _ in range(num_steps):
        action, log_prob, _ = policy(obs)
        after, reward, terminated, truncated, _ = env.step(action)
        if truncated:
            reward += gamma * policy(after)[2]
        rows.append((obs.copy(), action, log_prob, reward, terminated or truncated))
        obs = after
        if terminated or truncated:
            obs, _ = env.reset()
    names = ("observations", "actions", "log_probs", "rewards", "dones")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def off_policy(envs, actor, seed=1, num_steps=20):
    """Observations are held over the step, and stored beside true successors and terminations."""
    storage = []
    obs, _ = envs.reset(seed=seed)
    for _ in range(num_steps):
        actions = actor(obs)
        after, rewards, terminations, truncations, infos = envs.step(actions)
        successors = after.copy()
        for k in np.flatnonzero(truncations):
            successors[k] = infos["final_obs"][k]
        row = {"obs": obs.copy(), "actions": actions.copy(), "rewards": rewards}
        storage.append(row | {"next_obs": successors, "dones": terminations})
        obs = after
    return storage


def starts_and_bootstrapped_rewards(envs, policy, num_steps, gamma):
    """Flags of starts, and V of the last observation in the reward at a time limit."""
    obs, _ = envs.reset(seed=1)
    rows, last_dones = [], np.ones(envs.num_envs, bool)
    for _ in range(num_steps):
        actions, log_probs, values = policy(obs)
        after, rewards, terminated, truncated, infos = envs.step(
            np.clip(actions, -1, 1) if actions.ndim > 1 else actions
        )
        for k in np.flatnonzero(truncated):
            rewards[k] += gamma * policy(infos["final_obs"][k][None])[2][0]
        rows.append((obs.copy(), actions, rewards, last_dones, values, log_probs))
        obs, last_dones = after, terminated | truncated
    names = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs")
    batch = dict(zip(names, map(np.stack, zip(*rows, strict=True)), strict=True))
    return batch | {"last_values": policy(obs)[2], "last_dones": last_dones}


def one_observation_more(envs, policy, num_steps):
    """[T + 1, B] observations, as those of our own runner."""
    observations = np.zeros((num_steps + 1, envs.num_envs, 4), np.float32)
    observations[0], _ = envs.reset()
    rows = []
    for t in range(num_steps):
        actions = policy(observations[t])
        after, rewards, terminated, truncated, _ = envs.step(actions)
        rows.append((actions, rewards, terminated, truncated))
        done = terminated | truncated
        if done.any():
            after, _ = envs.reset(options={"reset_mask": done})
        observations[t + 1] = after
    names = ("actions", "rewards", "terminated", "truncated")
    batch = dict(zip(names, map(np.stack, zip(*rows, strict=True)), strict=True))
    return batch | {"obs": observations}


def transitions_one_by_one(env, policy, num_steps):
    """A generator of tuples without names."""
    state, _ = env.reset()
    for _ in range(num_steps):
        action = policy(state)
        after, reward, terminated, truncated, _ = env.step(action)
        yield np.array(state), action, reward, np.array(after), terminated
        state = env.reset()[0] if terminated or truncated else after


def many_episodes(env, policy, n_episodes):
    """A list of episodes, each of arrays."""
    episodes = []
    for _ in range(n_episodes):
        state, _ = env.reset()
        episode: dict[str, list] = {"obs": [], "actions": [], "rewards": []}
        done = False
        while not done:
            action = policy(state)
            episode["obs"].append(state.copy())
            state, reward, terminated, truncated, _ = env.step(action)
            episode["actions"].append(action)
            episode["rewards"].append(reward)
            done = terminated or truncated
        episodes.append({k: np.array(x) for k, x in episode.items()})
    return episodes


class Collector:
    """A method, whose number of steps is an attribute."""

    def __init__(self):
        self.n_steps = 16

    def collect(self, env, policy):
        return single_loop(env, policy, self.n_steps)


# ------------------------------------------------------------------------------- wrong


def reset_rows_kept(envs, policy, num_steps, seed):
    batch = next_step_masked(envs, policy, num_steps, seed)
    del batch["valid"]
    return batch


def reset_rows_kept_without_successors(envs, policy, num_steps, seed):
    batch = next_step_masked(envs, policy, num_steps, seed)
    return {k: batch[k] for k in ("observations", "actions", "rewards", "terminated", "truncated")}


def successor_after_reset(envs, agent, horizon):
    """As `same_step`, which looks for the last observation, but under another name."""
    obs, _ = envs.reset(seed=3)
    rows = []
    for _ in range(horizon):
        action = agent(obs)
        after, reward, terminated, truncated, infos = envs.step(action)
        successor = after.copy()
        if "final_observation" in infos:
            for k in np.flatnonzero(terminated | truncated):
                successor[k] = infos["final_observation"][k]
        rows.append((obs.copy(), action, reward, successor, terminated, truncated))
        obs = after
    names = ("obs", "actions", "rewards", "next_obs", "terminated", "truncated")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def single_successor_after_reset(env, policy, num_steps):
    rows = []
    obs, _ = env.reset()
    for _ in range(num_steps):
        action = policy(obs)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            next_obs, _ = env.reset()
        rows.append((obs.copy(), action, reward, next_obs.copy(), terminated, truncated))
        obs = next_obs
    names = ("obs", "actions", "rewards", "next_obs", "terminated", "truncated")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def next_value_after_reset(env, policy, num_steps):
    rows = []
    obs, _ = env.reset()
    for _ in range(num_steps):
        action, _, value = policy(obs)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            next_obs, _ = env.reset()
        next_value = policy(next_obs)[2]
        rows.append((obs.copy(), action, reward, value, next_value, terminated, truncated))
        obs = next_obs
    names = ("obs", "actions", "rewards", "values", "next_values", "terminated", "truncated")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def last_value_after_reset(envs, policy, num_steps):
    obs, _ = envs.reset()
    rows = []
    for _ in range(num_steps):
        action, _, _ = policy(obs)
        after, reward, terminated, truncated, _ = envs.step(action)
        rows.append((obs.copy(), action, reward, terminated, truncated))
        done, obs = terminated | truncated, after
        if done.any():
            obs, _ = envs.reset(options={"reset_mask": done})
    names = ("obs", "actions", "rewards", "terminated", "truncated")
    batch = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
    return batch | {"last_value": policy(obs)[2]}


def reward_bootstrapped_after_reset(env, policy, num_steps, gamma):
    obs, _ = env.reset()
    rows = []
    for _ in range(num_steps):
        action, log_prob, _ = policy(obs)
        after, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            after, _ = env.reset()
        if truncated:
            reward += gamma * policy(after)[2]
        rows.append((obs.copy(), action, log_prob, reward, terminated or truncated))
        obs = after
    names = ("observations", "actions", "log_probs", "rewards", "dones")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def aliased(envs, policy, num_steps, seed):
    """One buffer of its own, of which a reference is kept in every row."""
    buffer = np.zeros(envs.observation_space.shape, np.float32)
    buffer[:], _ = envs.reset(seed=seed)
    rows, resetting = [], np.zeros(envs.num_envs, bool)
    for _ in range(num_steps):
        action = policy(buffer)
        after, reward, terminated, truncated, _ = envs.step(action)
        rows.append((buffer, action, reward, terminated, truncated, ~resetting))
        buffer[:], resetting = after, terminated | truncated
    names = ("observations", "actions", "rewards", "terminated", "truncated", "valid")
    return dict(zip(names, map(np.stack, zip(*rows, strict=True)), strict=True))


def not_copied(env, policy, num_steps):
    """Right until an environment reuses its arrays."""
    batch: dict[str, list] = {k: [] for k in ("states", "actions", "rewards", "dones")}
    state, _ = env.reset()
    for _ in range(num_steps):
        action = policy(state)
        batch["states"].append(state)
        state, reward, terminated, truncated, _ = env.step(action)
        batch["actions"].append(action)
        batch["rewards"].append(reward)
        batch["dones"].append(terminated or truncated)
        if terminated or truncated:
            state, _ = env.reset()
    return batch


def not_copied_vector(envs, policy, num_steps):
    rows, resetting = [], np.zeros(envs.num_envs, bool)
    obs, _ = envs.reset()
    for _ in range(num_steps):
        action = policy(obs)
        after, reward, terminated, truncated, _ = envs.step(action)
        rows.append((obs, action, reward, terminated, truncated, ~resetting))
        resetting, obs = terminated | truncated, after
    names = ("observations", "actions", "rewards", "terminated", "truncated", "valid")
    return dict(zip(names, map(np.stack, zip(*rows, strict=True)), strict=True))


def observation_never_replaced(env, policy, num_steps):
    obs, _ = env.reset()
    rows = []
    for _ in range(num_steps):
        action = policy(obs)
        _, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs, action, reward, terminated, truncated))
        if terminated or truncated:
            env.reset()
    names = ("observations", "actions", "rewards", "terminated", "truncated")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def seeded_alike(envs, policy, num_steps, seed):
    return next_step_masked(envs, policy, num_steps, [seed] * envs.num_envs)


def factory_seeded_alike(env_fn, policy, n_steps, seed):
    envs = [env_fn() for _ in range(3)]
    rows = []
    current = [env.reset(seed=seed)[0] for env in envs]
    for _ in range(n_steps):
        for k, env in enumerate(envs):
            action = policy(current[k])
            after, reward, terminated, truncated, _ = env.step(action)
            rows.append((current[k].copy(), action, reward, terminated, truncated))
            current[k] = env.reset()[0] if terminated or truncated else after
    names = ("observations", "actions", "rewards", "terminated", "truncated")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def seeded_at_every_episode(env, policy, num_steps, seed):
    obs, _ = env.reset(seed=seed)
    rows = []
    for _ in range(num_steps):
        action = policy(obs)
        after, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs.copy(), action, reward, terminated, truncated))
        obs = env.reset(seed=seed)[0] if terminated or truncated else after
    names = ("observations", "actions", "rewards", "terminated", "truncated")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def clipped_action_stored(env, policy, num_steps):
    obs, _ = env.reset()
    rows = []
    for _ in range(num_steps):
        action, log_prob = policy(obs)
        action = np.clip(action, env.action_space.low, env.action_space.high)
        after, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs.copy(), action, log_prob, reward, terminated, truncated))
        obs = after
        if terminated or truncated:
            obs, _ = env.reset()
    names = ("observations", "actions", "log_probs", "rewards", "terminated", "truncated")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def _shifted(name, by):
    def collect(env, policy, num_steps):
        batch = single_loop(env, policy, num_steps)
        for part in name if isinstance(name, tuple) else (name,):
            batch[part] = np.roll(np.asarray(batch[part]), by, axis=0)
        return batch

    return collect


done_one_late = _shifted(("terminated", "truncated"), 1)
done_one_early = _shifted(("terminated", "truncated"), -1)
rewards_one_late = _shifted("rewards", 1)
rewards_one_early = _shifted("rewards", -1)
action_of_the_next_step = _shifted("actions", -1)
observation_of_the_next_step = _shifted("observations", -1)


def dones_one_late(env, policy, num_steps):
    """Flags of the step before, and none after the last row."""
    batch = single_loop(env, policy, num_steps)
    dones = np.asarray(batch["terminated"]) | np.asarray(batch["truncated"])
    names = ("observations", "actions", "rewards")
    return {name: batch[name] for name in names} | {"dones": np.append(False, dones[:-1])}


def truncation_merged(env, policy, num_steps):
    batch = single_loop(env, policy, num_steps)
    batch["terminated"] = np.asarray(batch["terminated"]) | np.asarray(batch["truncated"])
    return batch


def terminated_means_done(env, policy, num_steps):
    batch = truncation_merged(env, policy, num_steps)
    del batch["truncated"]
    return batch


def truncation_lost(env, policy, num_steps):
    batch = single_loop(env, policy, num_steps)
    batch["truncated"] = np.zeros(num_steps, bool)
    return batch


def rewards_swapped(envs, policy, num_steps, seed):
    batch = next_step_masked(envs, policy, num_steps, seed)
    batch["rewards"] = batch["rewards"].T
    return batch


def flattened_apart(envs, policy, num_steps, seed):
    """Observations [T * B] by time, rewards by environment."""
    batch = next_step_masked(envs, policy, num_steps, seed)
    rewards = batch["rewards"].T.ravel()
    flat = {k: x.reshape(-1, *x.shape[2:]) for k, x in batch.items()}
    return flat | {"rewards": rewards}


def reshaped(envs, policy, num_steps, seed):
    """[B, T], by reshape."""
    batch = next_step_masked(envs, policy, num_steps, seed)
    return {k: x.reshape(x.shape[1], x.shape[0], *x.shape[2:]) for k, x in batch.items()}


def ends_lost(env, policy, num_steps):
    obs, _ = env.reset()
    rows = []
    for _ in range(num_steps):
        action = policy(obs)
        after, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            obs, _ = env.reset()
            continue
        rows.append((obs.copy(), action, reward, terminated, truncated))
        obs = after
    names = ("observations", "actions", "rewards", "terminated", "truncated")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def episode_without_its_end(env, policy):
    """An episode at a time, whose last reward is left out."""
    state, _ = env.reset()
    states, actions, rewards = [], [], []
    while True:
        action = policy(state)
        after, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            return {"states": states, "actions": actions, "rewards": rewards}
        states.append(state.copy())
        actions.append(action)
        rewards.append(reward)
        state = after


def end_row_left_out(envs, policy, num_steps):
    """It means to leave out the reset rows, and leaves out the ends."""
    batch = next_step_masked(envs, lambda o: (policy(o), 0, 0), num_steps, None)
    del batch["log_probs"]
    batch["valid"] = ~(batch["terminated"] | batch["truncated"])
    return batch


def never_resets(env, policy, num_steps):
    obs, _ = env.reset()
    rows = []
    for _ in range(num_steps):
        action = policy(obs)
        after, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs.copy(), action, reward, terminated, truncated))
        obs = after
    names = ("observations", "actions", "rewards", "terminated", "truncated")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def resets_all(envs, policy, num_steps):
    obs, _ = envs.reset()
    rows = []
    for _ in range(num_steps):
        action = policy(obs)
        after, reward, terminated, truncated, _ = envs.step(action)
        rows.append((obs.copy(), action, reward, terminated, truncated))
        obs = after
        if (terminated | truncated).any():
            obs, _ = envs.reset()
    names = ("observations", "actions", "rewards", "terminated", "truncated")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def acts_on_the_last_of_the_old(env, policy, num_steps):
    """After a reset it goes on with the observation before it."""
    obs, _ = env.reset()
    rows = []
    acted = obs
    for _ in range(num_steps):
        action = policy(acted)
        after, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs.copy(), action, reward, terminated, truncated))
        obs = acted = after
        if terminated or truncated:
            obs, _ = env.reset()
    names = ("observations", "actions", "rewards", "terminated", "truncated")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def log_probs_one_late(env, policy, num_steps):
    batch = clipped_well(env, policy, num_steps)
    batch["log_probs"] = np.roll(batch["log_probs"], 1)
    return batch


def raises(envs, policy, num_steps):
    raise KeyError("no table")


def no_environment(rewards, values):
    return rewards


# ------------------------------------------------------------------------------- environments


class Right(gymnasium.Env):
    """A noisy walk on a line, that terminates beyond 2 and is truncated after `limit` steps."""

    observation_space: gymnasium.Space = spaces.Box(-5.0, 5.0, (2,), np.float32)
    action_space: gymnasium.Space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    limit = 30

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.time = self.draw(-1.0, 1.0), 0
        return self.observe(), {}

    def draw(self, low, high):
        return float(self.np_random.uniform(low, high))

    def observe(self):
        return np.array([self.position, self.position / 2], np.float32)

    def reward(self):
        return -abs(self.position)

    def flags(self):
        return abs(self.position) > 2, self.time >= self.limit

    def step(self, action):
        self.position += 0.2 * float(np.clip(np.ravel(action)[0], -1, 1)) + self.draw(-0.1, 0.1)
        self.position = float(np.clip(self.position, -4, 4))
        self.time += 1
        return self.observe(), self.reward(), *map(bool, self.flags()), {}


class RightByWrapper(Right):
    """Without a limit of its own: gymnasium.wrappers.TimeLimit gives it one."""

    limit = 10**9

    @staticmethod
    def made():
        return gymnasium.wrappers.TimeLimit(RightByWrapper(), 40)


class RightFixed(Right):
    """Deterministic."""

    def draw(self, low, high):
        return (low + high) / 2 + 0.05


class RightConstantLength(Right):
    """A task of ten steps: no attribute calls them a limit."""

    def flags(self):
        return self.time >= 10, False


class LimitTerminates(Right):
    max_steps = 12

    def flags(self):
        return self.time >= self.max_steps or abs(self.position) > 2, False


class LimitIgnored(Right):
    """Its specification says 20 steps, and nothing counts them."""

    limit = 10**9

    def __init__(self):
        self.spec = gymnasium.envs.registration.EnvSpec("Ignored-v0", max_episode_steps=20)

    def draw(self, low, high):
        return 0.0


class LimitBoth(Right):
    def flags(self):
        return (self.time >= 12,) * 2


class NotFinite(Right):
    def observe(self):
        return np.array([self.position, np.nan if self.time == 7 else 0.0], np.float32)


class RewardNotFinite(Right):
    def reward(self):
        return np.log(0.0) if self.time == 7 else 1.0 * self.position


class RewardArray(Right):
    def reward(self):
        return np.array([self.position])


class FlagsAsNumbers(Right):
    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, int(terminated), truncated, info


class ReusedArray(Right):
    array = np.zeros(2, np.float32)

    def observe(self):
        self.array[:] = super().observe()
        return self.array


class GlobalGenerator(Right):
    def draw(self, low, high):
        return float(np.random.uniform(low, high))


class GlobalPython(Right):
    def draw(self, low, high):
        return random.uniform(low, high)


class GlobalSeeded(Right):
    """Repeats, at the cost of everyone else's generator."""

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            np.random.seed(seed)
        return super().reset(seed=seed)

    def draw(self, low, high):
        return float(np.random.uniform(low, high))


class SeedForgotten(Right):
    def reset(self, *, seed=None, options=None):
        return super().reset()


class StateKept(Right):
    """The wind of the last episode blows on."""

    wind = 0.0

    def step(self, action):
        self.wind += 0.01
        self.position += self.wind
        return super().step(action)


class OutsideSpace(Right):
    def observe(self):
        return super().observe() + np.float32(10 if self.time > 3 else 0)


class OutsideDiscrete(Right):
    observation_space = spaces.Discrete(3)

    def observe(self):
        return self.time % 4


class WrongShape(Right):
    def observe(self):
        return np.zeros(3, np.float32)


class WrongType(Right):
    def observe(self):
        return super().observe().astype(np.float64)


class OldStep(Right):
    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or truncated, info


class OldReset(Right):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class NoInfo(Right):
    def step(self, action):
        return *super().step(action)[:4], None


class NoSpace(gymnasium.Env):
    observation_space = Right.observation_space


class Raises(Right):
    def step(self, action):
        if self.time == 5:
            raise ZeroDivisionError("the walk has no length")
        return super().step(action)


class ResetWithoutSeed(Right):
    def reset(self, *, seed=None):
        return super().reset(seed=seed)


class Endless(Right):
    def flags(self):
        return False, False


class Scales(Right):
    """All that makes learning harder, and no error."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(0.0, 255.0, (1,), np.float32)

    def observe(self):
        return np.array([1000 * self.position, 4.0, self.position], np.float32)

    def reward(self):
        return 1e4 * self.position


class Unbounded(Right):
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def reward(self):
        return 1.0


def vector(mode=AutoresetMode.NEXT_STEP, said=None, make=Right, **options):
    environments = SyncVectorEnv([make] * 3, autoreset_mode=mode, **options)
    environments.metadata["autoreset_mode"] = mode if said is None else said
    return environments
