"""Which row of a batch is which step: nothing lost, nothing twice, none of another episode."""

from __future__ import annotations

import numpy as np

from actorcritic.audit.findings import CannotCall
from actorcritic.audit.rollouts.facts import Facts, by_time, placed, shown
from actorcritic.audit.rollouts.worlds import Key, Reset, Stepped, code, length


def check_seeds(judge: Facts) -> None:
    name = "environments-seeded-apart"
    effect = (
        "The environments give the same episodes: fewer different transitions than rows, "
        "gradients averaged over copies, and in the extreme a policy fitted to one start."
    )
    for call in range(judge.world.call + 1):
        first: dict[int, int] = {}
        for diary in judge.world.diaries:
            seeds = [r for r in diary.resets if r.call == call and r.seed is not None]
            told: dict[int, Reset] = {}
            for reset in seeds:
                assert reset.seed is not None
                if reset.seed in told:
                    before = told[reset.seed]
                    judge.verdict.say(
                        name,
                        f"An environment is reset with the same seed at every episode "
                        f"(seed={reset.seed}).",
                        effect,
                        f"environment {diary.index}: episodes {before.episode} and "
                        f"{reset.episode} are both reset with seed={reset.seed}\n"
                        f"random number of their starts: expected two different ones, actual "
                        f"{before.draw:.4f} and {reset.draw:.4f}",
                        "Give the seed to the first reset only; later ones call reset().",
                    )
                    return
                told[reset.seed] = reset
            if not seeds:
                continue
            seed = seeds[0].seed
            assert seed is not None
            if seed in first:
                judge.verdict.say(
                    name,
                    f"Several environments are given the same seed ({seed}).",
                    effect,
                    f"environments {first[seed]} and {diary.index}: the first reset of both "
                    f"has seed={seed}\nrandom number of their starts: expected two different "
                    f"ones, actual {seeds[0].draw:.4f} in both",
                    "Seed environment k with seed + k; a VectorEnv does so with one number, "
                    "envs.reset(seed=seed).",
                )
                return
            first[seed] = diary.index
    judge.verdict.hold(name)


def check_resets(judge: Facts) -> None:
    name = "only-ended-episodes-reset"
    for diary in judge.world.diaries:
        last: Key | None = None
        for event in diary.events:
            if isinstance(event, Stepped):
                last = event.key
            elif last is not None and not judge.is_end(last):
                cut = last
                last = None
                same_call = judge.call_of[cut] == event.call
                if same_call and not judge.flagged_as_cut(cut):
                    judge.verdict.say(
                        name,
                        "An environment whose episode goes on is reset, and no flag says so.",
                        "Its rows run from the middle of one episode into another: returns "
                        "and advantages are summed over two episodes.",
                        f"{placed(cut)}: the episode has {length(cut[0], cut[1])} steps; "
                        f"expected step {cut[2] + 1}, actual: a reset",
                        "Reset only the environments that are done: "
                        'envs.reset(options={"reset_mask": terminated | truncated}).',
                    )
                    return
    judge.verdict.hold(name)


def check_observations(judge: Facts) -> bool:
    name, verdict = "observations-copied", judge.verdict
    keys = [key for rows in judge.batches for key in rows.keys if key != (0, 0, 0)]
    made = sum(map(len, judge.steps.values()))
    known = [k for k in keys if (k[0], k[1]) in judge.draw and 0 <= k[2] <= length(k[0], k[1])]
    total = sum(len(rows.keys) for rows in judge.batches)
    if len(known) < total / 2 and not any(
        role in rows.fields for rows in judge.batches for role in ("valid", "masks")
    ):
        row = judge.batches[0].fields["observations"][0]
        raise CannotCall(
            "The observations in the batch are not those of the environment: the first row is "
            f"{shown(row)}, the first observation was "
            f"{shown(judge.observation(judge.world.diaries[0].steps[0].key))}. Leave "
            "normalisation and the like out of what is audited."
        )
    groups = [(rows, index) for rows in judge.batches for index in sorted(judge.steps)]
    for rows, index in groups:
        mine = [key for key in rows.keys if key[0] == index]
        seen = sorted(set(mine), key=lambda k: k[1:])
        if len(mine) >= 5 and made >= 5 and len(seen) <= max(2, len(mine) // 5):
            steps = [k for k in judge.steps[index] if judge.call_of[k] == rows.call]
            expected = " ".join(shown(judge.observation(k)[:3]) for k in steps[:4])
            actual = " ".join(shown(np.array(k)) for k in mine[:4])
            example = (
                f"environment {index}, the first four rows as (environment, episode, time):\n"
                f"expected {expected}\nactual   {actual}"
            )
            if seen[-1] == steps[0]:
                verdict.say(
                    "observation-in-its-row",
                    "Every row holds the first observation: it is never replaced.",
                    "The policy acts on, and learns from, an observation that is long past.",
                    example,
                    "Set obs = next_obs at the end of each step.",
                )
            else:
                verdict.say(
                    name,
                    "Rows share one array: all of them show the last observation written.",
                    "Actions, rewards and returns are attributed to the last observation: "
                    "nothing can be learned, and nothing is raised.",
                    example,
                    "Store a copy: observations.append(np.array(obs)), or write into an array "
                    "of your own, observations[t] = obs.",
                )
            return False
    verdict.hold(name)
    mixed = [rows for rows in judge.batches if rows.layout == "mixed"]
    if mixed:
        order = [k[0] for k in mixed[0].keys]
        table = np.array(order).reshape(mixed[0].lead)
        verdict.say(
            "axes-agree",
            "Neither axis of the observations is that of one environment: the array was "
            "reshaped where its axes had to be exchanged.",
            "Neighbouring rows belong to different environments: every return, advantage and "
            "bootstrap mixes them.",
            f"observations of shape {mixed[0].lead}, the environment of each row\n"
            f"actual, first line: {' '.join(map(str, table[0, :8]))}\n"
            "expected: the same environment along one of the axes",
            "Exchange axes with swapaxes(0, 1), not with reshape.",
        )
    return not mixed


def check_drop(judge: Facts) -> None:
    """Leave out padding and rows declared not to be experience; find kept reset rows."""
    name = "reset-rows-dropped"
    keep: list[bool] = []
    ignored = 0
    resets: list[tuple[Key, int]] = []
    for rows in judge.batches:
        beyond = np.array([key not in judge.place for key in rows.keys])
        masks = rows.fields.pop("masks", None)
        if masks is not None:
            is_valid = bool(beyond[masks == 0].all()) and not (beyond & (masks != 0)).any()
            rows.fields.setdefault("valid" if is_valid else "not_dones", masks)
        valid = rows.fields.pop("valid", None)
        declared = np.ones(len(beyond), bool) if valid is None else np.asarray(valid) != 0
        for k, key in enumerate(rows.keys):
            padding = key == (0, 0, 0) and rows.draws[k] == 0
            ok = bool(declared[k]) and not padding
            if not ok:
                ignored += 1
                if declared[k] is np.False_ and not beyond[k] and not padding:
                    judge.verdict.choices.append("leaves out rows that are experience")
            elif beyond[k]:
                ok = False
                resets.append((key, k))
            keep.append(ok)
    if ignored and "rows that are no experience are marked" not in judge.verdict.choices:
        judge.verdict.choices.append("rows that are no experience are marked or zero")
    finals = [(key, k) for key, k in resets if key[2] == length(key[0], key[1])]
    if finals:
        key, at = min(finals, key=lambda x: by_time(x[0]))
        rewards = judge.batches[0].fields.get("rewards")
        got = f", reward {shown(rewards[at])}" if rewards is not None else ""
        judge.verdict.say(
            name,
            "Rows in which the environment only resets are kept as transitions.",
            "After every episode the policy learns from a transition that never was: from the "
            "end of one episode to the start of the next, with an action that was ignored.",
            f"environment {key[0]}: episode {key[1]} ended with its step at time "
            f"{key[2] - 1}\nexpected next row: episode {key[1] + 1}, time 0\n"
            f"actual next row: episode {key[1]}, time {key[2]}, its last observation{got}",
            "In NEXT_STEP mode, leave out the rows that follow a done (mark them as not "
            "valid), or make the environments with AutoresetMode.SAME_STEP and declare "
            'autoreset="same_step".',
        )
    else:
        judge.verdict.hold(name)
    other = [key for key, _ in resets if key[2] != length(key[0], key[1])]
    if other:
        judge.verdict.say(
            "observation-in-its-row",
            "Some rows hold an observation that the environment never gave.",
            "The policy learns from rows that never were.",
            f"{len(other)} rows, the first of which reads "
            f"{placed(other[0])}; expected only steps that were made",
            "Return only the rows that were written.",
        )
    judge.keys = [key for key, ok in zip(judge.keys, keep, strict=True) if ok]
    start = 0
    for rows in judge.batches:
        mine = np.array(keep[start : start + len(rows.keys)])
        start += len(rows.keys)
        rows.fields["_kept"] = mine


def check_axes_of_fields(judge: Facts) -> None:
    """A field laid out along other axes than the observations."""
    name = "axes-agree"
    for rows in judge.batches:
        wrong = rows.swapped[0] if rows.swapped else None
        kept = rows.fields["_kept"]
        number = len({key[0] for key in rows.keys})
        count = len(rows.keys)
        shapes = [rows.lead, rows.lead[::-1]] if len(rows.lead) == 2 else []
        if not shapes and number > 1 and count % number == 0:
            shapes = [(number, count // number), (count // number, number)]
        experienced = [key for key, ok in zip(rows.keys, kept, strict=True) if ok]
        for role in ("rewards", "actions", "dones", "terminated", "log_probs", "values"):
            got = rows.fields.get(role)
            true = judge.expected(role, experienced)
            if wrong or got is None or true is None or not experienced:
                continue
            if got[kept].size != true.size:
                continue
            if judge.same(got[kept].reshape(true.shape), true).mean() > 0.9:
                continue
            for shape in shapes:
                turned = got.reshape(*shape, *got.shape[1:]).swapaxes(0, 1)
                turned = turned.reshape(got.shape)[kept].reshape(true.shape)
                if judge.same(turned, true).mean() > 0.9:
                    wrong = role
                    rows.fields[role] = got.reshape(*shape, *got.shape[1:]).swapaxes(0, 1)
                    rows.fields[role] = rows.fields[role].reshape(got.shape)
                    break
        if wrong:
            shown = rows.lead if len(rows.lead) == 2 else (len(rows.keys),)
            second = experienced[1]
            judge.verdict.say(
                name,
                f"Time and environment are exchanged between the observations and {wrong}.",
                "Each row has another row's numbers: credit goes to steps of other "
                "environments, and training fails without an error.",
                f"observations {shown}: the second row is {placed(second)}\n"
                f"expected {wrong} of that step in the second row, "
                f"actual: {wrong} in the order of the other axis",
                "Bring every array to [time, environment] before it is flattened.",
            )
    judge.verdict.hold(name)


def check_lost(judge: Facts) -> None:
    name = "no-step-lost"
    have = set(judge.keys)
    lost: list[Key] = []
    for index, steps in judge.steps.items():
        present = [k for k, key in enumerate(steps) if key in have]
        if not present:
            continue
        lost += [key for key in steps[present[0] : present[-1]] if key not in have]
        # One extra step at the very end may be no more than a look ahead.
        tail = steps[present[-1] + 1 :]
        if tail and judge.is_end(tail[0]) and tail[0][1] == steps[present[-1]][1]:
            others = [s[-1] in have for i, s in judge.steps.items() if i != index and s]
            if all(others):
                lost.append(tail[0])
    if not lost:
        judge.verdict.hold(name)
        return
    key = min(lost, key=by_time)
    ends = [k for k in lost if judge.is_end(k)]
    last = len(ends) > len(lost) / 2
    if len(ends) == len(lost):  # one cause, where it keeps the rows after the ends instead
        judge.verdict.found.pop("reset-rows-dropped", None)
    judge.verdict.say(
        name,
        f"{len(lost)} steps that were made are in no row"
        + (", the last ones of their episodes." if last else "."),
        "The reward of these steps, often the only one that counts, is never learned from, "
        "and no row says that the episode ended."
        if last
        else "Returns are summed over rows that are not neighbours.",
        f"environment {key[0]}, episode {key[1]} of {length(key[0], key[1])} steps\n"
        f"expected rows at times 0 to {length(key[0], key[1]) - 1}, "
        f"actual: none at time {key[2]} (reward {shown(code(key))})",
        "Store the row before anything is done about the end of the episode.",
    )


def check_same_rows(judge: Facts) -> bool:
    """Where action and reward both belong to the step before, the observation is too late."""
    name = "observation-in-its-row"
    offsets = judge.offset("rewards"), judge.offset("actions")
    if not (offsets[0] == offsets[1] != 0):
        judge.verdict.hold(name)
        return True
    key = min((k for k in judge.keys if judge.beside(k, offsets[0])), key=by_time)
    true = judge.beside(key, offsets[0])
    assert true is not None
    when = "before" if offsets[0] < 0 else "after"
    # The rest follows from this.
    for consequence in ("reset-rows-dropped", "no-step-lost", name):
        judge.verdict.found.pop(consequence, None)
    judge.verdict.say(
        name,
        f"The observation of a row is not the one acted on: action and reward are those of "
        f"the step {when}.",
        "The policy is trained to give each observation the action of another one.",
        f"the row with the reward {shown(code(true))}\nexpected observation "
        f"{shown(judge.observation(true)[:3])}, actual {shown(np.array(key))} "
        "(environment, episode, time)",
        "Store the observation that the policy was given, before it is replaced.",
    )
    return False
