"""v3bench doctor: what this machine can run, what it will skip, and why."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from v3bench.suite import models
from v3bench.suite.laws import kv
from v3bench.suite.ledger import cases as case_table
from v3bench.suite.ledger.cases import PROFILES, Case
from v3bench.suite.meter import machine
from v3bench.suite.meter.measurement import AREAS
from v3bench.suite.runner import BENCH

PYTHON = (3, 11)
# Package -> what is missing without it.
OPTIONAL = {
    "triton": "no Triton kernels",
    "transformers": "no comparison with the transformers package",
    "altair": "no charts in the report",
    "vl_convert": "no charts in the report",
    "jsonschema": "no test of the schemas",
    "pynvml": "no names and memory of GPUs",
}
SPARE_DISK = 1 << 30


def report() -> dict[str, Any]:
    """What is found, as JSON: machine, packages, checks with their consequence, and each case's fate."""
    torch = torch_state()
    device = "cuda" if torch["cuda"] else "cpu"
    total, available = machine.memory()
    facts = machine.describe(device)
    disk = shutil.disk_usage(Path.cwd()).free
    packages = {name: installed(name) for name in OPTIONAL}
    memory = torch["gpu_memory_available"] if device == "cuda" else available
    return {
        "python": platform.python_version(),
        "platform": facts["platform"],
        "device": device,
        "device_name": machine.device_name(facts),
        "cpu": facts["cpu"],
        "memory_bytes": {"total": total, "available": available},
        "disk_free_bytes": disk,
        "gpus": facts["gpus"],
        "driver": facts["driver"],
        "torch": torch,
        "packages": {**facts["packages"]},
        "checks": list(checks(torch, facts, packages, disk)),
        "cases": [fate(case, memory, device, packages) for case in case_table.load().values()],
        "areas_without_benchmark": [area for area in AREAS if not (BENCH / f"bench_{area}.py").is_file()],
    }


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # another program's import hook refuses it
        return False


def torch_state() -> dict[str, Any]:
    """Version of torch, whether it can use a GPU, and the free memory there; ``error`` where it cannot be imported."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return {
            "version": None,
            "cuda": None,
            "threads": 0,
            "gpu_memory_available": 0,
            "error": " ".join(str(error).split()),
        }
    usable = torch.cuda.is_available()
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda if usable else None,
        "threads": torch.get_num_threads(),
        "gpu_memory_available": torch.cuda.mem_get_info()[0] if usable else 0,
        "error": None,
    }


def checks(
    torch: Mapping[str, Any], facts: Mapping[str, Any], packages: Mapping[str, bool], disk: int
) -> Iterator[dict[str, Any]]:
    """One row per thing looked at: name, whether it is there, and what follows."""
    right = f"Python {'.'.join(map(str, PYTHON))} or newer is needed"
    yield row("python", sys.version_info >= PYTHON, platform.python_version(), right)
    yield row(
        "torch", torch["version"] is not None, torch["version"] or "missing", f"nothing can run: {torch['error']}"
    )
    if facts["gpus"] and not torch["cuda"]:
        yield row("GPU", False, facts["gpus"][0]["name"], "is not used: this build of torch sees no CUDA device")
    else:
        found = facts["gpus"][0]["name"] if facts["gpus"] else "none" if not torch["cuda"] else "found"
        yield row("GPU", bool(torch["cuda"]), found, "everything runs on the CPU; what needs a GPU is skipped")
    room = f"{disk / 1e9:.1f} GB free"
    yield row("disk", disk >= SPARE_DISK, room, "a run may be cut short; what was measured is kept")
    yield row(
        "commit", facts["commit"] is not None, (facts["commit"] or "none")[:12], "results name a version, not a commit"
    )
    for name, use in OPTIONAL.items():
        yield row(name, packages[name], "installed" if packages[name] else "missing", use)


def row(name: str, ok: bool, found: str, consequence: str) -> dict[str, Any]:
    """One check; a consequence only where it failed."""
    return {"name": name, "ok": ok, "found": found, "consequence": "" if ok else consequence}


def fate(case: Case, memory: int, device: str, packages: Mapping[str, bool]) -> dict[str, Any]:
    """Whether a case will run here, and if not all of it, why."""
    reasons = [reason for need in NEEDS if (reason := need(case, memory, device, packages))]
    profiles = [profile for profile in PROFILES if profile in case.profiles]
    return {"case": case.name, "area": case.area, "profiles": profiles, "runs": not reasons, "why": "; ".join(reasons)}


def needs_memory(case: Case, memory: int, device: str, packages: Mapping[str, bool]) -> str:
    """Real caches need room for the longest of their lengths."""
    if case.bench != "allocated":
        return ""
    tokens = case.shape["batch"] * max(case.shape["lengths"])
    sizes = {name: (kv.bytes_per_token(models.load(name)[1], "bf16") or 0) * tokens for name in case.subjects}
    short = {name: machine.shortage(size, memory, device) for name, size in sizes.items()}
    return "; ".join(f"{name} {why}" for name, why in short.items() if why)


def needs_transformers(case: Case, memory: int, device: str, packages: Mapping[str, bool]) -> str:
    """The other implementation is an optional package."""
    return (
        ""
        if "transformers" not in case.impls or packages["transformers"]
        else "the transformers package is not installed"
    )


def needs_checkpoint(case: Case, memory: int, device: str, packages: Mapping[str, bool]) -> str:
    """A checkpoint is only there when it is given."""
    return "runs only with --checkpoint DIR" if case.subjects == ("checkpoint",) else ""


def needs_device(case: Case, memory: int, device: str, packages: Mapping[str, bool]) -> str:
    """Kernels are timed on a GPU and interpreted on a CPU."""
    return case.elsewhere(device)


def needs_triton(case: Case, memory: int, device: str, packages: Mapping[str, bool]) -> str:
    """Without Triton there are no kernels."""
    kernel = case.area == "kernels" and case.bench != "ceilings"
    return "" if not kernel or packages["triton"] else "triton is not installed"


NEEDS: tuple[Callable[[Case, int, str, Mapping[str, bool]], str], ...] = (
    needs_memory,
    needs_transformers,
    needs_checkpoint,
    needs_device,
    needs_triton,
)


def skipped(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each area and reason, naming its cases; of many, the first and how many more."""
    groups: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        if not case["runs"]:
            groups.setdefault((case["area"], case["why"]), []).append(case["case"])
    more = {key: f" and {len(names) - 3} more" if len(names) > 3 else "" for key, names in groups.items()}
    return [
        f"    skipped: {area} {', '.join(names[:3])}{more[area, why]}: {why}" for (area, why), names in groups.items()
    ]


def kernels(found: Mapping[str, Any]) -> str:
    """What becomes of the kernels here, in a line."""
    own = [case for case in found["cases"] if case["area"] == "kernels"]
    here, all_ = sum(case["runs"] for case in own), len(own)
    if found["device"] == "cuda":
        return f"kernels: {here} of {all_} cases run on this GPU: v3bench run --only kernels --profile full"
    gpu = f"{all_ - here} time or check on a GPU, which needs a CUDA device and --profile full"
    return f"kernels: {here} of {all_} cases run here, under Triton's interpreter on small shapes; {gpu}"


def text(found: Mapping[str, Any]) -> list[str]:
    """The report as lines for a terminal."""
    memory = found["memory_bytes"]
    lines = [f"device: {found['device']} ({found['device_name']})"]
    lines += [f"memory: {memory['available'] / 1e9:.1f} of {memory['total'] / 1e9:.1f} GB available"]
    lines += [f"torch threads: {found['torch']['threads']}", ""]
    for check in found["checks"]:
        said = f"; {check['consequence']}" if check["consequence"] else ""
        lines.append(f"{'ok' if check['ok'] else '--':<4}{check['name']:<14}{check['found']}{said}")
    for profile in PROFILES:
        own = [case for case in found["cases"] if profile in case["profiles"]]
        lines += ["", f"{profile}: {sum(case['runs'] for case in own)} of {len(own)} cases run here"]
        lines += skipped(own)
    lines += ["", kernels(found)]
    lines += [f"no benchmark yet: {', '.join(found['areas_without_benchmark']) or 'none'}"]
    return lines
