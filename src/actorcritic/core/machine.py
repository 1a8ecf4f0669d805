"""What this machine has: processors and memory."""

from __future__ import annotations

import os
from pathlib import Path


def cores() -> int:
    """The processors that this process may use, where the system says; else all of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# Where Linux says how much a container may use: control groups, second and first edition.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory() -> int | None:
    """Bytes of main memory that this process may use; None where nobody says."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):  # as on Windows
        return None
    for limit in map(Path, LIMITS):
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():  # or "max"
            found.append(int(text))
    return min(found)


def free_memory() -> int | None:
    """Bytes of it that nobody uses now, as Linux tells; None elsewhere."""
    told = Path("/proc/meminfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None
