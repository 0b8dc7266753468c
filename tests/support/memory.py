"""How much memory a call takes at its peak, in this process or in a server."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path


def peak_growth(call: Callable[[], object]) -> int:
    """Bytes by which a call made this process larger at its peak. What it returns is kept until then."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("self")
    result = call()
    peak = resident("self", "VmHWM")
    del result
    return peak - before


def resident(pid: int | str, field: str = "VmRSS") -> int:
    """Bytes of a process in memory now (``VmRSS``) or at its peak (``VmHWM``)."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    assert match, f"no {field} of process {pid}"
    return int(match[1]) * 1024
