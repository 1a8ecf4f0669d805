"""What may be wrong with an environment, a row each; {blanks} are filled where it is found."""

from __future__ import annotations

from actorcritic.audit.findings import Fault

_UNREPEATABLE = "No run can be repeated, and no bug found again."
_NAN = "One NaN makes every parameter NaN at the next update, without a word."
_GUESS = "Learners guess: reset rows are learned from, or last observations are lost."

SPACES = Fault(
    "spaces-declared",
    "There is no {kind} space{who}.",
    "No library can make a policy for it.",
    "{mend}",
)
SPACES_KEPT = Fault(
    "spaces-kept",
    "{kind}_space makes another space at every call.",
    "Seeding one seeds no other: random actions differ between runs of one seed.",
    "Keep the spaces in the constructor, or cache the method (functools.lru_cache).",
)
RESET = Fault(
    "reset-answers",
    "`reset` {fails}.",
    "Nothing can be trained: libraries unpack two values.",
    "Write `{form}`.",
)
STEP = Fault(
    "step-answers",
    "`step` {fails}.",
    "Training stops there; four values would not tell a time limit from the end of the task.",
    "Write `{form}`.",
)
NOT_NAMED = Fault(
    "agents-announced",
    "`possible_agents` does not name every agent once.",
    "Nobody can make room for agents that are not announced.",
    "Set self.possible_agents in the constructor.",
)
STRANGER = Fault(
    "agents-announced",
    "An agent appears that possible_agents does not name.",
    "There is no space and no policy for it.",
    "Name every agent that may ever appear in possible_agents.",
)
SILENT = Fault(
    "every-agent-answers",
    "An agent that acted is not among the {part} of that step.",
    "What its action led to is lost: of its last step, the reward too.",
    "Answer for every agent that acted, and take those that are out from self.agents afterwards.",
)
BACK = Fault(
    "agents-stay-out",
    "An agent that had terminated or was truncated is among the agents again.",
    "Its episode has ended: what it does now is learned from as another one, or never.",
    "Take agents that are out from self.agents until reset.",
)
STATE = Fault(
    "state-has-one-shape",
    "`state()` changes its shape, or fails later in an episode.",
    "A central critic takes numbers of one shape.",
    "Give agents that are out a place in the state too.",
)
MASK = Fault(
    "masks-allow-something",
    "A mask allows an agent nothing where it has to act.",
    "There is no action to take: policies raise, or take a forbidden one.",
    "End the agent's episode one step earlier.",
)
ALIASED = Fault(
    "observations-copied",
    "An observation that was returned is changed by the next step: its array is used again.",
    "Actions are attributed to states in which they were not taken.",
    "Return a copy: np.array(…, dtype=np.float32).",
)
OUTSIDE = Fault(
    "observation-in-space",
    "Observations are outside their observation space.",
    "What is normalised, clipped or made room for by the space is wrong.",
    "Mend the observation, or state the space that it is really in.",
)
DTYPE = Fault(
    "observation-dtype",
    "Observations are of dtype {got}, their space of {dtype}.",
    "Buffers made after the space round or truncate what is written to them.",
    "Return observation.astype(np.{dtype}).",
)
NOT_FINITE = Fault(
    "observations-finite",
    "An observation is not finite.",
    _NAN,
    "Look for a division by zero or an overflow in the environment.",
)
REWARD = Fault(
    "rewards-finite",
    "A reward is not one finite number.",
    _NAN.replace(", without a word", "; an array is broadcast"),
    "Return float(reward), and look for a division by zero or an overflow.",
)
FLAG = Fault(
    "flags-are-booleans",
    "{name} is not True or False.",
    "An array or None is taken for either, depending on the library.",
    "Return bool({name}).",
)
UNSEEDED = Fault(
    "same-seed-same-trajectory",
    "The same seed and actions give another trajectory{drawn}",
    _UNREPEATABLE,
    "Draw all randomness from a generator that reset(seed=seed) seeds: of Gymnasium, "
    "self.np_random, after super().reset(seed=seed).",
)
NOT_CLEARED = Fault(
    "reset-clears-state",
    "After the same reset(seed=1), an environment that was used goes another way than a new one.",
    "Episodes depend on those before them in a way that no observation shows.",
    "Set everything that step changes in reset.",
)
LIMIT_IGNORED = Fault(
    "time-limit-truncates",
    "Its time limit of {limit} steps does not end the episode.",
    "Episodes go on where the task does not end them: returns mean something else than others'.",
    "Wrap it: gymnasium.wrappers.TimeLimit(env, max_episode_steps), or "
    "gymnasium.make(id) without .unwrapped.",
)
LIMIT_TERMINATES = Fault(
    "time-limit-truncates",
    "Episodes that reach the limit ({limit}) are terminated, not truncated.",
    "The value after a time limit is taken as 0: good states near it look worthless.",
    "Return truncated = True there, or leave limits to max_episode_steps (if the "
    "observation holds the time, the end belongs to the task: rename the attribute).",
)
CHECKER = Fault(
    "gymnasium-checker",
    "Gymnasium's own checker says: {text}.",
    "Wrappers and libraries rely on the interface that it checks.",
    "See gymnasium.utils.env_checker.check_env.",
)
MODE_UNSAID = Fault(
    "autoreset-mode-said",
    "The vector environment does not say how it resets.",
    _GUESS,
    "Set metadata['autoreset_mode'] to what it does.",
)
MODE_WRONG = Fault(
    "autoreset-as-said",
    "The environments do not reset as their autoreset mode says.",
    _GUESS,
    "Set metadata['autoreset_mode'] to what the environments do.",
)
OTHER_STARTS = Fault(
    "same-seed-same-start",
    "The same seed gives other starts, or other steps after them{drawn}.",
    _UNREPEATABLE,
    "Hand the seed to every environment: seed + k to environment k.",
)

# What holds where episodes have shown nothing else.
OF_ALL = (OUTSIDE, DTYPE, NOT_FINITE, REWARD, FLAG, ALIASED)
OF_SEVERAL = (SILENT, STRANGER, BACK, STATE)
