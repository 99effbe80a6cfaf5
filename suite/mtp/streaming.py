"""How fast a streamed pass reads, beside a plain sequential read of the same files, and how much memory it takes.

Both begin with files that the page cache does not hold. The checkpoint is generated (suite/generated.py).
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import torch
from v3bench.kernels.block_quant import BLOCK, dequantize_into
from v3bench.model_ref.config import Config
from v3bench.model_ref.crew import Crew
from v3bench.model_ref.stream import MOST
from v3bench.model_ref.stream_weights import Source
from v3bench.suite import generated
from v3bench.suite.laws.streaming import Estimate, Rates, estimate
from v3bench.suite.meter.anonymous import Peak
from v3bench.suite.meter.page_cache import cached, evict
from v3bench.suite.mtp.streamed import Text, measure

PREFIX = "streaming-"
CHUNK = 16 << 20  # bytes of one plain read
COLD = 0.01  # share of the files that the cache may still hold
STATES = 4  # copies of all states that a pass holds at most: of two depths, of what the experts read, and of their sums
FLOATS = 4  # bytes
SPARE = 2  # times the files' size that has to be free


@dataclass(frozen=True)
class Round:
    """One plain read and one streamed pass, both from a cold cache; SI."""

    plain: float  # B/s
    streamed: float  # B/s
    seconds: float  # of the streamed pass
    peak: int  # bytes that anonymous memory grew by during it
    allowed: int  # bytes: two layers as stored and the activations

    @property
    def share(self) -> float:
        """Of the plain read's rate."""
        return self.streamed / self.plain


@contextmanager
def folder(raw: dict[str, Any], beside: Path | None, say: Callable[[str], None]) -> Iterator[Path]:
    """A generated checkpoint, removed at the end."""
    for left in beside.glob(f"{PREFIX}*") if beside else ():
        shutil.rmtree(left)  # of a run that was killed
    with TemporaryDirectory(prefix=PREFIX, dir=beside) as place:
        generated.write(Path(place), raw, say=say)
        yield Path(place)


def files(path: Path) -> list[Path]:
    """The files of weights."""
    return sorted(path.glob("*.safetensors"))


def cold(path: Path) -> bool:
    """Put the files out of the page cache; whether it lets them go, which a file system in memory does not."""
    evict(files(path))
    return cached(files(path)) <= COLD


def plain(path: Path) -> float:
    """Bytes a second of reading the files one after another."""
    buffer, count, began = bytearray(CHUNK), 0, time.perf_counter()
    for file in files(path):
        with file.open("rb", buffering=0) as raw:
            while got := raw.readinto(buffer):
                count += got
    return count / (time.perf_counter() - began)


def one_round(path: Path, windows: int, length: int, *, last: bool = False, **options: Any) -> Round:
    """Stream windows of random tokens, and read plainly before, or ``last``: neither always finds a warmer disk.

    Raises RuntimeError where the page cache cannot be emptied.
    """
    empty(path)
    reading = 0.0 if last else plain(path)
    with Source(path) as source:
        ids = torch.randint(source.config.vocab_size, (windows, length + 1), generator=torch.Generator().manual_seed(0))
        states = STATES * windows * length * source.config.hidden_size * FLOATS
        allowed = 2 * source.largest_layer + states
    empty(path)
    with Peak() as peak:
        found = measure(path, Text(ids, torch.full((windows,), float(length)).double()), keep=False, **options)
    if last:
        empty(path)
        reading = plain(path)
    return Round(reading, found.rate, found.seconds, peak.grown, allowed)


def empty(path: Path) -> None:
    """Put the files out of the page cache. Raises RuntimeError where they stay."""
    if not cold(path):
        raise RuntimeError("the page cache keeps the files")


def predicted(path: Path, windows: int, length: int, disk: float) -> Estimate:
    """What the law says of a pass, from the disk's rate and from this processor's own on an expert's matrices."""
    config = Config.from_file(path / "config.json")
    rows = max(1, windows * length * config.num_experts_per_tok // config.n_routed_experts)
    products, dequantised = processor(config.hidden_size, config.moe_intermediate_size, rows)
    return estimate(config, windows, length, Rates(disk, math.inf, products, dequantised))


def processor(D: int, F: int, rows: int, repeat: int = 10) -> tuple[float, float]:
    """(FLOP/s of products with an expert's matrix (F, D), values/s dequantised): all threads, a matrix each."""
    threads = min(torch.get_num_threads(), MOST)
    codes = [torch.zeros(F, D, dtype=torch.uint8).view(torch.float8_e4m3fn) for _ in range(threads)]
    scales = torch.ones(-(-F // BLOCK[0]), -(-D // BLOCK[1]))
    x, w = torch.randn(rows, D), [torch.zeros(F, D) for _ in range(threads)]

    def multiply(n: int) -> None:
        for _ in range(repeat):
            x @ w[n].T

    def dequantise(n: int) -> None:
        for _ in range(repeat):
            dequantize_into(w[n], codes[n], scales)

    with Crew(threads) as crew:
        seconds = []
        for work in (dequantise, multiply):
            list(crew.map(work, range(threads)))
            began = time.perf_counter()
            list(crew.map(work, range(threads)))
            seconds.append(time.perf_counter() - began)
    values = threads * repeat * F * D
    return 2 * rows * values / seconds[1], values / seconds[0]


def reduced(shape: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of DeepSeek-V3 in the sizes of a case."""
    return generated.Size(**{field.name: shape[field.name] for field in fields(generated.Size)}).config()


def no_room(raw: dict[str, Any], beside: Path | None) -> str:
    """Why the generated files do not fit on the disk, or ""."""
    wanted = SPARE * sum(entry.bytes for entry in generated.tensors(Config.from_dict(raw)))
    free = shutil.disk_usage(beside or gettempdir()).free
    return f"needs {wanted / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free" if wanted > free else ""
