"""The audit of sixty tutorials that its authors had not seen: verdicts, and causes in words."""

import sys
from pathlib import Path

import pytest

from actorcritic import audit

FOLDER = Path(__file__).parent / "audit_tutorials"
sys.path.insert(0, str(FOLDER))
from expected import NUMPY_LISTS, SUBJECTS, Subject  # noqa: E402

sys.path.remove(str(FOLDER))


def says(texts: list[str], words: tuple[str, ...]) -> bool:
    """Whether a text has all the words of one of the options."""
    lower = [text.lower() for text in texts]
    return any(all(w in text for w in option.split()) for text in lower for option in words)


def verdict(subject: Subject) -> None:
    place = FOLDER / subject.file
    whole = subject.name is None
    report = audit.files(place) if whole else audit.of(f"{place}:{subject.name}", subject.kind)
    reports = list(report.reports) if whole else [report]
    wrong = [" ".join(found[:5]) for one in reports for found in one.failures]
    risks = [" ".join(found[:5]) for one in reports for found in one.risks]
    choices = [text for one in reports for text in one.choices]
    assert report.exit_code() == (1 if subject.verdict == "wrong" else 0), str(report)
    if subject.verdict == "wrong":
        assert all(says([text], subject.words) for text in wrong), str(report)
    elif subject.verdict == "risky":
        assert says(risks, subject.words), str(report)
    elif subject.verdict == "choice":
        assert says(choices, subject.words), str(report)


@pytest.mark.parametrize("subject", NUMPY_LISTS, ids=lambda s: s.name)
def test_lists(subject):
    verdict(subject)


@pytest.mark.extras
@pytest.mark.long
@pytest.mark.parametrize("subject", SUBJECTS[len(NUMPY_LISTS) :], ids=lambda s: s.name or s.file)
def test_pytorch(subject):
    pytest.importorskip("torch")
    verdict(subject)
