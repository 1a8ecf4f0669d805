"""The audit of RLHF's own parts: DPO's loss, and rewards of tokens that are shaped by a KL.

The numbers of a function are compared with definitions in float64, one line each: first the right
ones, with their choices, then the usual mistakes. The definition that reproduces the numbers
names what the code does (as in `losses.py`). Gradients are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.findings import UNJUDGED, WRONG, CannotCall, Fault, Ledger, Report

Case = dict[str, Any]  # our role → float64 array, or a number
CLOSE = 2e-4  # relative: float32 is within it

PAIR_ROLES: dict[str, tuple[str, ...]] = {
    role: tuple(names.split())
    for role, names in {
        "chosen_log_probs": (
            "policy_chosen_logps chosen_logps chosen_log_prob pi_chosen chosen_logp "
            "policy_chosen_logprobs chosen_logprobs pi_logps_chosen logp_chosen log_prob_chosen w"
        ),
        "rejected_log_probs": (
            "policy_rejected_logps rejected_logps rejected_log_prob pi_rejected rejected_logp "
            "policy_rejected_logprobs rejected_logprobs logp_rejected log_prob_rejected l"
        ),
        "reference_chosen_log_probs": (
            "reference_chosen_logps ref_chosen_logps ref_chosen ref_chosen_log_probs "
            "reference_chosen_logprobs ref_chosen_logprobs ref_logp_chosen reference_chosen"
        ),
        "reference_rejected_log_probs": (
            "reference_rejected_logps ref_rejected_logps ref_rejected ref_rejected_log_probs "
            "reference_rejected_logprobs ref_rejected_logprobs ref_logp_rejected "
            "reference_rejected"
        ),
        "beta": "β kl_coef kl_coefficient kl_beta temperature",
        "label_smoothing": "smoothing eps epsilon label_noise",
    }.items()
}
TOKEN_ROLES: dict[str, tuple[str, ...]] = {
    role: tuple(names.split())
    for role, names in {
        "scores": "score reward_score reward_scores sequence_reward rm_score rm_scores rewards r",
        "log_probs": "log_prob logprobs logp logps policy_logprobs old_logprobs pi_logprobs",
        "reference_log_probs": (
            "ref_log_probs ref_logprobs ref_logp reference_logprobs ref_log_prob ref_logps"
        ),
        "mask": "valid response_mask action_mask attention_mask masks padding_mask",
        "kl_coefficient": "beta kl_coef kl_coeff kl_beta kl_penalty β kl_ctl",
    }.items()
}


class Reading(NamedTuple):
    """One way to compute it; where it is wrong, the check it fails and what to say."""

    numbers: Callable[[Case], np.ndarray]
    said: str = ""  # a convention
    check: str = ""
    wrong: str = ""
    effect: str = ""
    mend: str = ""
    severity: str = WRONG


# ------------------------------------------------------------------------------------ DPO


def _log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -x)


def _margin(x: Case) -> np.ndarray:
    """h = log π/π_ref of the chosen answer, less that of the rejected one."""
    chosen = x["chosen_log_probs"] - x["reference_chosen_log_probs"]
    found: np.ndarray = chosen - (x["rejected_log_probs"] - x["reference_rejected_log_probs"])
    return found


def _smoothed(x: Case, logits: np.ndarray) -> np.ndarray:
    e = x["label_smoothing"]
    return -(1 - e) * _log_sigmoid(logits) - e * _log_sigmoid(-logits)


_BETTER = "-log_sigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))"
DPO_READINGS = [
    Reading(lambda x: _smoothed(x, x["beta"] * _margin(x))),
    Reading(
        lambda x: (_margin(x) - 1 / (2 * x["beta"])) ** 2,
        said="the loss of IPO: (h − 1/(2β))² (Azar et al. 2023, eq. 17)",
    ),
    Reading(
        lambda x: np.maximum(0.0, 1 - x["beta"] * _margin(x)),
        said="the hinge of SLiC in the place of −log σ",
    ),
    Reading(
        lambda x: _smoothed(x, x["beta"] * (x["chosen_log_probs"] - x["rejected_log_probs"])),
        check="reference-used",
        wrong="The reference's log-probabilities are left out.",
        effect="Nothing holds the policy to the reference, and answers that were likely before "
        "count as preferred.",
        mend=_BETTER,
    ),
    Reading(
        lambda x: _smoothed(x, -x["beta"] * _margin(x)),
        check="chosen-over-rejected",
        wrong="Chosen and rejected are the wrong way round.",
        effect="The policy learns to prefer what was rejected.",
        mend="the margin is that of the chosen answer less that of the rejected one",
    ),
    Reading(
        lambda x: _smoothed(x, _margin(x)),
        check="beta-in-the-margin",
        wrong="β is not used: the margin goes into the sigmoid as it is.",
        effect="It is DPO with β = 1, whatever β is set to.",
        mend=_BETTER,
    ),
    Reading(
        lambda x: x["beta"] * _smoothed(x, _margin(x)),
        check="beta-in-the-margin",
        wrong="β multiplies the loss, not the margin inside of the sigmoid.",
        effect="It is DPO with β = 1 and another learning rate: β no longer says what KL costs.",
        mend=_BETTER,
    ),
    Reading(
        lambda x: _smoothed(x, _margin(x) / x["beta"]),
        check="beta-in-the-margin",
        wrong="The margin is divided by β, not multiplied with it.",
        effect="A larger β then means more freedom, the other way round.",
        mend=_BETTER,
    ),
    Reading(
        lambda x: -1 / (1 + np.exp(-x["beta"] * _margin(x))),
        check="log-of-sigmoid",
        wrong="The loss is −σ(β h), without the logarithm.",
        effect="Pairs that are ranked wrongly by far have hardly any gradient.",
        mend="use log_sigmoid, which is also stable",
    ),
    Reading(
        lambda x: _smoothed(
            x,
            x["beta"]
            * (
                x["chosen_log_probs"]
                + x["reference_chosen_log_probs"]
                - x["rejected_log_probs"]
                - x["reference_rejected_log_probs"]
            ),
        ),
        check="reference-subtracted",
        wrong="The reference's log-probabilities are added, not subtracted, or swapped.",
        effect="Each answer is measured against how likely the other one was.",
        mend=_BETTER,
    ),
    Reading(
        lambda x: _log_sigmoid(x["beta"] * _margin(x)),
        check="loss-to-minimise",
        wrong="The sign is that of a quantity to maximise.",
        effect="An optimiser that minimises it unlearns the preferences.",
        mend=_BETTER,
    ),
]


def dpo_loss(function: Callable[..., Any], *, mapping: Mapping[str, str] | None = None) -> Report:
    """Audit DPO's loss (Rafailov et al. 2023, eq. 7) on log-probabilities of whole answers."""
    rng = np.random.default_rng(0)

    def case(size: int, beta: float, smoothing: float) -> Case:
        drawn = {role: rng.normal(-6.0, 2.0, size) for role in list(PAIR_ROLES)[:4]}
        return drawn | {"beta": beta, "label_smoothing": smoothing}

    plain = [case(4, 0.3, 0.0), case(3, 0.1, 0.0), case(5, 0.7, 0.0), case(1, 0.4, 0.0)]
    smooth = [case(4, 0.3, 0.1), case(5, 0.6, 0.2)]
    needed = ("chosen_log_probs", "rejected_log_probs")
    return _audit("dpo-loss", function, mapping, PAIR_ROLES, needed, plain, smooth, DPO_READINGS)


# ------------------------------------------------------------------------------------ tokens


def _log_ratio(x: Case) -> np.ndarray:
    found: np.ndarray = x["log_probs"] - x["reference_log_probs"]
    return found


def _at_last(x: Case, last: np.ndarray | None = None) -> np.ndarray:
    """The score in the last valid column (or in another) of each row, 0 elsewhere."""
    mask = x["mask"].astype(bool)
    last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], 1) if last is None else last
    found = np.zeros(mask.shape)
    found[np.arange(len(mask)), last] = x["scores"]
    return found


def _kl(x: Case, estimate: Callable[[np.ndarray], np.ndarray] = lambda d: d) -> np.ndarray:
    found: np.ndarray = x["kl_coefficient"] * estimate(_log_ratio(x)) * x["mask"]
    return found


_SHAPED = "rewards = -beta * (log_probs - ref_log_probs) * mask; rewards[last valid] += score"
TOKEN_READINGS = [
    Reading(lambda x: _at_last(x) - _kl(x)),
    Reading(
        lambda x: _at_last(x) - _kl(x, lambda d: np.exp(-d) - 1 + d),
        said="the KL of a token is estimated by k3, π_ref/π − 1 − log π_ref/π, in its reward",
    ),
    Reading(
        lambda x: _at_last(x) + _kl(x),
        check="kl-is-a-cost",
        wrong="The KL is added to the reward, not taken from it.",
        effect="The policy is paid for leaving the reference.",
        mend=_SHAPED,
    ),
    Reading(
        lambda x: _at_last(x) - _log_ratio(x) * x["mask"],
        check="kl-coefficient-used",
        wrong="β is not used.",
        effect="A nat of KL costs 1, whatever β is set to.",
        mend=_SHAPED,
    ),
    Reading(
        lambda x: _at_last(x),
        check="kl-used",
        wrong="No token pays for its KL.",
        effect="Nothing holds the policy to the reference.",
        mend=_SHAPED,
    ),
    Reading(
        lambda x: x["scores"][:, None] * x["mask"] - _kl(x),
        check="score-at-the-end",
        wrong="Every token is paid the whole score.",
        effect="Longer responses are paid more for the same score.",
        mend=_SHAPED,
    ),
    Reading(
        lambda x: _at_last(x, np.full(len(x["mask"]), x["mask"].shape[1] - 1)) - _kl(x),
        check="score-at-the-end",
        wrong="The score is put into the last column, which is padding in shorter responses.",
        effect="Their score is masked out: only the longest responses are paid.",
        mend=_SHAPED,
    ),
    Reading(
        lambda x: _at_last(x, np.zeros(len(x["mask"]), int)) - _kl(x),
        check="score-at-the-end",
        wrong="The score is put at the first token.",
        effect="No later token is credited with it.",
        mend=_SHAPED,
    ),
    Reading(
        lambda x: -_kl(x),
        check="score-used",
        wrong="The score is nowhere in the rewards.",
        effect="The policy learns nothing but to stay at the reference.",
        mend=_SHAPED,
    ),
    Reading(
        lambda x: _at_last(x) - x["kl_coefficient"] * _log_ratio(x),
        check="padding-left-out",
        wrong="Padding has a KL too.",
        effect="Whatever the tokens of padding happen to score moves returns and statistics.",
        mend=_SHAPED,
    ),
    Reading(
        lambda x: _at_last(x) - x["kl_coefficient"] * np.abs(_log_ratio(x)) * x["mask"],
        check="kl-estimate",
        wrong="The log-ratio of a token is made positive.",
        effect="The sum over a response is no estimate of the KL: it is too large, also at the "
        "reference itself.",
        mend=_SHAPED,
    ),
    Reading(
        lambda x: _at_last(x) - _kl(x, np.exp),
        check="kl-estimate",
        wrong="The ratio π/π_ref is taken in the place of its logarithm.",
        effect="Each token pays 1 at the reference itself, so that short responses win.",
        mend=_SHAPED,
    ),
]


def token_rewards(
    function: Callable[..., Any], *, mapping: Mapping[str, str] | None = None
) -> Report:
    """Audit the rewards of tokens: −β log π/π_ref each, the score at the last (Ziegler et al.).

    Arrays are [B, N], a row a response that is padded on the right.
    """
    rng = np.random.default_rng(1)

    def case(lengths: Sequence[int], width: int, beta: float) -> Case:
        shape = (len(lengths), width)
        mask = (np.arange(width) < np.array(lengths)[:, None]).astype(float)
        return {
            "scores": rng.normal(size=len(lengths)),
            "log_probs": rng.normal(-2.0, 1.0, shape),
            "reference_log_probs": rng.normal(-2.0, 1.0, shape),
            "mask": mask,
            "kl_coefficient": beta,
        }

    cases = [case((3, 5, 1), 5, 0.3), case((2, 4), 6, 0.1), case((4, 4, 2, 3), 4, 0.5)]
    needed = ("scores", "log_probs", "reference_log_probs")
    return _audit(
        "token-rewards", function, mapping, TOKEN_ROLES, needed, cases, [], TOKEN_READINGS
    )


# ------------------------------------------------------------------------------------ the engine


def _audit(
    kind: str,
    function: Callable[..., Any],
    mapping: Mapping[str, str] | None,
    roles: Mapping[str, tuple[str, ...]],
    needed: Sequence[str],
    plain: Sequence[Case],
    more: Sequence[Case],
    readings: Sequence[Reading],
) -> Report:
    name = calling.name_of(function)
    matched = calling.recognise(function, roles, mapping)
    missing = [role for role in needed if not matched.takes(role)]
    if missing:
        raise CannotCall(
            f"{name}: a function of the kind {kind} takes {', '.join(missing)} too; recognised: "
            f"{matched.describe()}. Map its parameters by --map."
        )
    takes_more = matched.takes("label_smoothing") and bool(more)
    cases = [*plain, *more] if takes_more else [*plain]
    if "mask" in roles and not matched.takes("mask"):  # then nothing is padding
        cases = [case | {"mask": np.ones_like(case["mask"])} for case in cases]
    constants = matched.constants
    cases = [case | constants for case in cases]
    failed, unknown = "", None
    for framework in calling.frameworks(function, matched):
        try:
            found = [_numbers(function, matched, case, framework) for case in cases]
        except (Exception, SystemExit) as error:  # another framework may fit
            failed = failed or f"({framework}) {calling.one_line(error)}"
            continue
        called = f"{framework}: {matched.describe()}"
        for reading in readings:
            said = _reproduces(reading, cases, found)
            if said is not None:
                return _report(name, kind, called, readings, reading, said, cases, found)
        unknown = unknown or (called, found)
    if unknown is None:
        raise CannotCall(f"{name} failed when called with {matched.describe()}: {failed}")
    strange = Reading(
        readings[0].numbers,
        check="definition",
        wrong="The numbers are neither those of the definition nor of a known mistake.",
        effect="What is learned is not what was meant.",
        mend=f"The definition, to compare it with: {_BETTER if kind == 'dpo-loss' else _SHAPED}",
        severity=UNJUDGED,
    )
    return _report(name, kind, unknown[0], readings, strange, "", cases, unknown[1])


def _numbers(
    function: Callable[..., Any], matched: calling.Matched, case: Case, framework: Any
) -> np.ndarray:
    """The first array that comes back."""
    result = calling.call(function, matched, case, framework).result
    if isinstance(result, tuple):
        result = result[0]
    if isinstance(result, Mapping):
        result = result.get("loss", result.get("rewards", next(iter(result.values()))))
    return np.asarray(calling.to_numpy(result), np.float64)


def _reproduces(reading: Reading, cases: Sequence[Case], found: Sequence[np.ndarray]) -> str | None:
    """Whether a reading gives the numbers of every case; as rows, their mean, or their sum."""
    expected = [reading.numbers(case) for case in cases]
    ways: tuple[tuple[str, Callable[[np.ndarray], Any]], ...] = (
        ("", lambda rows: rows),
        ("", np.mean),
        ("the loss is a sum over the batch, not a mean", np.sum),
    )
    for said, way in ways:
        pairs = [(np.asarray(way(e)), got) for e, got in zip(expected, found, strict=True)]
        if all(e.shape == g.shape and _close(e, g) for e, g in pairs):
            return said
    return None


def _close(expected: np.ndarray, got: np.ndarray) -> bool:
    scale = 1e-6 + np.abs(expected).max(initial=0.0)
    return bool(np.isfinite(got).all() and np.abs(expected - got).max(initial=0.0) <= CLOSE * scale)


def _report(
    name: str,
    kind: str,
    called: str,
    readings: Sequence[Reading],
    reading: Reading,
    said: str,
    cases: Sequence[Case],
    found: Sequence[np.ndarray],
) -> Report:
    ledger = Ledger(choices=[text for text in (reading.said, said) if text])
    ledger.not_checked.append("gradients: only the numbers are compared")
    if reading.severity == WRONG:
        ledger.hold(*(each.check for each in readings if each.check))
    if reading.check:
        smallest = int(np.argmin([got.size for got in found]))
        right, got = readings[0].numbers(cases[smallest]), found[smallest]
        expected = right if right.shape == got.shape else np.asarray(right.mean())
        example = "\n".join(
            [
                *(f"{role} = {_shown(value)}" for role, value in cases[smallest].items()),
                f"expected {_shown(expected)}",
                f"actual   {_shown(got)}",
            ]
        )
        ledger.fail(Fault(*reading[2:]), example)
    return ledger.report(name, kind, called)


def _shown(value: Any) -> str:
    return np.array2string(np.asarray(value, np.float64), precision=4, suppress_small=True)
