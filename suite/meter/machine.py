"""What ran a benchmark: code, packages, CPU, GPU, driver. No host name, no clocks or watts.

Two runs on one machine give the same answer: what varies from second to second is not in here.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
SPARE = 1 << 30  # bytes left free, for the suite itself and for its neighbours
CODE = ("kernels", "model_ref", "baselines", "suite", "pyproject.toml")
PACKAGES = (
    "v3bench", "torch", "triton", "numpy", "safetensors", "transformers", "pytest", "pytest-benchmark", "pandas",
)  # fmt: skip


def describe(device: str) -> dict[str, Any]:
    """The facts of run.json about code and machine, for a run on ``device`` ("cpu" or "cuda")."""
    commit, dirty = revision()
    return {
        "commit": commit,
        "dirty": dirty,
        "lock_sha256": hashlib.sha256(LOCK.read_bytes()).hexdigest() if LOCK.is_file() else None,
        "packages": packages(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
        "cpu": {"model": cpu_model(), "cores": cores(), "threads": threads(), "memory_bytes": memory()[0]},
        **with_torch(gpus(), device),
    }


def device_name(facts: dict[str, Any]) -> str:
    """What the run's device is called: the GPU's name, or the CPU's with its cores."""
    if facts["device"] == "cuda":
        return ", ".join(gpu["name"] for gpu in facts["gpus"]) or "cuda"
    return f"{facts['cpu']['model']}, {facts['cpu']['cores']} cores"


@cache
def revision() -> tuple[str | None, bool]:
    """(commit of this code, whether its files differ from that commit); (None, False) outside a checkout."""
    # An environment inside somebody's checkout is not that checkout's code, hence the comparison with the top level.
    if Path(git("rev-parse", "--show-toplevel") or "/") != ROOT:
        return None, False
    return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", *CODE))


def git(*arguments: str) -> str | None:
    """What git prints, or None where it fails or is not installed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def packages() -> dict[str, str]:
    """Versions of the installed packages that matter."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | cuda_runtime()


def cuda_runtime() -> dict[str, str]:
    """The CUDA version torch was built with, beside the packages; nothing where it was built without."""
    try:
        import torch.version
    except (ImportError, OSError):
        return {}
    return {"cuda": torch.version.cuda} if torch.version.cuda else {}


def cpu_model() -> str:
    """The processor's name as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Threads that torch computes with on the CPU: all cores, unless OMP_NUM_THREADS or the like says otherwise."""
    import torch

    return torch.get_num_threads()


def last_cache() -> int:
    """Bytes of the CPU's last cache; 32 MiB where the system does not tell."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        if text[:-1].isdigit() and text[-1] in UNITS:
            sizes.append(int(text[:-1]) * UNITS[text[-1]])
    return max(sizes, default=32 << 20)


UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def memory() -> tuple[int, int]:
    """(total, available) bytes of main memory; a container's limit counts where it is the smaller."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = total
    try:
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        available = int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    limit, used = cgroup("memory.max"), cgroup("memory.current")
    if limit is not None and limit < total:
        total, available = limit, min(available, limit - (used or 0))
    return total, max(available, 0)


def shortage(nbytes: int, available: int, device: str) -> str:
    """Why this many bytes do not fit into the available ones with room to spare, or ""."""
    if nbytes <= available - SPARE:
        return ""
    spare = f"{SPARE / 1e9:.1f} GB spare"
    return f"needs {nbytes / 1e9:.1f} GB of {device} memory and {spare}; {available / 1e9:.1f} GB are available"


def cgroup(name: str) -> int | None:
    """A number of this container's cgroup (version 2), or None."""
    try:
        return int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


@cache
def gpus() -> dict[str, Any]:
    """{"gpus": [name, memory, compute capability and uuid of each], "driver": its version or None}, through NVML."""
    try:
        import pynvml
    except ImportError:
        return {"gpus": [], "driver": None}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {"gpus": [], "driver": None}
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            found.append(
                {
                    "name": pynvml.nvmlDeviceGetName(handle),
                    "memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                    "capability": ".".join(map(str, pynvml.nvmlDeviceGetCudaComputeCapability(handle))),
                    "uuid": pynvml.nvmlDeviceGetUUID(handle),
                }
            )
        return {"gpus": found, "driver": pynvml.nvmlSystemGetDriverVersion()}
    except pynvml.NVMLError:
        return {"gpus": [], "driver": None}
    finally:
        pynvml.nvmlShutdown()


def with_torch(found: dict[str, Any], device: str) -> dict[str, Any]:
    """``gpus`` with what only torch tells: SMs and bytes of L2, None of a GPU it does not see; and without the uuids.

    torch is asked in a run on "cuda" only, as it makes a context on the GPU.
    """
    seen = torch_gpus() if device == "cuda" else {}
    none = {"sms": None, "l2_bytes": None}
    listed = [
        {key: value for key, value in gpu.items() if key != "uuid"} | seen.get(gpu["uuid"], none)
        for gpu in found["gpus"]
    ]
    return {**found, "gpus": listed}


@cache
def torch_gpus() -> dict[str, dict[str, int | None]]:
    """SMs and bytes of L2 of each GPU that torch sees, by NVML's uuid."""
    import torch

    found: dict[str, dict[str, int | None]] = {}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        size = getattr(properties, "L2_cache_size", None)
        found[f"GPU-{properties.uuid}"] = {"sms": properties.multi_processor_count, "l2_bytes": size}
    return found
