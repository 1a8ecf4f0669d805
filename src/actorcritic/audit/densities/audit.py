"""The audit of distributions: log-probabilities of actions, and of samples that come with them.

Truth is the density itself: the normal one, what a change of variables makes of it, and that it
integrates to one. As in `losses`, the usual mistakes are *readings* of one line each, and the one
that reproduces the numbers names what the code does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.densities import categorical, normal
from actorcritic.audit.densities.calls import ROLES, Audit
from actorcritic.audit.findings import CannotCall, Report


def distribution(
    function: Callable[..., Any], *, mapping: Mapping[str, str] | None = None
) -> Report:
    """Audit a log-probability, or a sample with its log-probability.

    Of an action, or of the draw before a tanh, given mean and std or log_std, and the bounds or
    scale of the action; of samples `(action, log_prob)` from mean and std; or of discrete actions
    given logits or probs.
    """
    matched = calling.recognise(function, ROLES, mapping)
    name = calling.name_of(function)
    taken = frozenset(r for r in ROLES if matched.takes(r))

    def audited(framework: calling.Framework) -> Report:
        audit = Audit(function=function, matched=matched, framework=framework, roles=taken)
        if matched.takes_case:
            rng = np.random.default_rng(0)
            case = audit.values(audit.point(rng, 3, 2), False)
            audit.roles = audit.returned(case | categorical.of(rng.normal(size=(3, 4)))).read
        if audit.takes("mean"):
            given = audit.takes("action", "unsquashed")
            (normal.densities if given else normal.samples)(audit)
        elif audit.takes("logits", "probs"):
            categorical.discrete(audit)
        else:
            raise CannotCall(
                f"{name}: a distribution is a function of mean and std (or log_std), or of "
                f"logits; recognised: {matched.describe()}. Map its other parameters by --map."
            )
        layout = "[N, D]" if audit.batched else "one action [D] at a time"
        return audit.report(name, "distribution", f"{framework}, {layout}: {matched.describe()}")

    return calling.first_that_runs(function, matched, audited)
