"""The command line as a user has it, in a process of its own, for the tests that need that."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors.numpy

from actorcritic.runs import checkpoints

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "actorcritic-tests", "cli")
ENVIRONMENT = {**os.environ, "ACTORCRITIC_CACHE_DIR": str(CACHE), "JAX_PLATFORMS": "cpu"}
PROGRAM = [sys.executable, "-m", "actorcritic"]


def command(*words: Any, cwd: Path | None = None, **options: Any) -> subprocess.CompletedProcess:
    """Run one command to its end."""
    return subprocess.run(
        [*PROGRAM, *map(str, words)],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def start(*words: Any) -> subprocess.Popen:
    """Start one command and go on beside it."""
    return subprocess.Popen(
        [*PROGRAM, *map(str, words)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def benchmark(name: str) -> ModuleType:
    """A script of benchmarks/, as a module: what it measures often, tests do a few times."""
    path = Path(__file__).parent.parent / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    return module


def newest_update(run: Path) -> int:
    """The update of a run's newest checkpoint; -1 where there is none."""
    newest = checkpoints.newest(run / "checkpoints")
    return -1 if newest is None else int(newest.name.partition(".")[0])


def final_hashes(run: Path) -> dict[str, str]:
    """Of every leaf of a run's newest checkpoint, and of the rows of its rings."""
    newest = checkpoints.newest(run / "checkpoints")
    assert newest is not None
    leaves = safetensors.numpy.load_file(newest / checkpoints.STATE)
    assert len(leaves) > 10
    found = checkpoints.hashes({name: np.asarray(leaf) for name, leaf in leaves.items()})
    body = json.loads((newest / checkpoints.MANIFEST).read_text())["body"]
    for ring in body["rings"]:  # whose rows are in files of their own, named by their hashes
        found[ring["path"]] = json.dumps(ring)
    return found


def table(path: Path) -> list[str]:
    """The lines of a CSV file."""
    return path.read_text().splitlines()
