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
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature, native_specialize_impl
from v3bench.kernels.keys import settle
from v3bench.kernels.launch import Launch

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHARED_LIMIT = 232448  # bytes of shared memory that one CTA may use on sm_90: 227 KiB
SHARED_PER_SM = 233472  # bytes of an SM on sm_90: 228 KiB, of which each CTA takes 1 KiB more than it asks for
REGISTERS_PER_SM, THREADS_PER_SM, CTAS_PER_SM = 65536, 2048, 32
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)((?:\.\w+)*)([^;]*);")
WIDTH = {"16": 2, "32": 4, "64": 8, "128": 16, "U8": 1, "S8": 1, "U16": 2, "S16": 2}  # bytes of one lane's access


class Instruction(NamedTuple):
    """One line of SASS: its address, QGMMA and its like, what follows the point, the rest."""

    at: int
    opcode: str
    modifiers: str
    operands: str

    def flops(self, warps: int) -> int:
        """FLOPs that all warps of a CTA do with it: 64xNxK of a warpgroup, or 16x8xK of a warp; 0 for others."""
        if shape := re.search(r"\.(\d+)x(\d+)x(\d+)", self.modifiers):
            m, n, k = map(int, shape.groups())
            return 2 * m * n * k * max(warps // 4, 1)
        if self.opcode == "HMMA" and (deep := re.search(r"\.168(16|8)\b", self.modifiers)):
            return 2 * 16 * 8 * int(deep[1]) * warps
        return 0

    def nbytes(self, warps: int) -> int:
        """Bytes of global memory that all lanes of a CTA move with it; 0 for others and for the bulk copy engine."""
        if self.opcode not in ("LDG", "STG", "LDGSTS"):
            return 0
        named = [WIDTH[part] for part in self.modifiers.split(".") if part in WIDTH]
        return (named[-1] if named else 4) * 32 * warps


@dataclass(frozen=True)
class Compiled:
    """What one launch became: registers per thread, spilled bytes, shared memory, instructions by opcode."""

    triton: str  # the version of the compiler
    name: str
    warps: int
    registers: int
    stack_bytes: int  # of a thread's local memory: 0 unless registers spill
    shared_bytes: int  # of a CTA, static and dynamic
    instructions: Mapping[str, int]  # static count by opcode, the whole kernel
    loop: Mapping[str, int]  # the same, of the largest innermost loop; empty where there is none
    loop_flops: int  # matrix products of a CTA in one pass of that loop (in the whole kernel where there is none)
    loop_bytes: int  # of global memory, likewise; what the bulk copy engine moves is not in the code

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
    settle(launch.kernel)
    kernel, target = launch.kernel, GPUTarget("cuda", capability, 32)
    # The JIT's own way to what is specialised and to the options: its key in Triton's cache comes out, too, so that a
    # launch on a GPU finds what was compiled here.
    backend = make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    given = {**launch.args, **launch.options, "debug": False, "instrumentation_mode": ""}
    bound, specialised, options = bind(**given)
    options, signature, constants, attributes = kernel._pack_args(backend, given, bound, specialised, options)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    made = triton.compile(source, target=target, options=options.__dict__)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(made.asm["cubin"])
        usage = disassemble("--dump-resource-usage", path)
        sass = disassemble("--dump-sass", path)
    registers, stack = map(int, re.findall(r"REG:(\d+) STACK:(\d+)", usage)[0])
    code = [Instruction(int(at, 16), *rest) for at, *rest in INSTRUCTION.findall(sass)]
    code = [line for line in code if line.opcode != "NOP"]
    loop, warps = largest_loop(code), made.metadata.num_warps
    return Compiled(
        triton=triton.__version__,
        name=made.metadata.name,
        warps=warps,
        registers=registers,
        stack_bytes=stack,
        shared_bytes=made.metadata.shared,
        instructions=dict(Counter(line.opcode for line in code)),
        loop=dict(Counter(line.opcode for line in loop)),
        loop_flops=sum(line.flops(warps) for line in loop or code),
        loop_bytes=sum(line.nbytes(warps) for line in loop or code),
    )


def specialise(value: Any) -> tuple[str, Any]:
    """Triton's own type and key of an argument, as a real launch would have them."""
    kind, key = native_specialize_impl(CUDABackend, value, False, True, True)
    return str(kind), key


def disassemble(flag: str, path: Path) -> str:
    """The output of Triton's cuobjdump."""
    return subprocess.run([TOOLS / "cuobjdump", flag, path], capture_output=True, text=True, check=True).stdout


def largest_loop(code: list[Instruction]) -> list[Instruction]:
    """The longest loop that holds no other: from a backward branch's target to the branch. [] where there is none."""
    spans = []
    for line in code:
        target = re.search(r"0x([0-9a-f]+)", line.operands) if line.opcode == "BRA" else None
        if target and int(target[1], 16) < line.at:
            spans.append((int(target[1], 16), line.at))
    inner = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    loops = [[line for line in code if first <= line.at <= last] for first, last in inner]
    # A loop that only waits for a barrier is short; the one that works is the longest.
    return max(loops, key=len, default=[]) if any(len(loop) > 8 for loop in loops) else []
