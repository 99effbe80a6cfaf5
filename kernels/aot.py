"""Ahead-of-time compilation for a GPU that is not there: what the compiler made of a launch.

Needs neither GPU nor driver; ptxas and the disassembler come with Triton. Cannot share a process with the
interpreter (TRITON_INTERPRET=1), and a failed assertion inside the compiler ends the process: callers use a child.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import ASTSource
from triton.runtime.jit import native_specialize_impl
from v3bench.kernels.launch import Launch

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHARED_LIMIT = 232448  # bytes of shared memory that one CTA may use on sm_90: 227 KiB
SHARED_PER_SM = 233472  # bytes of an SM on sm_90: 228 KiB, of which each CTA takes 1 KiB more than it asks for
REGISTERS_PER_SM, THREADS_PER_SM, CTAS_PER_SM = 65536, 2048, 32
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)((?:\.\w+)*)([^;]*);")


@dataclass(frozen=True)
class Compiled:
    """What one launch became: registers per thread, spilled bytes, shared memory, instructions by opcode."""

    name: str
    warps: int
    registers: int
    stack_bytes: int  # of a thread's local memory: 0 unless registers spill
    shared_bytes: int  # of a CTA, static and dynamic
    instructions: Mapping[str, int]  # static count by opcode, the whole kernel
    loop: Mapping[str, int]  # the same, of the largest innermost loop; empty where there is none

    @property
    def spills(self) -> bool:
        """Whether registers spill to memory."""
        return self.stack_bytes > 0 or any(self.instructions.get(op, 0) for op in ("STL", "LDL"))

    @property
    def ctas_per_sm(self) -> int:
        """How many CTAs fit on one SM at a time; 0 where one does not fit."""
        if self.shared_bytes > SHARED_LIMIT:
            return 0
        registers = -(-self.registers // 8) * 8 * 32 * self.warps
        by = [REGISTERS_PER_SM // max(registers, 1), THREADS_PER_SM // (32 * self.warps), CTAS_PER_SM]
        return min(*by, SHARED_PER_SM // (self.shared_bytes + 1024))


def compile(launch: Launch, capability: int = 90) -> Compiled:
    """Compile a launch (its tensors may lie on "meta") for sm_<capability>. Raises what the compiler raises."""
    kernel = launch.kernel
    names = [parameter.name for parameter in kernel.params]
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    given = {parameter.name: parameter.default for parameter in kernel.params if parameter.has_default}
    given |= launch.args
    for i, parameter in enumerate(kernel.params):
        value = given[parameter.name]
        kind, key = ("constexpr", value) if parameter.is_constexpr else specialise(value)
        signature[names[i]] = kind
        if kind == "constexpr":
            constants[(i,)] = value
        elif key == "D":
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(launch.options))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(made.asm["cubin"])
        usage = disassemble("--dump-resource-usage", path)
        sass = disassemble("--dump-sass", path)
    registers, stack = map(int, re.findall(r"REG:(\d+) STACK:(\d+)", usage)[0])
    code = INSTRUCTION.findall(sass)
    return Compiled(
        name=made.metadata.name,
        warps=made.metadata.num_warps,
        registers=registers,
        stack_bytes=stack,
        shared_bytes=made.metadata.shared,
        instructions=Counter(op for _, op, _, _ in code if op != "NOP"),
        loop=largest_loop([(int(at, 16), op, rest) for at, op, _, rest in code]),
    )


def specialise(value: Any) -> tuple[str, Any]:
    """Triton's own type and key of an argument, as a real launch would have them."""
    kind, key = native_specialize_impl(CUDABackend, value, False, True, True)
    return str(kind), key


def disassemble(flag: str, path: Path) -> str:
    """The output of Triton's cuobjdump."""
    return subprocess.run([TOOLS / "cuobjdump", flag, path], capture_output=True, text=True, check=True).stdout


def largest_loop(code: list[tuple[int, str, str]]) -> Counter[str]:
    """Opcodes of the longest loop that holds no other: from a backward branch's target to the branch."""
    spans = []
    for at, op, rest in code:
        target = re.search(r"0x([0-9a-f]+)", rest) if op == "BRA" else None
        if target and int(target[1], 16) < at:
            spans.append((int(target[1], 16), at))
    inner = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    first, last = max(inner, key=lambda span: span[1] - span[0], default=(0, -1))
    return Counter(op for at, op, _ in code if first <= at <= last and op != "NOP")
