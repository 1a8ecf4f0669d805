"""Studies S6 and S7, quick: numbers against the truth, sentences against the numbers."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats

from actorcritic import lab
from actorcritic.lab import Measured
from actorcritic.studies import beside_exact, study
from actorcritic.studies import s6_estimator_bias_and_variance as variance
from actorcritic.studies import s7_log_density_of_squashed_actions as squashing
from actorcritic.studies.bench import Bench
from actorcritic.studies.beside_exact import Beside
from actorcritic.studies.s7_log_density_of_squashed_actions import Setting

RIGHT, NO_JACOBIAN, NO_SCALE, NEITHER = squashing.VARIANTS


@pytest.fixture(scope="module")
def s6():
    return study("S6", quick=True)


@pytest.fixture(scope="module")
def s7():
    return study("S7", quick=True, command="actorcritic study S7 --quick")


# ---------------------------------------------------------------------------------- S6


def besides(node):
    """Every measured number of a study's data that has its closed form beside it."""
    if isinstance(node, dict):
        if {"measured", "exact", "low", "high"} <= set(node):
            return [node]
        node = list(node.values())
    return [found for each in node for found in besides(each)] if isinstance(node, list) else []


@pytest.mark.long
def test_every_measured_number_is_near_its_closed_form(s6, s7):
    for result, count in ((s6, 115), (s7, 45)):
        found = besides(result.data()["numbers"])
        assert len(found) == count
        for each in found:
            error = (each["high"] - each["low"]) / (2 * 1.96)
            assert abs(each["measured"] - each["exact"]) <= 5 * error + 1e-6


def test_the_formula_of_n_step_returns_is_that_of_the_linear_solves():
    mdp = lab.chain(variance.CHAIN, (1.0,), reward_std=variance.SIGMA)
    policy = np.ones((mdp.states, 1))
    critic = lab.exact_critic(mdp, policy).shifted(variance.BIAS).noisy(variance.STD)
    for n in variance.STEPS:
        exact = lab.moments(mdp, policy, lab.n_step(n), critic)
        np.testing.assert_allclose(variance.n_step_formula(n), (exact.bias[0], exact.variance[0]))
    for limit in variance.gae_limits():
        exact = lab.moments(mdp, policy, lab.gae(limit.lam), critic)
        np.testing.assert_allclose(
            (limit.bias, limit.variance), (exact.bias[0, 0], exact.variance[0, 0])
        )


@pytest.mark.long
def test_what_s6_says_is_what_it_measured(s6):
    data = s6.data()
    numbers, sentences = data["numbers"], data["sentences"]
    n_step, by_lambda, *gradient, agreement = sentences
    mse = [row["mean_squared_error"]["measured"] for row in numbers["n_step"]]
    assert re.search(rf"least at n = {variance.STEPS[int(np.argmin(mse))]}\b", n_step)
    bias = [row["squared_bias"]["measured"] for row in numbers["n_step"]]
    assert f"goes from {bias[0]:.4f} [" in n_step
    assert f"to {bias[-1]:.6f} [" in n_step
    mse = [row["mean_squared_error"] for row in numbers["lambda"]]
    best = min(mse, key=lambda each: each["measured"])
    assert re.search(rf"least at λ = {variance.LAMBDAS[mse.index(best)]:g}\b", by_lambda)
    apart = best["high"] < min(mse[0]["low"], mse[-1]["low"])
    assert ("less than at both ends" in by_lambda) == apart

    found = numbers["gradient"]
    trace = {label: each["trace"]["measured"] for label, each in found.items()}
    none, _, exact, large = list(trace)[:4]
    assert f"has the total variance {trace[none]:.2f} [" in gradient[0]
    assert trace[exact] < trace[none] < trace[large]
    assert re.search(r"baseline [\d.]+ \[[\d., ]+\] \(less than without\)", gradient[0])
    assert re.search(r"too large [\d.]+ \[[\d., ]+\] \(more than without\)", gradient[0])
    share = trace["exact A = Q − V"] / trace[exact]
    assert f"{100 * share:.0f} % of what the exact baseline leaves" in gradient[1]
    assert "as a baseline it showed no bias" in gradient[2]
    assert "in the TD error it biases the gradient" in gradient[2]

    inside = sum(each["low"] <= each["exact"] <= each["high"] for each in besides(numbers))
    assert agreement.startswith(f"{inside} of 115 measured numbers")


def test_a_perfect_critic_reduces_the_variance_and_leaves_some(s6):
    found = s6.data()["numbers"]["gradient"]
    exact = {label: each["trace"]["exact"] for label, each in found.items()}
    assert 0 < exact["exact A = Q − V"] < exact["optimal baseline: G − b"]
    assert exact["optimal baseline: G − b"] < exact["exact critic: G − V"]
    assert exact["exact critic: G − V"] < exact["no baseline: G"]
    assert all(
        each["squared_bias"]["exact"] == pytest.approx(0, abs=1e-12)
        for label, each in found.items()
        if label != "critic ×3: TD error"
    )


def test_sentences_follow_what_is_measured():
    far, near = Beside(Measured(1.0, 0.01), 1.1), Beside(Measured(1.0, 0.01), 1.005)
    assert beside_exact.agreement([near, near]).startswith("2 of 2")
    assert "as chance would have it" in beside_exact.agreement([near])
    assert beside_exact.agreement([near, far]).startswith("1 of 2")
    assert "10.0 standard errors" in beside_exact.agreement([near, far])
    assert "more than chance" in beside_exact.agreement([far])
    x, y = Measured(1.0, 0.1), Measured(2.0, 0.1)
    assert beside_exact.more_or_less(x, y) == "less than"
    assert beside_exact.more_or_less(y, x) == "more than"
    assert beside_exact.more_or_less(x, Measured(1.2, 0.1)) == "cannot be told apart from"
    found = [Beside(each, 0.0) for each in (y, x, Measured(1.1, 0.1))]
    assert beside_exact.least_at("n", (1, 2, 3), found) == (
        1,
        "least at n = 2 (not told apart from 3)",
    )
    assert beside_exact.least_at("n", (1, 2), found[:2]) == (1, "least at n = 2")
    assert "no bias" in variance._biases(Measured(0.1, 0.1))
    assert "biases" in variance._biases(Measured(0.3, 0.1))


# ---------------------------------------------------------------------------------- S7


@pytest.mark.parametrize("setting", squashing.SETTINGS, ids=str)
def test_the_densities_are_those_of_an_independent_change_of_variables(setting):
    """By scipy alone: of the distribution function of the action, differentiated."""

    def distribution(a):
        u = np.arctanh((a - setting.low) / setting.half - 1)
        return stats.norm.cdf(u, setting.mean, setting.std)

    u = setting.mean + setting.std * np.linspace(-1.5, 1.5, 7)
    a = setting.low + (np.tanh(u) + 1) * setting.half
    step = 1e-5 * setting.half
    density = (distribution(a + step) - distribution(a - step)) / (2 * step)
    found = {name: np.exp(log_p) for name, log_p in squashing.log_densities(setting, u).items()}
    np.testing.assert_allclose(found[RIGHT], density, rtol=1e-4)
    np.testing.assert_allclose(found[NO_SCALE], density * setting.half, rtol=1e-4)
    np.testing.assert_allclose(found[NO_JACOBIAN], density / np.cosh(u) ** 2, rtol=1e-4)
    np.testing.assert_allclose(found[NEITHER], stats.norm.pdf(u, setting.mean, setting.std))


@pytest.mark.parametrize("setting", squashing.SETTINGS, ids=str)
def test_only_the_complete_density_integrates_to_1(setting):
    found = squashing.integrals(setting)
    assert found[RIGHT] == pytest.approx(1, abs=1e-6)
    for name, value in squashing.expected_integrals(setting).items():
        assert found[name] == pytest.approx(value, rel=1e-6)
    assert found[NO_JACOBIAN] < 0.95
    # Adaptive quadrature over the actions instead of sums over u.
    by_scipy, _ = integrate.quad(
        lambda a: np.exp(
            squashing.log_densities(
                setting, np.array([np.arctanh((a - setting.low) / setting.half - 1)])
            )[NO_JACOBIAN][0]
        ),
        setting.low + 1e-7 * setting.half,
        setting.high - 1e-7 * setting.half,
        epsabs=1e-5,
        limit=60,
    )
    assert by_scipy == pytest.approx(found[NO_JACOBIAN], rel=1e-3)


def test_what_cancels_and_what_does_not():
    setting = Setting(0.3, 0.7, -1.0, 5.0)
    found = squashing.what_cancels(setting)
    u = setting.mean + setting.std * np.random.default_rng(0).standard_normal(400_000)
    slope_u, factor = np.tanh(u), squashing.ALPHA * 0.99 / 0.01
    for each in found.values():
        assert each.ratio < 1e-12
        assert each.score < 1e-8
    # d/dμ E[log(1 − tanh² u)] = −2 E[tanh u], d/d log σ the same of (u − μ) tanh u.
    for name in (NO_JACOBIAN, NEITHER):
        assert found[name].entropy_by_mean == pytest.approx(2 * slope_u.mean(), abs=0.01)
        by_std = 2 * ((u - setting.mean) * slope_u).mean()
        assert found[name].entropy_by_log_std == pytest.approx(by_std, abs=0.01)
    assert found[NO_SCALE].entropy_by_mean < 1e-8
    assert found[NO_SCALE].entropy_by_log_std < 1e-8
    assert found[NO_SCALE].soft_value == pytest.approx(-factor * np.log(3))
    missing = -np.log(1 - slope_u**2).mean()
    assert found[NO_JACOBIAN].soft_value == pytest.approx(factor * missing, rel=0.01)
    both = found[NO_SCALE].soft_value + found[NO_JACOBIAN].soft_value
    assert found[NEITHER].soft_value == pytest.approx(both)


def test_what_s7_says_is_what_it_found(s7):
    data = s7.data()
    first, cancels, entropy, targets, _ = data["sentences"]
    found = [each["integral"] for each in data["numbers"]["integrals"]]
    assert "the density integrates to 1" in first
    for name in VARIANTS_LEFT_OUT:
        low, high = (end(each[name] for each in found) for end in (min, max))
        assert f"{low:.3g} to {high:.3g}" in first
    assert "both terms cancel" in cancels
    assert "do not cancel" not in cancels
    rows = data["numbers"]["entropy"]
    best = max(rows, key=lambda row: row["complete"]["measured"])
    assert f"greatest at σ = {best['std']:.2g}" in entropy
    assert f"to {rows[-1]['no_Jacobian']['measured']:.2f} at σ = 5" in entropy
    # It does go on growing, and no density over the range has more entropy than the uniform one.
    growing = [row["no_Jacobian"]["measured"] for row in rows]
    assert growing == sorted(growing)
    assert max(row["complete"]["exact"] for row in rows) < np.log(4)
    assert rows[-1]["no_Jacobian"]["low"] > np.log(4)
    values = data["numbers"]["what_cancels"]
    for name in (NO_JACOBIAN, NO_SCALE):
        assert f"{values[name]['soft_value']:+.1f} without the" in targets


VARIANTS_LEFT_OUT = (NO_JACOBIAN, NO_SCALE, NEITHER)


# ---------------------------------------------------------------------------------- both


@pytest.mark.long
def test_studies_print_and_write_a_report(s6, s7, tmp_path):
    for result, pictures in ((s6, 5), (s7, 3)):
        assert "(quick" in result.title
        printed = " ".join(str(result).split())
        page = result.report(tmp_path / f"{result.name}.html")
        text = page.read_text(encoding="utf-8")
        (section,) = result.sections()
        assert len(section.pictures) == pictures
        for picture in section.pictures:
            assert picture.figure.axes[0].lines
            assert picture.title in text
        assert len(list((tmp_path / f"{result.name}-pictures").glob("*.png"))) == pictures
        for table in section.tables:
            assert table.title in printed
        for sentence in result.data()["sentences"]:
            assert sentence in printed
        written = json.loads((tmp_path / f"{result.name}.json").read_text(encoding="utf-8"))
        assert written == json.loads(json.dumps(result.data()))
        assert written["study"] == result.name
    assert "actorcritic study S7 --quick" in text


def test_pictures_have_the_closed_form_beside_the_measurements(s6):
    (section,) = s6.sections()
    picture = next(p for p in section.pictures if p.name == "n-step")
    lines = picture.figure.axes[0].lines
    assert len(lines) == 6
    rows = s6.data()["numbers"]["n_step"]
    for i, part in enumerate(("squared_bias", "variance", "mean_squared_error")):
        np.testing.assert_allclose(lines[i].get_ydata(), [r[part]["measured"] for r in rows])
        np.testing.assert_allclose(lines[3 + i].get_ydata(), [r[part]["exact"] for r in rows])
    forms = next(p for p in section.pictures if p.name == "gradient-forms")
    marks = forms.figure.axes[0].lines[-len(s6.data()["numbers"]["gradient"]) :]
    exact = [each["trace"]["exact"] for each in s6.data()["numbers"]["gradient"].values()]
    np.testing.assert_allclose([mark.get_xdata()[0] for mark in marks], exact)


def test_a_study_is_the_same_each_time(s7):
    assert study("S7", quick=True).data() == s7.data()


def test_a_study_answers_as_those_that_train_do(s7):

    answer = squashing.answer(Bench("", quick=True, folder=None, quiet=True))
    assert answer.sentences == s7.answer.sentences
    assert answer.parts == ()


def test_the_snippets_of_the_docs_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).resolve().parent.parent / "docs" / "lab.md"
    snippets = re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.M)
    assert len(snippets) == 5
    names: dict = {}
    for snippet in snippets[:-1]:  # the last is a whole study, which runs above
        exec(snippet, names)
    assert "study(" in snippets[-1]
    assert names["found"].trace.agrees(
        lab.gradient_moments(names["world"], names["logits"], lab.td_error(), names["critic"]).trace
    )
