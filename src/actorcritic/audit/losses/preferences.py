"""The audit of RLHF's own parts: DPO's loss, and rewards of tokens that are shaped by a KL.

The numbers of a function are compared with readings, as in `losses`; there is nothing to tell apart
here, neither terms nor weights, and the numbers themselves have to be the same, not their
proportions. Gradients are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.findings import UNJUDGED, CannotCall, Fault, Ledger, Report, listing
from actorcritic.audit.losses.cases import Case, Reading, Rows, k3, way_of

CLOSE = 2e-4  # relative: float32 is within it

# Our roles and their usual names.
PAIR_ROLES: dict[str, tuple[str, ...]] = {
    role: tuple(names.split())
    for role, names in {
        "chosen_log_probs": (
            "policy_chosen_logps pi_chosen chosen_logp policy_chosen_logprobs pi_logps_chosen "
            "logp_chosen log_prob_chosen w"
        ),
        "rejected_log_probs": (
            "policy_rejected_logps pi_rejected rejected_logp policy_rejected_logprobs "
            "logp_rejected log_prob_rejected l"
        ),
        "reference_chosen_log_probs": (
            "reference_chosen_logps ref_chosen_logps ref_chosen ref_chosen_logprobs "
            "ref_logp_chosen reference_chosen"
        ),
        "reference_rejected_log_probs": (
            "reference_rejected_logps ref_rejected_logps ref_rejected ref_rejected_logprobs "
            "ref_logp_rejected reference_rejected"
        ),
        "beta": "β kl_coef kl_coefficient kl_beta temperature",
        "label_smoothing": "smoothing eps epsilon label_noise",
    }.items()
}
TOKEN_ROLES: dict[str, tuple[str, ...]] = {
    role: tuple(names.split())
    for role, names in {
        "scores": "reward_score sequence_reward rm_score rewards r",
        "log_probs": "logp policy_logprobs old_logprobs pi_logprobs",
        "reference_log_probs": "ref_logprobs ref_logp",
        "mask": "valid response_mask action_mask attention_mask padding_mask",
        "kl_coefficient": "beta kl_coef kl_coeff kl_beta kl_penalty β kl_ctl",
    }.items()
}


class Kind(NamedTuple):
    """What a function of it is given, and what it may compute."""

    name: str
    roles: Mapping[str, tuple[str, ...]]
    needed: tuple[str, ...]
    plain: str  # the right form
    right: Rows
    choices: Mapping[str, Rows]  # right as well, in words
    mistakes: Mapping[tuple[str, str], tuple[str, Rows]]  # check and words; effect, what it gives

    @property
    def readings(self) -> list[Reading]:
        return [
            Reading(self.right),
            *(Reading(rows, (said,)) for said, rows in self.choices.items()),
            *(
                Reading(rows, (), Fault(check, wrong, effect, self.plain), self.right)
                for (check, wrong), (effect, rows) in self.mistakes.items()
            ),
        ]


# ------------------------------------------------------------------------------------ DPO


def _log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -x)


def _policy(x: Case) -> np.ndarray:
    """log π of the chosen answer, less that of the rejected one."""
    return np.asarray(x["chosen_log_probs"] - x["rejected_log_probs"])


def _reference(x: Case) -> np.ndarray:
    return np.asarray(x["reference_chosen_log_probs"] - x["reference_rejected_log_probs"])


def _margin(x: Case) -> np.ndarray:
    return _policy(x) - _reference(x)


def _smoothed(x: Case, logits: np.ndarray) -> np.ndarray:
    e = x["label_smoothing"]
    return np.asarray(-(1 - e) * _log_sigmoid(logits) - e * _log_sigmoid(-logits))


DPO = Kind(
    "dpo-loss",
    PAIR_ROLES,
    ("chosen_log_probs", "rejected_log_probs"),
    "-log_sigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))",
    lambda x: _smoothed(x, x["beta"] * _margin(x)),
    {
        "the loss of IPO: (h − 1/(2β))² (Azar et al. 2023, eq. 17)": (
            lambda x: (_margin(x) - 1 / (2 * x["beta"])) ** 2
        ),
        "the hinge of SLiC in the place of −log σ": (
            lambda x: np.maximum(0.0, 1 - x["beta"] * _margin(x))
        ),
    },
    {
        ("reference-used", "the reference's log-probabilities are left out"): (
            "Nothing holds the policy to the reference: likely answers count as preferred.",
            lambda x: _smoothed(x, x["beta"] * _policy(x)),
        ),
        ("chosen-over-rejected", "chosen and rejected are the wrong way round"): (
            "The policy learns to prefer what was rejected.",
            lambda x: _smoothed(x, -x["beta"] * _margin(x)),
        ),
        ("beta-in-the-margin", "β is not used: the margin goes into the sigmoid as it is"): (
            "It is DPO with β = 1, whatever β is set to.",
            lambda x: _smoothed(x, _margin(x)),
        ),
        ("beta-in-the-margin", "β multiplies the loss, not the margin inside of the sigmoid"): (
            "It is DPO with β = 1 and another learning rate: β no longer says what KL costs.",
            lambda x: x["beta"] * _smoothed(x, _margin(x)),
        ),
        ("beta-in-the-margin", "the margin is divided by β, not multiplied with it"): (
            "A larger β then means more freedom, the other way round.",
            lambda x: _smoothed(x, _margin(x) / x["beta"]),
        ),
        ("log-of-sigmoid", "the loss is −σ(β h), without the logarithm"): (
            "Pairs that are ranked wrongly by far have hardly any gradient.",
            lambda x: -1 / (1 + np.exp(-x["beta"] * _margin(x))),
        ),
        (
            "reference-subtracted",
            "the reference is added, not subtracted, or swapped",
        ): (
            "Each answer is measured against how likely the other one was.",
            lambda x: _smoothed(x, x["beta"] * (_policy(x) + _reference(x))),
        ),
        ("loss-to-minimise", "the sign is that of a quantity to maximise"): (
            "An optimiser that minimises it unlearns the preferences.",
            lambda x: _log_sigmoid(x["beta"] * _margin(x)),
        ),
    },
)


def dpo_loss(function: Callable[..., Any], *, mapping: Mapping[str, str] | None = None) -> Report:
    """Audit DPO's loss (Rafailov et al. 2023, eq. 7) on log-probabilities of whole answers."""
    rng = np.random.default_rng(0)

    def case(size: int, beta: float, smoothing: float = 0.0) -> Case:
        drawn = {role: rng.normal(-6.0, 2.0, size) for role in list(PAIR_ROLES)[:4]}
        return Case(drawn, beta=beta, label_smoothing=smoothing)

    cases = [case(4, 0.3), case(3, 0.1), case(5, 0.7), case(1, 0.4)]
    matched = calling.recognise(function, PAIR_ROLES, mapping)
    if matched.takes("label_smoothing"):
        cases += [case(4, 0.3, 0.1), case(5, 0.6, 0.2)]
    return _audit(DPO, function, matched, cases)


# ------------------------------------------------------------------------------------ tokens


def _log_ratio(x: Case) -> np.ndarray:
    return np.asarray(x["log_probs"] - x["reference_log_probs"])


def _cost(x: Case, of: Callable[[np.ndarray], np.ndarray] = np.asarray) -> np.ndarray:
    """β times an estimate of the KL, for every token."""
    return np.asarray(x["kl_coefficient"] * of(_log_ratio(x)) * x["mask"])


def _score(x: Case, place: Callable[[np.ndarray], Any] | None = None) -> np.ndarray:
    """The score in the last valid column (or in another) of each row, 0 elsewhere."""
    mask = x["mask"].astype(bool)
    found = np.zeros(mask.shape)
    last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], 1) if place is None else place(mask)
    found[np.arange(len(mask)), last] = x["scores"]
    return found


TOKENS = Kind(
    "token-rewards",
    TOKEN_ROLES,
    ("scores", "log_probs", "reference_log_probs"),
    "rewards = -beta * (log_probs - ref_log_probs) * mask; rewards[last valid] += score",
    lambda x: _score(x) - _cost(x),
    {
        "the KL of a token is estimated by k3, π_ref/π − 1 − log π_ref/π, in its reward": (
            lambda x: _score(x) - _cost(x, k3)
        ),
    },
    {
        ("kl-is-a-cost", "the KL is added to the reward, not taken from it"): (
            "The policy is paid for leaving the reference.",
            lambda x: _score(x) + _cost(x),
        ),
        ("kl-coefficient-used", "β is not used"): (
            "A nat of KL costs 1, whatever β is set to.",
            lambda x: _score(x) - _log_ratio(x) * x["mask"],
        ),
        ("kl-used", "no token pays for its KL"): (
            "Nothing holds the policy to the reference.",
            _score,
        ),
        ("score-at-the-end", "every token is paid the whole score"): (
            "Longer responses are paid more for the same score.",
            lambda x: x["scores"][:, None] * x["mask"] - _cost(x),
        ),
        (
            "score-at-the-end",
            "the score is in the last column: padding in shorter responses",
        ): (
            "Their score is masked out: only the longest responses are paid.",
            lambda x: _score(x, lambda mask: mask.shape[1] - 1) - _cost(x),
        ),
        ("score-at-the-end", "the score is put at the first token"): (
            "No later token is credited with it.",
            lambda x: _score(x, lambda mask: 0) - _cost(x),
        ),
        ("score-used", "the score is nowhere in the rewards"): (
            "The policy learns nothing but to stay at the reference.",
            lambda x: -_cost(x),
        ),
        ("padding-left-out", "padding has a KL too"): (
            "Whatever the tokens of padding happen to score moves returns and statistics.",
            lambda x: _score(x) - x["kl_coefficient"] * _log_ratio(x),
        ),
        ("kl-estimate", "the log-ratio of a token is made positive"): (
            "The sum over a response is too large to be the KL, also at the reference itself.",
            lambda x: _score(x) - _cost(x, np.abs),
        ),
        ("kl-estimate", "the ratio π/π_ref is taken in the place of its logarithm"): (
            "Each token pays 1 at the reference itself, so that short responses win.",
            lambda x: _score(x) - _cost(x, np.exp),
        ),
    },
)


def token_rewards(
    function: Callable[..., Any], *, mapping: Mapping[str, str] | None = None
) -> Report:
    """Audit the rewards of tokens: −β log π/π_ref each, the score at the last (Ziegler et al.).

    Arrays are [B, N], a row a response that is padded on the right.
    """
    rng = np.random.default_rng(1)
    matched = calling.recognise(function, TOKEN_ROLES, mapping)

    def case(lengths: Sequence[int], width: int, beta: float) -> Case:
        mask = (np.arange(width) < np.array(lengths)[:, None]).astype(float)
        return Case(
            scores=rng.normal(size=len(lengths)),
            log_probs=rng.normal(-2.0, 1.0, mask.shape),
            reference_log_probs=rng.normal(-2.0, 1.0, mask.shape),
            mask=mask if matched.takes("mask") else np.ones_like(mask),  # then nothing is padding
            kl_coefficient=beta,
        )

    cases = [case((3, 5, 1), 5, 0.3), case((2, 4), 6, 0.1), case((4, 4, 2, 3), 4, 0.5)]
    return _audit(TOKENS, function, matched, cases)


# ------------------------------------------------------------------------------------ the audit

_SUM = "the loss is a sum over the batch, not a mean"
_WAYS: dict[str, Callable[[np.ndarray], Any]] = {"rows": np.asarray, "mean": np.mean, _SUM: np.sum}


def _audit(
    kind: Kind, function: Callable[..., Any], matched: calling.Matched, cases: list[Case]
) -> Report:
    name = calling.name_of(function)
    missing = [role for role in kind.needed if not matched.takes(role)]
    if missing:
        raise CannotCall(
            f"{name}: a function of the kind {kind.name} takes {', '.join(missing)} too; "
            f"recognised: {matched.describe()}. Map its parameters by --map."
        )
    cases = [case | matched.constants for case in cases]

    def numbers(case: Case, framework: calling.Framework) -> np.ndarray:
        """The first array that comes back."""
        result = calling.call(function, matched, case, framework).result
        if isinstance(result, tuple):
            result = result[0]
        if isinstance(result, Mapping):
            result = result.get("loss", result.get("rewards", next(iter(result.values()))))
        return np.asarray(calling.to_numpy(result), np.float64)

    def audited(framework: calling.Framework) -> Report:
        found = [numbers(case, framework) for case in cases]
        ledger = _judged(kind, matched, cases, found)
        return ledger.report(name, kind.name, f"{framework}: {matched.describe()}")

    return calling.first_that_runs(function, matched, audited)


def _judged(
    kind: Kind, matched: calling.Matched, cases: list[Case], found: list[np.ndarray]
) -> Ledger:
    def close(expected: np.ndarray, got: np.ndarray) -> bool:
        allowed = CLOSE * (1e-6 + np.abs(expected).max(initial=0.0))
        return bool(np.abs(expected - got).max(initial=0.0) <= allowed)

    ledger = Ledger(not_checked=["gradients: only the numbers are compared"])
    readings, fault = kind.readings, None
    for reading in readings:
        how = way_of(_WAYS, [reading.rows(case) for case in cases], found, close)
        if how is not None:
            fault = reading.fault
            ledger.choices += [*reading.said, *([_SUM] if how == _SUM else [])]
            ledger.hold(*(each.fault.check for each in readings if each.fault))
            break
    else:
        fault = Fault(
            "definition",
            "the numbers are neither those of the definition nor of a known mistake",
            "What is learned is not what was meant.",
            f"The definition, to compare it with: {kind.plain}",
            UNJUDGED,
        )
    if fault is not None:
        smallest = int(np.argmin([got.size for got in found]))
        right, got = kind.right(cases[smallest]), found[smallest]
        expected = right if right.shape == got.shape else right.mean()
        given = [(matched.names.get(r, r), v) for r, v in cases[smallest].items()]
        what = kind.name.rpartition("-")[2]
        ledger.fail(fault, listing(given, [(what, expected, got)]))
    return ledger
