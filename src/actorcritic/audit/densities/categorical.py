"""Log-probabilities and samples of discrete actions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from actorcritic.audit.densities.rows import LEVEL, MANY, Case
from actorcritic.audit.findings import (
    RISKY,
    CannotCall,
    Fault,
)
from actorcritic.audit.losses.cases import log_softmax

if TYPE_CHECKING:
    from actorcritic.audit.densities.audit import Audit

_LOGITS = Fault(
    "log-softmax",
    "",
    "Probabilities do not sum to one: ratios, entropies and their gradients are wrong.",
    "log_prob = log_softmax(logits)[action]",
)


def _chosen(table: np.ndarray, action: np.ndarray) -> np.ndarray:
    return np.take_along_axis(table, action[:, None], -1)[:, 0]


def _discrete_fault(values: Case, got: np.ndarray) -> Fault | None:
    logits, action = values["logits"], values["action"]
    log_p = log_softmax(logits)
    tables = [
        ("", log_p),
        ("the probability is returned, not its logarithm", np.exp(log_p)),
        ("the logit is returned as if it were a log-probability", logits),
        ("the log-probability has the wrong sign", -log_p),
        ("softmax is taken over the batch, not over the actions", log_softmax(logits.T).T),
        ("each logit goes through a sigmoid: they are not alternatives", -np.logaddexp(0, -logits)),
        ("the logarithm of the sigmoid's complement is returned", -np.logaddexp(0, logits)),
    ]
    for text, table in tables:
        if np.allclose(got, _chosen(table, action), 1e-3, 1e-4):
            return _LOGITS._replace(wrong=text) if text else None
    return _LOGITS._replace(wrong="the log-probability is not that of a categorical distribution")


def logits_of(audit: Audit, rng: np.random.Generator, shape: tuple[int, ...]) -> Case:
    logits = rng.normal(size=shape)
    return {"logits": logits, "probs": np.exp(log_softmax(logits)), "key": audit.key()}


def discrete(audit: Audit) -> None:
    rng = np.random.default_rng(5)
    values = logits_of(audit, rng, (12, 4))
    if not audit.takes("action"):
        discrete_samples(audit, rng)
        return
    values["action"] = np.arange(12) % 4
    try:
        got = audit.only(audit.call(values, 12)).reshape(-1)
    except CannotCall:
        raise
    except (Exception, SystemExit):
        got = np.zeros(0)
    if got.shape != (12,):
        audit.batched = False
        rows = [
            {r: v[i] if isinstance(v, np.ndarray) else v for r, v in values.items()}
            for i in range(12)
        ]
        for row in rows:
            row["action"] = int(row["action"])
        got = np.array([audit.only(audit.call(row, 0)).reshape(()) for row in rows])
    fault = _discrete_fault(values, got)
    expected = _chosen(log_softmax(values["logits"]), values["action"])
    if fault is not None:
        i = int(np.argmax(~np.isclose(got, expected, 1e-3, 1e-3)))
        one = {r: v[i : i + 1] if isinstance(v, np.ndarray) else v for r, v in values.items()}
        audit.fail(
            fault, audit.table(one, [("log-probability", expected[i : i + 1], got[i : i + 1])])
        )
        return
    audit.choices.append("categorical")
    audit.hold("log-softmax")
    one_distribution(audit, rng)
    wide(audit)


def one_distribution(audit: Audit, rng: np.random.Generator) -> None:
    """Σ exp(log-probability) over all actions."""
    row = rng.normal(size=4)
    values = {"logits": np.tile(row, (4, 1)), "action": np.arange(4)}
    values["probs"] = np.exp(log_softmax(values["logits"]))
    total = float(np.exp(log_probs_of(audit, values)).sum())
    if abs(total - 1) < 1e-3:
        audit.hold("sums-to-one")
        return
    fault = _LOGITS._replace(
        check="sums-to-one", wrong="the probabilities of all actions do not sum to one"
    )
    audit.fail(fault, audit.table(values, [("sum of probabilities", 1.0, total)]))


def wide(audit: Audit) -> None:
    """Logits that are far apart, as those of a policy that is nearly deterministic."""
    if not audit.takes("logits"):
        return
    values: Case = {
        "logits": np.array([[0.0, 800.0], [-800.0, 0.0]]),
        "action": np.array([0, 0]),
    }
    got = log_probs_of(audit, values)
    if np.all(np.isfinite(got)):
        audit.hold("saturation")
        return
    fault = Fault(
        "saturation",
        "the log-probability is not finite for logits that are far apart",
        "A nearly deterministic policy turns the loss into NaN.",
        "log_probs = log_softmax(logits), not log(softmax(logits))",
        RISKY,
    )
    audit.fail(fault, audit.table(values, [("log-probability", np.array([-800.0, -800.0]), got)]))


def log_probs_of(audit: Audit, values: Case) -> np.ndarray:
    rows = len(values["action"])
    if audit.batched:
        return audit.only(audit.call(values, rows)).reshape(rows)
    return np.array([
        audit.only(audit.call(
            {r: int(v[i]) if r == "action" else v[i] for r, v in values.items()}, 0
        )).reshape(())
        for i in range(rows)
    ])  # fmt: skip


def discrete_samples(audit: Audit, rng: np.random.Generator) -> None:
    row = logits_of(audit, rng, (4,))
    values: Case = {
        r: np.tile(v, (MANY, 1)) if isinstance(v, np.ndarray) else v for r, v in row.items()
    }
    found = [f for f in audit.call(values, MANY) if f.size == MANY]
    if len(found) < 2:
        raise CannotCall(f"{audit.name} should return actions [N] and log-probabilities [N].")
    whole = [np.all(f == np.round(f)) for f in found[:2]]
    first = 1 if whole[1] and not whole[0] else 0
    action, got = (np.asarray(found[k]).reshape(MANY) for k in (first, 1 - first))
    action = action.astype(int)
    p = np.exp(log_softmax(row["logits"]))
    fault: Fault | None = _discrete_fault(values | {"action": action}, got)
    if fault is not None:
        small: Case = {"logits": row["logits"], "probs": p}
        rows = [("log-probability", np.log(p[action[:1]]), got[:1])]
        example = f"returned action  {action[0]}\n{audit.table(small, rows)}"
        audit.fail(fault, example)
        return
    audit.choices.append("categorical")
    audit.hold("log-softmax")
    counts = np.bincount(action, minlength=4)[:4]
    if stats.chisquare(counts, MANY * p).pvalue > LEVEL:
        audit.hold("samples")
        return
    fault = Fault(
        "samples",
        "the samples do not follow the probabilities that come with them",
        "The policy that acts is not the one whose log-probabilities are learnt from.",
        "Sample from softmax(logits), with a fresh random number for each row.",
    )
    audit.fail(fault, audit.table({"logits": row["logits"]}, [("frequencies", p, counts / MANY)]))
