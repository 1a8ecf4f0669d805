"""Calling anyone's loss: its roles, random cases of them, and every way to hand them over."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.findings import CannotCall
from actorcritic.audit.losses.cases import Case, log_softmax

# Our roles and their usual names; those with other underscores or an s are known as well.
ROLES: dict[str, tuple[str, ...]] = {
    role: tuple(names.split())
    for role, names in {
        "log_probs": (
            "logp new_log_prob log_probs_new logp_new new_logp log_pi action_log_probs "
            "curr_log_probs current_log_probs saved_log_probs logpac log_pi_a"
        ),
        "old_log_probs": (
            "log_prob_old logprobs_old old_logp logp_old behavior_log_probs behaviour_log_probs "
            "log_pi_old old_action_log_probs old_logpac prev_log_probs fixed_log_probs "
            "sample_log_prob old_log_pi"
        ),
        "ref_log_probs": "reference_log_probs ref_logp logp_ref",
        "advantages": "adv gae adv_targ td_error delta advantage_t",
        "values": (
            "v vf vpred new_value state_value critic_values predictions value_pred values_pred "
            "baseline pred_values current_values"
        ),
        "old_values": (
            "values_old value_old value_preds old_value_preds old_vpred prev_values old_v v_old "
            "rollout_values"
        ),
        "returns": (
            "ret target value_target td_target target_values discounted_returns rewards_to_go "
            "reward_to_go rtg R G discounted_rewards v_target lambda_returns q_values"
        ),
        "rewards": "rew r",
        "next_values": "next_state_values v_next next_v next_vpred vs_next",
        "dones": "terminated terminal terminations is_terminal d",
        "continues": "mask not_done nonterminal next_nonterminal",
        "truncated": "truncation timeouts",
        "last_value": "last_val bootstrap_value bootstrap final_value next_value_last v_last",
        "gamma": "discount discount_factor γ",
        "lam": "lambda_ lmbda gae_lambda gae_lam lamda lambd tau λ",
        "entropy": "entropies ent dist_entropy policy_entropy",
        "logits": "policy_logits action_logits new_logits",
        "probs": "probabilities action_probs policy pi",
        "means": "mu loc action_mean mean_actions μ",
        "stds": "sigma scale stddev action_std deviations σ",
        "log_stds": "log_sigma log_scale action_logstd",
        "actions": "act a",
        "clip_range": (
            "clip eps_clip clip_eps clip_epsilon clip_ratio clip_coef clip_param epsilon eps "
            "ppo_clip clipping ε"
        ),
        "value_clip_range": (
            "clip_range_vf clip_vf vf_clip value_clip vf_clip_param value_clip_eps "
            "clip_vloss_coef cliprange_value"
        ),
        "value_coefficient": (
            "vf_coef value_coef c1 value_loss_coef critic_coef value_coeff vf_coeff "
            "value_weight value_loss_weight critic_weight val_loss_coef"
        ),
        "entropy_coefficient": (
            "ent_coef entropy_coef c2 entropy_coeff beta_entropy entropy_weight entropy_bonus "
            "ent_weight entropy_beta ent_coeff entropy_scale"
        ),
        "kl_coefficient": "beta kl_coef kl_coeff kl_beta kl_weight kl_penalty β",
    }.items()
}

_LOGS = ("log_probs", "old_log_probs", "ref_log_probs")
# What a network puts out: the roles whose gradients a loss is for.
NETWORK = ("log_probs", "logits", "probs", "means", "stds", "log_stds", "values", "entropy")
# Handed in as data; whether to stop their gradient inside is a matter of style.
DATA = ("advantages", "old_log_probs", "ref_log_probs", "returns", "old_values", "rewards")
NUMBERS = {
    "gamma": 0.9,
    "lam": 0.7,
    "clip_range": 0.2,
    "value_clip_range": 0.2,
    "value_coefficient": 0.6,
    "entropy_coefficient": 0.3,
    "kl_coefficient": 0.4,
}
CHOICES = 3  # discrete actions


# ------------------------------------------------------------------------------ cases


class Layout(NamedTuple):
    """In which shapes the function is given its arrays."""

    words: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((6,), (4,))
    columns: tuple[str, ...] = ()  # roles that get a last axis of length 1
    dimensions: int = 0  # of an action whose log-probabilities come one by one
    size: int = 2  # of a continuous action
    bare: bool = False  # a continuous action of one dimension has no axis of its own
    shared: bool = False  # one deviation for all states
    alone: bool = False  # one row at a time

    @property
    def grid(self) -> bool:
        return len(self.shapes[0]) > 1


_GAUSSIAN = ("means", "stds", "log_stds")
_VECTORS = ("logits", "probs", *_GAUSSIAN)
_CRITIC = ("values", "old_values", "next_values")
_ROWS = tuple(r for r in ROLES if r not in (*NUMBERS, *_VECTORS, "last_value"))
FLAT = Layout("[B]")
MIXED = Layout("[B], values [B, 1]", columns=_CRITIC)
COLUMNS = Layout("[B, 1]", columns=_ROWS)
GRID = Layout("[T, B]", shapes=((4, 3), (3, 2)))
LAYOUTS = (
    *(FLAT, MIXED, COLUMNS, GRID),
    Layout("[B], log-probabilities [B, D]", dimensions=2),
    Layout("one row at a time", alone=True),
)
CONTINUOUS = (
    *(
        each
        for layout in (
            Layout("[B], actions [B, D]"),
            Layout("[B], actions [B, D], values [B, 1]", columns=_CRITIC),
            Layout("[B], actions [B]", size=1, bare=True),
            Layout("[B, 1]", columns=tuple(r for r in _ROWS if r != "actions"), size=1),
        )
        for each in (
            layout,
            layout._replace(words=f"{layout.words}, one deviation for all", shared=True),
        )
    ),
    Layout("one row at a time", size=1, bare=True, alone=True),
    Layout("one row at a time, actions [D]", alone=True),
)


def everything(
    rng: np.random.Generator, shape: tuple[int, ...], layout: Layout, continuous: bool
) -> Case:
    """Every role. Ranges are such that each clip acts on some of the elements, and some are far."""
    wide = (*shape, layout.dimensions) if layout.dimensions else shape

    def spread(around: float, near: float, far: float) -> np.ndarray:
        """Half of them near, the others far apart."""
        distant = rng.random(shape) < 0.5
        return around + rng.uniform(-1, 1, shape) * np.where(distant, far, near)

    logits = 1.5 * rng.normal(size=(*shape, CHOICES))
    x = Case({name: -1.2 + rng.uniform(-0.45, 0.45, wide) for name in _LOGS})
    dones = (rng.permutation(math.prod(shape)) % 2).reshape(shape).astype(float)
    x |= {
        "advantages": spread(0.3, 1.5, 6.0),
        "values": spread(0.5, 0.3, 3.0),
        "old_values": spread(0.5, 0.3, 3.0),
        "next_values": spread(0.5, 0.6, 3.0),
        "last_value": float(rng.uniform(1.0, 2.0)),
        "returns": spread(0.5, 1.0, 6.0),
        "rewards": spread(0.5, 1.0, 4.0),
        "dones": dones,
        "truncated": (1 - dones) * rng.integers(2, size=shape),
        "continues": 1 - dones,
        "entropy": rng.uniform(0.3, 1.5, shape),
        "logits": logits,
        "probs": np.exp(log_softmax(logits)),
        "actions": rng.integers(CHOICES, size=shape),
    }
    # One bad action has become much likelier: a dual clip acts on it.
    x["log_probs"][0] += 0.6
    x["old_log_probs"][0] -= 0.6
    x["advantages"][0] = -np.abs(x["advantages"][0])
    if continuous:
        own = (*shape, layout.size)
        stds = rng.uniform(0.4, 1.3, own[-1:] if layout.shared else own)
        x |= {"means": rng.normal(size=own), "stds": stds, "log_stds": np.log(stds)}
        x |= {"actions": x["means"] + stds * rng.normal(size=own)}
    return x | NUMBERS


def simple(x: Case) -> Case:
    """The same with numbers of few digits."""
    floats = {r: v for r, v in x.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"}
    x = x | {r: np.round(2 * v) / 2 for r, v in floats.items()}
    x |= {"probs": np.exp(log_softmax(x["logits"]))}
    x |= {"log_stds": np.log(x["stds"])} if "stds" in x else {}
    return x | {role: 1.0 for role in NUMBERS if role.endswith("_coefficient")}


# ------------------------------------------------------------------------------ the function


class Measured(NamedTuple):
    total: float
    gradients: dict[str, np.ndarray]  # of the roles that were differentiated


# What PyTorch code is given: of a network's outputs, and of data.
Handing = tuple[str, str]
_TENSORS, _LIST, _LIST1 = "tensors", "lists of tensors", "lists of tensors [1]"
TENSORS: Handing = (_TENSORS, _TENSORS)
HANDINGS: list[Handing] = [
    *(TENSORS, (_TENSORS, "floats"), (_TENSORS, "arrays"), (_LIST, _LIST), (_LIST, _TENSORS)),
    *((_LIST, "floats"), (_LIST1, "floats"), (_LIST1, _LIST1), (_LIST1, _TENSORS)),
]
_TOTALS = ("total_loss", "loss", "total", "actor_loss", "policy_loss", "pg_loss", "critic_loss")


def _total(result: Any, summed: bool) -> Any:
    """The total among what came back: the value itself, the first, or the one named so.

    `summed`: they are losses side by side, and what is minimised is their sum.
    """
    if isinstance(result, (tuple, list)) and summed:
        return sum(_total(part, False) for part in result)
    result = result._asdict() if hasattr(result, "_asdict") else result
    result = vars(result) if isinstance(result, SimpleNamespace) else result
    if isinstance(result, Mapping):
        named = [result[name] for name in _TOTALS if name in result]
        result = [*named, *result.values()][0]
    elif isinstance(result, tuple) and result:
        return _total(result[0], False)
    if isinstance(result, list):
        return sum(result) / len(result)
    return result.mean() if getattr(result, "ndim", 0) else result


@dataclass
class Subject:
    """The user's function, as a function of cases."""

    function: Callable[..., Any]
    matched: calling.Matched
    framework: calling.Framework
    layout: Layout
    roles: frozenset[str]
    differentiated: tuple[str, ...] = ()
    handing: Handing = TENSORS
    summed: bool = False  # what comes back are losses side by side
    several: bool = False  # two or three things came back
    read: set[str] = field(default_factory=set)  # roles that a function of one case looked at

    @property
    def words(self) -> str:
        said = [str(self.framework), self.layout.words]
        if self.handing != TENSORS:
            said.append("outputs of networks as {}, data as {}".format(*self.handing))
        return ", ".join([*said, *(["the sum of its outputs"] if self.summed else [])])

    def shown(self, x: Case) -> Case:
        """The case as it is handed over."""
        layout = self.layout
        bare = (*_GAUSSIAN, *(("actions",) if "means" in self.roles else ()))

        def looks(role: str, value: Any) -> Any:
            if not isinstance(value, np.ndarray):
                return value
            if role in layout.columns:
                return value[..., None]
            return value[..., 0] if layout.bare and role in bare else value

        return Case({r: looks(r, x[r]) for r in ROLES if r in self.roles and r in x})

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...] | None = None) -> Case:
        """A random case of the roles that it takes; `actions` tell its shape in any case."""
        shape = shape or self.layout.shapes[0]
        return self._taken(everything(rng, shape, self.layout, "means" in self.roles))

    def simple(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Case:
        """With numbers of few digits."""
        return self._taken(simple(everything(rng, shape, self.layout, "means" in self.roles)))

    def _taken(self, x: Case) -> Case:
        return Case({r: v for r, v in x.items() if r in self.roles or r == "actions"})

    def __call__(self, x: Case) -> Measured:
        if not self.layout.alone:
            return self._measured(x)
        rows = len(x["actions"])
        found = [self._measured(_row(x, i, self.layout.shared)) for i in range(rows)]
        gradients = {
            role: np.stack([one.gradients[role] for one in found]).reshape(x[role].shape) / rows
            for role in found[0].gradients
        }
        return Measured(sum(one.total for one in found) / rows, gradients)

    def _measured(self, x: Case) -> Measured:
        shown = self.shown(x)
        if self.framework.name == "jax":
            total, gradients = self._jax(shown)
        elif self.framework.name.startswith("torch"):
            total, gradients = self._torch(shown)
        else:
            total, gradients = self._result(shown, self.framework), {}
        return Measured(
            float(total),
            {r: np.asarray(g, float).reshape(np.shape(x[r])) for r, g in gradients.items()},
        )

    def _result(
        self, given: Mapping[str, Any], framework: calling.Framework, convert: bool = True
    ) -> Any:
        """The total that comes back."""
        returned = calling.call(self.function, self.matched, given, framework, convert)
        self.read |= returned.read
        self.several = isinstance(returned.result, tuple) and 1 < len(returned.result) < 4
        return _total(returned.result, self.summed)

    def _jax(self, shown: Case) -> tuple[Any, dict[str, Any]]:
        import jax

        with self.framework.context():
            made = {
                r: self.framework.array(v) if isinstance(v, np.ndarray) else v
                for r, v in shown.items()
            }

            def loss(wanted: dict[str, Any]) -> Any:
                return self._result(made | wanted, self.framework, convert=False)

            wanted = {r: made[r] for r in self.differentiated}
            return jax.value_and_grad(loss)(wanted) if wanted else (loss({}), {})

    def _torch(self, shown: Case) -> tuple[Any, dict[str, Any]]:
        torch = importlib.import_module("torch")
        flat = calling.Framework("torch", self.framework.dtype)
        leaves = {
            r: flat.array(v, requires_grad=r in self.differentiated)
            for r, v in shown.items()
            if isinstance(v, (np.ndarray, np.floating, np.integer))
        }
        # Not the leaves themselves: code may change its arguments in place.
        given = dict(shown) | {
            r: self._handed(r, leaf * 1 if leaf.requires_grad else leaf, shown[r])
            for r, leaf in leaves.items()
        }
        if self.handing[1] == _TENSORS and "last_value" in given:
            given["last_value"] = torch.tensor(given["last_value"])
        total = torch.as_tensor(self._result(given, flat, convert=False))
        if self.differentiated and total.requires_grad:
            total.backward()
        gradients = {r: leaves[r].grad for r in self.differentiated}
        none = {r: np.zeros(leaves[r].shape) for r, g in gradients.items() if g is None}
        return total.detach(), gradients | none

    def _handed(self, role: str, tensor: Any, numbers: Any) -> Any:
        how = self.handing[role not in NETWORK]
        if how == "floats":
            return numbers.tolist()
        if how == "arrays":
            return np.array(numbers)
        if how in (_LIST, _LIST1) and tensor.ndim:
            return list(tensor.unbind()) if how == _LIST else list(tensor.split(1))
        return tensor


def _row(x: Case, i: int, shared: bool) -> Case:
    """One row of a case: what is an array has no axis for rows any more."""
    keep = ("stds", "log_stds") if shared else ()
    return Case(
        {r: v[i] if isinstance(v, np.ndarray) and r not in keep else v for r, v in x.items()}
    )


# ------------------------------------------------------------------------------ ways to call it


def mappings(
    function: Callable[..., Any], mapping: Mapping[str, str] | None
) -> Iterator[Mapping[str, str] | None]:
    """What its parameters may be, the likeliest first.

    Beside a new_value, a plain value is the old one; so are log-probabilities. Beside a sequence of
    rewards, one next value is often that of the state after the last step.
    """
    said = dict(mapping or {})
    names: list[str] = []
    with contextlib.suppress(TypeError, ValueError):
        names = [n for n in inspect.signature(function).parameters if n not in said]
    for role in ("log_probs", "values"):
        same = [n for n in names if calling.match_name(n, ROLES) == role]
        plain = [n for n in same if not re.match(r"new|curr", n)]
        taken = any(calling.match_name(n, ROLES) == f"old_{role}" for n in names)
        if len(same) == 2 and len(plain) == 1 and not taken:
            said[plain[0]] = f"old_{role}"
    yield said
    one = [n for n in names if n in ("next_value", "next_v", "v_next")]
    if one and "rewards" in names:
        yield said | {one[0]: "last_value"}


def _frameworks(function: Callable[..., Any], matched: calling.Matched) -> list[calling.Framework]:
    options = [f for f in calling.frameworks(function, matched) if f.name != "torch-list"]
    if options[0].name in ("numpy", "list"):
        # Code that is bound to no library runs with gradients in the one that its module imports.
        modules = getattr(inspect.unwrap(function), "__globals__", {}).values()
        imported = {m.__name__ for m in modules if inspect.ismodule(m)}
        better = "torch" if "torch" in imported else "jax"
        options.sort(key=lambda option: option.name != better)
    return options


def subjects(
    function: Callable[..., Any], matched: calling.Matched, failed: list[str]
) -> Iterator[Subject]:
    """Every way in which the function can be called, the likeliest first: of one framework."""
    taken = frozenset(r for r in ROLES if matched.takes(r))
    continuous = "means" in taken and not matched.takes_case
    floats = tuple(r for r in (*NETWORK, *DATA, "next_values") if r in taken)
    network = tuple(r for r in floats if r in NETWORK)
    for framework in _frameworks(function, matched):
        ran = False
        handings = HANDINGS if framework.name == "torch" else [TENSORS]
        layouts = CONTINUOUS if continuous else LAYOUTS
        for handing, layout in itertools.product(handings, layouts):
            if (
                (handing != TENSORS and (layout.grid or layout.columns))
                or (layout.columns and not taken & set(layout.columns))
                or (layout.dimensions and not {"log_probs", "old_log_probs"} & taken)
                or (layout.alone and ran)  # a batch is what it takes
            ):
                continue
            x = everything(np.random.default_rng(0), layout.shapes[0], layout, continuous)
            # As much as it can be differentiated by: code may turn data into numbers.
            wanted: tuple[tuple[str, ...], ...] = ((),)
            if framework.name in ("torch", "jax"):
                live = tuple(r for r in floats if r in NETWORK or r == "next_values")
                wanted = (floats, live, ())
                wanted = (network, ()) if handing[1] in ("floats", "arrays") else wanted
            for named in dict.fromkeys(wanted):
                subject = Subject(function, matched, framework, layout, taken, named, handing)
                try:
                    subject(x)
                except CannotCall:
                    raise
                except (Exception, SystemExit) as error:
                    failed.append(calling.one_line(error))
                    continue
                if matched.takes_case:
                    subject.roles = frozenset(subject.read)
                    subject.differentiated = tuple(r for r in named if r in subject.read)
                ran = True
                yield subject
                break
        if ran:
            return
