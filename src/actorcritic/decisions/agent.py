"""`Decider`: an agent that chooses one action for a context, and learns from what became of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np

from actorcritic.core import files
from actorcritic.core.errors import UserError
from actorcritic.core.words import nearest
from actorcritic.decisions import features
from actorcritic.decisions.features import Context
from actorcritic.decisions.log import Feedback, Log, Row, Synchronous
from actorcritic.decisions.online import OnlineLearner
from actorcritic.decisions.policy import Policy, draw

SUCCESS, FAILURE = 1.0, -0.1  # rewards
FEATURES = 512
MOST_ACTIONS, LONGEST_NAME = 1_000, 200
LARGEST_REWARD = 1e9
LOOK_EVERY = 1.0  # seconds between two looks for feedback from other processes
TRY_AGAIN = 5.0  # seconds after a failure of learning
AT_ONCE = 64  # outcomes, before the policy that acts is replaced
CLOSING = 30.0  # seconds that a thread is waited for
RATIONED = 0.3  # of the time, at most, is spent on learning in the background


class Choice(NamedTuple):
    """What was chosen. `id` is what feedback names."""

    action: str
    probability: float  # with which this action was drawn
    id: str
    predicted: float | None  # the critic's reward; None while nothing is learned


class Request(NamedTuple):
    """A decision to make; `allowed` None means every action."""

    context: Context
    allowed: Sequence[str] | None = None


class Decider:
    """Chooses actions, keeps every decision in a log, learns from feedback.

    `path` is the log (SQLite); it is made where it is missing. `actions` are added to it; a log
    that has actions needs none. `features` is how many numbers a context becomes, and the length
    of vectors that are given; `encoder` turns a text into such a vector, in the place of hashed
    words. `exploration` is the share of decisions, at least, that is spread evenly over what is
    allowed. `fallback` names the action that answers (but for exploration) until `fallback_until`
    outcomes are learned; without one all actions are drawn alike. `learning` "background" learns
    in a thread; "on call" only in `learn`. `hyperparameters` are those of
    `decisions.learning.DecisionActorCritic`; like `features` and `seed` they belong to the log,
    and can be set only where it is made. Objects may be shared by threads. Raises UserError for
    whatever does not fit.
    """

    def __init__(
        self,
        path: str | Path,
        actions: Iterable[str] | None = None,
        *,
        features: int | None = None,
        encoder: Callable[[str], Any] | None = None,
        exploration: float = 0.02,
        fallback: str | None = None,
        fallback_until: int = 20,
        learning: Literal["background", "on call"] = "background",
        synchronous: Synchronous = "normal",
        seed: int | None = None,
        hyperparameters: dict[str, Any] | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        if not 0 < exploration <= 1:
            raise UserError(
                f"exploration is a share above 0, up to 1; got {exploration}. What is never tried "
                "can neither be learned nor evaluated."
            )
        if learning not in ("background", "on call"):
            raise UserError(f"learning is 'background' or 'on call', not {learning!r}.")
        path = files.as_path(path, "The file of a decider's log")
        names = None if actions is None else _checked_names(actions)
        asked = _settings(features, seed, hyperparameters)
        if not names and not Path(path).exists():
            raise UserError(
                f"{path} is not there yet, and a new log needs actions: Decider(path, "
                'actions=["search", "none"]).'
            )
        self.exploration, self.fallback_until = float(exploration), int(fallback_until)
        self._encoder, self._rng = encoder, rng or np.random.default_rng()
        self._drawing = threading.Lock()
        self._log = Log(path, synchronous=synchronous)
        self._learner: OnlineLearner | None = None
        try:
            self.settings = self._agree(asked, names)
            self._seen = -1
            self._refresh()
            if fallback is not None:
                self._number(fallback)
            self.fallback = fallback
            self._learner = OnlineLearner(self._log.path, self.settings, synchronous)
        except BaseException:
            self._log.close()
            raise
        self._policy: Policy = self._learner.policy()
        self._learning = threading.Lock()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None
        if learning == "background":
            self._thread = threading.Thread(target=self._follow, name="decider", daemon=True)
            self._thread.start()

    def _agree(self, asked: dict[str, Any], names: list[str] | None) -> dict[str, Any]:
        """The settings of the log: those that are asked for, where it is new."""
        with self._log.transaction():
            known = self._log.settings()
            if not known:
                if not names:
                    raise UserError(f"The log {self._log.path} has no actions yet; name some.")
                known = {"features": FEATURES, "seed": 0, "hyperparameters": {}} | asked
                self._log.save_settings(known)
            for name, value in asked.items():
                if known.get(name) != value:
                    raise UserError(
                        f"The log {self._log.path} was made with {name} = {known.get(name)}, and "
                        f"cannot go on with {value}. Leave {name} out, or begin a new log: "
                        "`actorcritic decide replay` learns from an old one."
                    )
            if names:
                there = [name for name, _ in self._log.actions()]
                self._check_count(len(set(there) | set(names)))
                self._log.set_actions([name for name in names if name not in there], True)
        return known

    @staticmethod
    def _check_count(count: int) -> None:
        if count > MOST_ACTIONS:
            raise UserError(
                f"A log has at most {MOST_ACTIONS:,} actions; these would be {count:,}."
            )

    # ------------------------------------------------------------------ deciding

    def choose(self, context: Context, *, allowed: Sequence[str] | None = None) -> Choice:
        """Draw an action for a text, a dict or a vector; it is in the log when this returns."""
        return self.choose_many([Request(context, allowed)])[0]

    def choose_many(self, requests: Sequence[Request]) -> list[Choice]:
        """The same for several, in one transaction: all of them, or none."""
        if not requests:
            return []
        size, rows = int(self.settings["features"]), len(requests)
        kept = [features.check(request.context, size) for request in requests]
        if self._encoder is not None:
            kept = [self._encoded(text, blob) for text, blob in kept]
        x = np.stack([features.numbers_of(text, blob, size) for text, blob in kept])
        given = np.array([blob is not None for _, blob in kept])
        with self._log.transaction():
            self._refresh()
            policy = self._policy
            allowed = np.stack([self._allowed(request.allowed) for request in requests])
            x = policy.scaled(x, given)
            fallback = None if self.fallback is None else self._numbers[self.fallback]
            pi = policy.probabilities(x, allowed, self.exploration, fallback, self.fallback_until)
            with self._drawing:
                drawn = draw(pi, self._rng)
            every = np.arange(rows)
            probability = pi[every, drawn].tolist()
            predicted: list[float | None] = [None] * rows
            if policy.critic is not None:
                predicted = policy.predicted(x, allowed.shape[1])[every, drawn].tolist()
            ids = self._log.add_decisions(
                [
                    Row(
                        *kept[i],
                        ",".join(map(str, np.flatnonzero(allowed[i]).tolist())),
                        int(drawn[i]),
                        probability[i],
                        predicted[i],
                        policy.learned,
                    )
                    for i in range(rows)
                ]
            )
        return [
            Choice(self._names[drawn[i]], probability[i], ids[i], predicted[i]) for i in range(rows)
        ]

    def _encoded(self, text: str | None, blob: bytes | None) -> tuple[str | None, bytes | None]:
        """With the encoder's vector beside a text."""
        import json

        if text is None or text[0] != '"':
            return text, blob
        assert self._encoder is not None
        found = self._encoder(json.loads(text))
        return text, features.vector(found, int(self.settings["features"])).tobytes()

    def _allowed(self, names: Sequence[str] | None) -> np.ndarray:
        if names is None:
            return self._active
        found = np.zeros(len(self._active), bool)
        if isinstance(names, str) or not isinstance(names, list | tuple | set | frozenset):
            raise UserError(f"allowed is a list of names of actions; got {names!r}.")
        for name in names:
            found[self._number(name)] = True
        if not found.any():
            raise UserError("allowed is empty: nothing can be chosen. Leave it out to allow all.")
        return found

    def _number(self, name: Any) -> int:
        """The number of an action that can be chosen."""
        number = self._numbers.get(name) if isinstance(name, str) else None
        if number is None or not self._active[number]:
            raise UserError(
                f"There is no action {str(name)[:LONGEST_NAME]!r}."
                f"{nearest(str(name)[:LONGEST_NAME], self.actions)} Known: "
                f"{', '.join(self.actions[:20])}."
            )
        return number

    # ------------------------------------------------------------------ actions

    @property
    def actions(self) -> list[str]:
        """Those that can be chosen."""
        return [name for name, active in zip(self._names, self._active, strict=True) if active]

    def _refresh(self) -> None:
        """Read the actions again, where another connection may have changed them."""
        seen = self._log.read("PRAGMA data_version")[0][0]
        if seen != self._seen:
            found = self._log.actions()
            self._names = [name for name, _ in found]
            self._numbers = {name: i for i, name in enumerate(self._names)}
            self._active = np.array([active for _, active in found], bool)
            self._seen = seen

    def add_actions(self, *names: str) -> None:
        """Let actions be chosen from now on: new ones, or such as were removed."""
        checked = _checked_names(names)
        with self._log.transaction():
            self._check_count(len({*self._names, *checked}))
            self._log.set_actions(checked, True)
        self._seen = -1
        self._refresh()

    def remove_actions(self, *names: str) -> None:
        """Let actions be chosen no more. What was learned of them stays."""
        with self._log.transaction():
            self._refresh()
            for name in names:
                self._number(name)
            if not set(self.actions) - set(names):
                raise UserError("One action at least has to stay.")
            if self.fallback in names:
                raise UserError(f"{self.fallback!r} is the fallback, and has to stay.")
            self._log.set_actions(names, False)
        self._seen = -1
        self._refresh()

    # ------------------------------------------------------------------ feedback

    def feedback(
        self, id: str, *, success: bool | None = None, reward: float | None = None
    ) -> Feedback:
        """Say what became of a decision: success (reward 1), failure (−0.1), or any reward.

        It may come at any time and from any process. The first feedback stands: the same again is
        acknowledged and changes nothing; another one, or an unknown id, raises UserError.
        """
        found = self.feedback_many([(id, reward_of(success, reward))])[0]
        check_feedback(found)
        return found

    def feedback_many(self, rewards: Sequence[tuple[str, float]]) -> list[Feedback]:
        """Several in one transaction. What became of each is in its `status`."""
        found = self._log.add_feedback([(str(id), reward) for id, reward in rewards])
        self._wake.set()
        return found

    # ------------------------------------------------------------------ learning

    @property
    def learned(self) -> int:
        """Outcomes that the policy has learned from."""
        return self._policy.learned

    @property
    def pending(self) -> int:
        """Outcomes that it has yet to learn from."""
        return self._log.counts()[1] - self._policy.learned

    def learn(self) -> int:
        """Learn from all outcomes in the log; returns how many that are."""
        if self._learner is None:
            raise UserError(f"The agent of {self._log.path} is closed; open it again.")
        with self._learning:
            self._learner.learn()
            self._policy = self._learner.policy()
        return self._policy.learned

    @property
    def policy(self) -> Policy:
        """What acts at the moment."""
        return self._policy

    def _follow(self) -> None:
        """Learn whenever there is something to learn from."""
        import time

        assert self._learner is not None
        while not self._stop.is_set():
            self._wake.clear()
            begun = time.monotonic()
            try:
                with self._learning:
                    before = self._learner.learned
                    after = self._learner.learn(before + AT_ONCE, stopped=self._stop.is_set)
                    if after > before:
                        self._policy = self._learner.policy()
            except Exception as error:  # told to whoever asks; decisions go on, and it tries again
                self._failure = error
                self._stop.wait(TRY_AGAIN)
                continue
            self._failure = None
            if after > before:  # decisions come first
                self._stop.wait((time.monotonic() - begun) * (1 / RATIONED - 1))
            else:
                self._wake.wait(LOOK_EVERY)

    @property
    def failure(self) -> Exception | None:
        """Why learning in the background fails at the moment, if it does. Decisions go on."""
        return self._failure

    # ------------------------------------------------------------------ reading

    def report(self, path: str | Path) -> Path:
        """Write a page on what was decided and what became of it."""
        from actorcritic.decisions.report import report

        with self._reader() as log:
            return report(log, path, self._policy)

    def export(self, path: str | Path) -> Path:
        """Write every decision as a line of JSON."""
        from actorcritic.decisions.records import export

        with self._reader() as log:
            return export(log, Path(path))

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Log]:
        """A connection of its own, so that what takes long to read keeps no decision waiting."""
        log = Log(self._log.path)
        try:
            yield log
        finally:
            log.close()

    @property
    def log(self) -> Log:
        return self._log

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """Stop learning, keep a snapshot, close the log."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSING)
            self._thread = None
        if self._learner is not None:
            with contextlib.suppress(UserError):  # a cache, and no more
                self._learner.save()
            self._learner.close()
            self._learner = None
        self._log.close()

    def __enter__(self) -> Decider:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def reward_of(success: Any, reward: Any) -> float:
    """The reward that feedback stands for. UserError where it says nothing, or two things."""
    if (success is None) == (reward is None):
        raise UserError("Feedback is success=True or False, or reward=NUMBER: one of the two.")
    if success is not None:
        if not isinstance(success, bool | np.bool_):
            raise UserError(f"success is True or False, not {success!r}.")
        return SUCCESS if success else FAILURE
    number = isinstance(reward, int | float | np.number) and not isinstance(reward, bool)
    if not number or not abs(reward) <= LARGEST_REWARD:  # NaN is not
        raise UserError(f"reward is a finite number, at most {LARGEST_REWARD:g}; got {reward!r}.")
    return float(reward)


def check_feedback(found: Feedback) -> None:
    """UserError where feedback was not taken."""
    if found.status == "unknown":
        raise UserError(f"There is no decision {found.id!r} in this log.")
    if found.status == "contradicted":
        raise UserError(
            f"The decision {found.id} has its feedback already: the reward {found.reward:g}. "
            "The first one stands."
        )


def _checked_names(names: Iterable[str]) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise UserError(f"actions is a list of names; got {names!r}.")
    found = list(names)
    for name in found:
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
            raise UserError(
                f"The name of an action is a printable text of 1 to {LONGEST_NAME} characters; "
                f"got {str(name)[:LONGEST_NAME]!r}."
            )
    if not found or len(set(found)) < len(found):
        raise UserError("actions are one name or more, each of them once.")
    return found


def _settings(
    size: int | None, seed: int | None, hyperparameters: dict[str, Any] | None
) -> dict[str, Any]:
    """Those settings of a log that are asked for."""
    found: dict[str, Any] = {}
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 65_536:
            raise UserError(f"features is a whole number from 1 to 65,536; got {size!r}.")
        found["features"] = size
    if seed is not None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
            raise UserError(f"seed is a whole number from 0 to 2³¹ − 1; got {seed!r}.")
        found["seed"] = seed
    if hyperparameters is not None:
        from actorcritic.core import hyperparameters as settings
        from actorcritic.decisions.learning import DecisionActorCritic

        settings.check(settings.replace(DecisionActorCritic(), **hyperparameters))
        found["hyperparameters"] = dict(hyperparameters)
    return found
