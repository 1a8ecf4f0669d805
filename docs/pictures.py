"""Draw the pictures of the README and the docs: `python docs/pictures.py`.

Each is the learning curve of a training, which a command makes; tests/test_docs.py checks that
every picture has one, and that it is right up to the first step.
"""

import shlex
import shutil
import tempfile
from pathlib import Path

from actorcritic import cli

HERE = Path(__file__).resolve().parent
PICTURES = {"cartpole.png": "actorcritic train ppo CartPole-v1 --seeds 10"}


def draw(name: str) -> None:
    """Carry the command out in a folder for the while, and keep its picture."""
    _, *words = shlex.split(PICTURES[name])
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        if cli.main([*words, "--out", str(run)]):
            raise SystemExit(f"{name} was not drawn.")
        shutil.copyfile(run / "curve.png", HERE / name)


if __name__ == "__main__":
    for name in PICTURES:
        draw(name)
