"""Log-probabilities and samples of discrete actions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from actorcritic.audit.densities.calls import Audit, Case
from actorcritic.audit.densities.rows import LEVEL, MANY, SAMPLES, SATURATION
from actorcritic.audit.findings import CannotCall, Fault
from actorcritic.audit.losses.cases import log_softmax

UNLIKE = Fault(
    "log-softmax",
    "the log-probability is not that of a categorical distribution",
    "Probabilities do not sum to one: ratios, entropies and their gradients are wrong.",
    "log_prob = log_softmax(logits)[action]",
)
SUM = UNLIKE._replace(
    check="sums-to-one", wrong="the probabilities of all actions do not sum to one"
)
FAR_APART = SATURATION._replace(
    wrong="the log-probability is not finite for logits that are far apart",
    effect="A nearly deterministic policy turns the loss into NaN.",
    mend="log_probs = log_softmax(logits), not log(softmax(logits))",
)
UNFOLLOWED = SAMPLES._replace(
    wrong="the samples do not follow the probabilities that come with them",
    mend="Sample from softmax(logits), with a fresh random number for each row.",
)
TABLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "": log_softmax,
    "the probability is returned, not its logarithm": lambda x: np.exp(log_softmax(x)),
    "the logit is returned as if it were a log-probability": lambda x: x,
    "the log-probability has the wrong sign": lambda x: -log_softmax(x),
    "softmax is taken over the batch, not over the actions": lambda x: log_softmax(x.T).T,
    "each logit goes through a sigmoid: they are not alternatives": (
        lambda x: -np.logaddexp(0, -x)
    ),
    "the logarithm of the sigmoid's complement is returned": lambda x: -np.logaddexp(0, x),
}


def of(logits: np.ndarray, action: np.ndarray | None = None) -> Case:
    """What is handed over."""
    values = {"logits": logits, "probs": np.exp(log_softmax(logits))}
    return values if action is None else values | {"action": action}


def explained(audit: Audit, values: Case, got: np.ndarray) -> bool:
    """Whether log-probabilities are right; if not, by which mistake, and at which row."""

    def chosen(table: np.ndarray) -> np.ndarray:
        return np.take_along_axis(table, values["action"][:, None], -1)[:, 0]

    expected = chosen(log_softmax(values["logits"]))
    alike = (text for text, table in TABLES.items()
             if np.allclose(got, chosen(table(values["logits"])), 1e-3, 1e-4))  # fmt: skip
    text = next(alike, UNLIKE.wrong)
    if not text:
        audit.choices.append("categorical")
        audit.hold(UNLIKE.check)
        return True
    i = int(np.argmax(~np.isclose(got, expected, 1e-3, 1e-3)))
    one = {r: v[i : i + 1] if isinstance(v, np.ndarray) else v for r, v in values.items()}
    rows = [("log-probability", expected[i : i + 1], got[i : i + 1])]
    drawn = None if audit.takes("action") else one["action"]
    audit.fail(UNLIKE._replace(wrong=text), audit.table(one, rows, drawn))
    return False


def discrete(audit: Audit) -> None:
    rng = np.random.default_rng(5)
    if not audit.takes("action"):
        samples(audit, rng)
        return
    values = of(rng.normal(size=(12, 4)), np.arange(12) % 4)
    try:
        got = audit.log_probs(values, 12).reshape(-1)
    except CannotCall:
        raise
    except (Exception, SystemExit):
        got = np.zeros(0)
    if got.shape != (12,):
        audit.batched = False
        got = audit.log_probs(values, 12).reshape(12)
    if not explained(audit, values, got):
        return
    values = of(np.tile(rng.normal(size=4), (4, 1)), np.arange(4))
    total = float(np.exp(audit.log_probs(values, 4)).sum())
    audit.verdict(abs(total - 1) < 1e-3, SUM, values, [("sum of probabilities", 1.0, total)])
    if audit.takes("logits"):  # as those of a policy that is nearly deterministic
        values = of(np.array([[0.0, 800.0], [-800.0, 0.0]]), np.array([0, 0]))
        got = audit.log_probs(values, 2).reshape(2)
        rows = [("log-probability", np.array([-800.0, -800.0]), got)]
        audit.verdict(bool(np.isfinite(got).all()), FAR_APART, values, rows)


def samples(audit: Audit, rng: np.random.Generator) -> None:
    values = of(np.tile(rng.normal(size=4), (MANY, 1)))
    found = [f.reshape(MANY) for f in audit.call(values, MANY) if f.size == MANY]
    if len(found) < 2:
        raise CannotCall(f"{audit.name} should return actions [N] and log-probabilities [N].")
    whole = [bool(np.all(f == np.round(f))) for f in found[:2]]
    got, action = found[:2] if whole == [False, True] else found[1::-1]
    action = action.astype(int)
    if explained(audit, values | {"action": action}, np.asarray(got)):
        p = values["probs"][0]
        counts = np.bincount(action, minlength=4)[:4]
        follows = stats.chisquare(counts, MANY * p).pvalue > LEVEL
        rows = [("frequencies", p, counts / MANY)]
        audit.verdict(follows, UNFOLLOWED, {"logits": values["logits"][0]}, rows)
