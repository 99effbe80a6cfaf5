"""Kernels of one's own: ``--impl op=package.module:function`` read, imported, and entered beside ours in every case.

The name of such an implementation is "package.module:function"; the colon tells it from ours and the rivals.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger.cases import PROFILES, Case
from v3bench.suite.trials.registry import FILES

ALIASES = {"mla_decode": "paged_mla", "gqa_decode": "paged_gqa", "gemm": "fp8_gemm", "quantize": "quantize_tiles"}
FLAG = "--impl"
OPERATIONS = ", ".join(FILES) + "; short " + ", ".join(ALIASES)


def parse(text: str) -> tuple[str, str]:
    """``op=package.module:function`` -> (operation, "package.module:function"). Raises BadInput."""
    short, equals, name = text.partition("=")
    module, colon, function = name.partition(":")
    if not (short and equals and module and colon and function):
        right = "OP=package.module:function, as mla_decode=mine.kernels:decode"
        raise BadInput(f"{text!r} names no kernel", where=FLAG, right=right)
    op = ALIASES.get(short, short)
    if op not in FILES:
        raise BadInput(f"unknown operation {short!r}", where=FLAG, right=f"one of {OPERATIONS}")
    return op, name


def is_own(impl: str) -> bool:
    """Whether an implementation of a case is one's own."""
    return ":" in impl


def function(name: str) -> Callable[..., Any]:
    """What "package.module:function" names, from the working directory or the installed packages. Raises BadInput."""
    module, _, attribute = name.partition(":")
    where = f"{FLAG} {name}"
    here = str(Path.cwd())
    if not {"", here} & set(sys.path):
        sys.path.insert(0, here)  # as python -m has it
    try:
        found: Any = import_module(module)
    except (Exception, SystemExit) as error:  # whatever a foreign module does while it is imported
        said = " ".join(str(error).split())
        raise BadInput(f"{module} cannot be imported ({type(error).__name__}: {said})", where=where) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise BadInput(f"{getattr(found, '__file__', None) or module} has no {part!r}", where=where)
        found = getattr(found, part)
    if not callable(found):
        raise BadInput(f"is {type(found).__name__}, not callable", where=where, right="a function")
    call: Callable[..., Any] = found
    return call


def entered(cases: Mapping[str, Case], texts: Sequence[str]) -> dict[str, Case]:
    """The cases with each ``--impl`` behind the implementations of its operation's cases. Raises BadInput."""
    made = dict(cases)
    for op, name in dict.fromkeys(map(parse, texts)):
        function(name)
        for case in cases.values():
            if case.subjects == (f"kernels.{op}",):
                made[case.name] = replace(made[case.name], impls=(*made[case.name].impls, name))
    return made


def need_a_case(cases: Mapping[str, Case], texts: Sequence[str], profile: str, device: str) -> None:
    """Raise BadInput where a run of this profile on this device would leave one's own kernel out without a word."""
    for op, name in dict.fromkeys(map(parse, texts)):
        own = [case for case in cases.values() if case.subjects == (f"kernels.{op}",) and name in case.impls]
        here = [case for case in own if not case.elsewhere(device)]
        if not any(profile in case.profiles for case in here):
            profiles = [one for one in PROFILES if any(one in case.profiles for case in here)]
            right = f"--profile {' or '.join(profiles)}" if profiles else "another device"
            raise BadInput(
                f"the profile {profile} has no case of {op} on {device}", where=f"{FLAG} {name}", right=right
            )


def usage() -> list[str]:
    """How a function of one's own is called, an operation a line."""
    from v3bench.suite.trials import registry

    lines = [
        "--impl OP=package.module:function; the function gets its inputs by name. On a CPU it is called on small, odd",
        "shapes, whose widths (576, 512, 192, 128 below) differ: it should take them from its inputs.",
    ]
    for op in FILES:
        short = "".join(f" (short: {alias})" for alias, long in ALIASES.items() if long == op)
        lines += [f"  {op}{short}", f"      {' '.join(registry.load(op).calling.split())}"]
    return lines
