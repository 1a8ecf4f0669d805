"""Write docs/audit-gallery.md: functions in the style of tutorials, and what the audit says.

`python docs/gallery.py` (needs PyTorch for some of them).
"""

from pathlib import Path

from actorcritic import audit

HERE = Path(__file__).resolve().parent
PAGE = HERE / "audit-gallery.md"
FUNCTIONS = (
    "returns_list.py:compute_returns",
    "gae_numpy.py:compute_gae",
    "gae_torch.py:RolloutBuffer.compute_advantages",
    "actor_loss_torch.py:actor_loss",
    "ppo_loss_torch.py:ppo_loss",
    "squashed_torch.py:log_prob",
    "collect.py:collect_rollout",
)
HEAD = """# A gallery of silent errors

Functions as one finds them in tutorials. Each runs, trains, and is wrong; below each is what
`actorcritic audit` says of it, written by `python docs/gallery.py`.
"""


def said(name: str) -> str:
    """What the audit says of a function of the gallery."""
    return str(audit.of(str(HERE / "gallery" / name)))


def section(name: str, words: str) -> str:
    file = name.partition(":")[0]
    source = (HERE / "gallery" / file).read_text().strip()
    title = source.partition('"""')[2].partition('"""')[0].strip().rstrip(".")
    code = source.partition('"""')[2].partition('"""')[2].strip()
    command = f"actorcritic audit docs/gallery/{name}"
    return f"## {title}\n\n```python\n{code}\n```\n\n```\n$ {command}\n{words}\n```\n"


if __name__ == "__main__":
    PAGE.write_text("\n".join([HEAD, *(section(name, said(name)) for name in FUNCTIONS)]))
