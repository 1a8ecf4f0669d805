"""What may be wrong with a batch, a row each; {blanks} are filled where it is found."""

from __future__ import annotations

from actorcritic.audit.findings import Fault

_ALIKE = "The same episodes again: gradients averaged over copies, a policy fitted to few starts."
_LIMIT = "The value after a time limit is taken as 0: good states near it look worthless."
_BOTH_FLAGS = "Store terminated and truncated as envs.step gives them; bootstrap unless terminated."

# ------------------------------------------------------------------------------- which rows

SEEDED_AGAIN = Fault(
    "environments-seeded-apart",
    "An environment is reset with the same seed at every episode (seed={seed}).",
    _ALIKE,
    "Give the seed to the first reset only; later ones call reset().",
)
SEEDED_ALIKE = Fault(
    "environments-seeded-apart",
    "Several environments are given the same seed ({seed}).",
    _ALIKE,
    "Seed environment k with seed + k; a VectorEnv does so with one number, envs.reset(seed=seed).",
)
AFTER_END = Fault(
    "reset-after-end",
    "An environment is stepped after its episode has ended, without a reset.",
    "What such a step returns is undefined: some environments go on, others raise.",
    "Reset where terminated or truncated; a VectorEnv in mode DISABLED by "
    'envs.reset(options={"reset_mask": terminated | truncated}).',
)
RESET_EARLY = Fault(
    "only-ended-episodes-reset",
    "An environment whose episode goes on is reset, and no flag says so.",
    "Returns and advantages are summed over two episodes.",
    "Reset only the environments that are done: "
    'envs.reset(options={"reset_mask": terminated | truncated}).',
)
ONE_ARRAY = Fault(
    "observations-copied",
    "Rows share one array: all of them show the last observation written.",
    "Everything is attributed to the last observation: nothing can be learned.",
    "Store a copy: observations.append(np.array(obs)), or write into an array "
    "of your own, observations[t] = obs.",
)
REUSED = Fault(
    "observations-copied",
    "The arrays that the environment hands out are kept without a copy: where it reuses them, "
    "all rows show the last observations.",
    "With SyncVectorEnv(copy=False), all is attributed to the last observation, silently.",
    "Store a copy: observations.append(np.array(obs)).",
)
NEVER_REPLACED = Fault(
    "observation-in-its-row",
    "Every row holds the first observation: it is never replaced.",
    "The policy acts on, and learns from, an observation that is long past.",
    "Set obs = next_obs at the end of each step.",
)
NEVER_GIVEN = Fault(
    "observation-in-its-row",
    "Some rows hold an observation that the environment never gave.",
    "The policy learns from rows that never were.",
    "Return only the rows that were written.",
)
OBSERVATION = Fault(
    "observation-in-its-row",
    "The observation of a row is not the one acted on: action and reward are those of "
    "the step {when}.",
    "The policy is trained to give each observation the action of another one.",
    "Store the observation that the policy was given, before it is replaced.",
)
RESHAPED = Fault(
    "axes-agree",
    "Neither axis of the observations is that of one environment: the array was "
    "reshaped where its axes had to be exchanged.",
    "Neighbouring rows are of different environments: every return mixes them.",
    "Exchange axes with swapaxes(0, 1), not with reshape.",
)
EXCHANGED = Fault(
    "axes-agree",
    "Time and environment are exchanged between the observations and {role}.",
    "Credit goes to steps of other environments, and training fails without an error.",
    "Bring every array to [time, environment] before it is flattened.",
)
RESET_ROWS = Fault(
    "reset-rows-dropped",
    "Rows in which the environment only resets are kept as transitions.",
    "The policy learns from transitions that never were, with actions that were ignored.",
    "In NEXT_STEP mode, leave out the rows that follow a done (mark them as not "
    "valid), or make the environments with AutoresetMode.SAME_STEP and declare "
    'autoreset="same_step".',
)
LOST = Fault(
    "no-step-lost",
    "{count} steps that were made are in no row.",
    "Returns are summed over rows that are not neighbours.",
    "Store the row before anything is done about the end of the episode.",
)
ENDS_LOST = LOST._replace(
    wrong="{count} steps that were made are in no row, the last ones of their episodes.",
    effect="Their rewards, often all that counts, are not learned from; no row says that it ended.",
)

# ------------------------------------------------------------------------------- what is in them

REWARD = Fault(
    "reward-in-its-row",
    "Rewards are not in the rows of the steps that earned them{shift}.",
    "Each action is credited with the reward of another one.",
    "Write the reward of envs.step(action) in the row of that action.",
)
ACTION = Fault(
    "action-in-its-row",
    "The action of a row is not the one taken there{shift}.",
    "The policy is trained on pairs of observation and action that never were.",
    "Store the action before the next one is drawn.",
)
LOG_PROB = Fault(
    "log-prob-in-its-row",
    "The log-probability of a row is not that of its own step{shift}.",
    "Ratios and advantages are formed with another step's numbers.",
    "Store the log-probability in the row of the action it was computed with.",
)
VALUE = Fault(
    "value-in-its-row",
    "The value of a row is not that of its own step{shift}.",
    LOG_PROB.effect,
    "Store the value in the row of the action it was computed with.",
)
ACTED = Fault(
    "acts-on-current-observation",
    "The action executed is not the policy's for the observation of that moment.",
    "The policy acts on an observation that is past; its data are of another policy.",
    "After a reset, give the policy the observation of the reset.",
)
CLIPPED = Fault(
    "action-as-drawn",
    "The clipped action is stored beside the log-probability of the unclipped one.",
    "The ratio is not 1 for an unchanged policy: actions are pushed beyond the bounds.",
    "Store the action as drawn, and clip a copy for the environment: "
    "envs.step(np.clip(action, low, high)).",
)
DONE = Fault(
    "done-in-its-row",
    "{role} is not set in the rows of the steps that end an episode{shift}.",
    "Advantages flow in from the next episode, and are cut where nothing ended.",
    "Write the flags of envs.step(action) in the row of that action (or return the flag "
    "after the last row too, if dones[t] belongs to the observation of row t).",
)
MERGED = Fault(
    "truncation-told-apart", "Time limits are flagged as terminated.", _LIMIT, _BOTH_FLAGS
)
SWAPPED = MERGED._replace(wrong="Terminated and truncated are exchanged.")
CUT_LOST = Fault(
    "truncation-told-apart",
    "Truncations are lost: no row says that a time limit ended its episode.",
    "Returns and advantages run on into the next episode.",
    "Store the truncated flag of envs.step in the row of its step.",
)
FINAL = Fault(
    "final-observation-kept",
    "At the end of an episode, {what} is taken from the observation after the reset.",
    "Time limits are bootstrapped with the value of a fresh start, too high or too low.",
    'In SAME_STEP mode take infos["final_obs"][k] where done; in the other modes take the '
    "observation of the step, before any reset.",
)
NEXT_OBSERVATION = Fault(
    "next-observation-in-its-row",
    "The next observation of a row is not the one that followed it.",
    "Targets are bootstrapped from the value of another state.",
    "Store a copy of what envs.step(action) returned, in the row of that action.",
)
NEXT_VALUE = Fault(
    "next-value-in-its-row",
    "The next value of a row is not that of the observation that followed it.",
    NEXT_OBSERVATION.effect,
    "Take the value of the observation that envs.step(action) returned.",
)
AFTER_LAST = Fault(
    "bootstrap-from-successor",
    "The {what} is not that of what follows the last row.",
    "Every return of the batch rests on the value of another state.",
    "Take the observation that the last step returned.",
)
