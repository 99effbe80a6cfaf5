"""A released checkpoint's loss on a text and what its MTP modules' drafts are worth, one layer in memory at a time.

measure    all windows through the checkpoint; saved on the way, and gone on with after a kill
Streamed   what was found, a sample for each window
text_of    windows of held-out files in the checkpoint's own tokens
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from v3bench.kernels.ops import TORCH, Ops
from v3bench.model_ref.config import Config
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.stream import Outcome, Pass
from v3bench.model_ref.stream_weights import Source
from v3bench.suite.meter import machine
from v3bench.suite.meter.allocation import trim
from v3bench.suite.meter.progress import Layers
from v3bench.suite.mtp.files import held_out
from v3bench.suite.mtp.saved import Saved
from v3bench.suite.tokens import Tokens, of_folder
from v3bench.suite.train.corpus import Corpus

ROOMY = 0.5  # share of the free memory below which a folder may stay in the page cache


@dataclass(frozen=True, eq=False)
class Text:
    """ids int64 (N, length + 1), all but the first predicted; nbytes (N) float64: of the text that these stand for, at
    the mean bytes per token of its file; files int64 (N): which file each is of, by default one of its own.
    """

    ids: Tensor
    nbytes: Tensor
    files: Tensor | None = None

    def by_file(self, values: Tensor) -> list[float]:
        """Sums over the windows of each file of values (N)."""
        files = torch.arange(len(self.ids)) if self.files is None else self.files
        place = files.unique(return_inverse=True)[1]
        sums = torch.zeros(int(place.max()) + 1, dtype=torch.float64).scatter_add_(0, place, values.double())
        found: list[float] = sums.tolist()
        return found


@dataclass(frozen=True, eq=False)
class Streamed:
    """Samples have one value a file, a mean over its windows.

    ``accepted`` and ``accurate`` have a list for each MTP module, and none without.
    """

    loss: list[float]  # nats per token
    bits_per_byte: list[float]
    accepted: list[list[float]]  # share of drafts that are the main head's argmax on the same true prefix
    accurate: list[list[float]]  # share that are the true token
    seconds: float  # of all sittings, saving out
    read: int  # bytes
    steps: int
    found: int  # steps that earlier sittings had done

    @property
    def rate(self) -> float:
        """Bytes read a second."""
        return self.read / self.seconds


def measure(
    folder: str | Path,
    text: Text,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    ops: Ops = TORCH,
    work: Path | None = None,
    keep: bool | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Streamed:
    """The text through the checkpoint. Raises BadInput for whatever of the folder or the text cannot be used.

    ``work`` is a folder for states on the way: where it holds those of the same weights, text and arithmetic, the pass
    goes on from there. ``keep``: whether the files may stay in the page cache; by default where they fit easily.
    """
    with Source(folder, dtype, ops) as source:
        name, total = Path(folder).resolve().name, sum(map(source.bytes, source.steps))
        saved = Saved(work, source, text.ids, dtype, say)
        done, states, spent = saved.found()
        if done:
            say(f"{name}: goes on behind {source.steps[done - 1]}, step {done} of {len(source.steps)}")
        before = sum(map(source.bytes, source.steps[:done]))
        keep = keep if keep is not None else total < ROOMY * machine.memory()[1]
        with Pass(source, text.ids, device=device, done=done, states=states, keep=keep) as one:
            progress, began, saving = Layers(name, len(source.steps), total - before, say), time.perf_counter(), 0.0
            while not one.finished:
                one.step()
                trim()  # the C library keeps what is freed, layer by layer, in pieces that nothing fits
                progress(one.done, sum(map(source.bytes, source.steps[done : one.done])))
                if not one.finished:
                    saving += saved.after(one, spent + time.perf_counter() - began - saving)
            outcome = one.outcome()
            seconds = spent + time.perf_counter() - began - saving
        saved.clear()
        return figures(outcome, text, seconds, total, len(source.steps), done)


def figures(outcome: Outcome, text: Text, seconds: float, read: int, steps: int, found: int) -> Streamed:
    """Means over the positions of each file."""

    def mean(values: Tensor) -> list[float]:
        sums, counts = text.by_file(values.double().sum(1)), text.by_file(torch.full((len(values),), values.shape[1]))
        return [a / b for a, b in zip(sums, counts, strict=True)]

    accepted, accurate = [], []
    for k, drafts in enumerate(outcome.drafts, start=1):
        accepted.append(mean(drafts == outcome.said[:, k:]))
        accurate.append(mean(drafts == text.ids[:, k + 1 :]))
    nats, nbytes = text.by_file(outcome.loss.double().sum(1)), text.by_file(text.nbytes)
    bits = [loss / math.log(2) / size for loss, size in zip(nats, nbytes, strict=True)]
    return Streamed(mean(outcome.loss), bits, accepted, accurate, seconds, read, steps, found)


def of_checkpoint(
    folder: str, config: Config, corpus: Corpus, count: int, length: int, device: str, **options: Any
) -> Streamed:
    """``measure`` on held-out text in the folder's own tokens: float32 on a CPU, bfloat16 by the kernels on a GPU."""
    text = text_of(corpus, of_folder(folder, config.vocab_size), count, length)
    if device == "cuda":
        from v3bench.kernels.triton_ops import TRITON

        options = {"dtype": torch.bfloat16, "ops": TRITON, **options}
    return measure(folder, text, device=device, **options)


def text_of(corpus: Corpus, tokens: Tokens, count: int, length: int) -> Text:
    """At most ``count`` windows: the first of every held-out file, then the second, and so on, none overlapping.

    Each begins with the tokens that the vocabulary's models read before a text. Raises BadInput where no file is long
    enough for one.
    """
    rows, nbytes, files = [], [], []
    body = length + 1 - len(tokens.start)
    for name, data in held_out(corpus):
        ids = tokens.encode(bytes(data.tolist()).decode())
        files.append((len(ids), name))
        each = len(data) / max(len(ids), 1)
        for number, begin in enumerate(range(0, len(ids) - body + 1, body)):
            predicted = body if tokens.start else body - 1
            rows.append((number, len(files), [*tokens.start, *ids[begin : begin + body]], predicted * each))
    if not rows or body < 2:
        longest = max(files, default=(0, ""))
        what = f"the longest of {len(files)} held-out files has {longest[0]} tokens"
        raise BadInput(what, where=f"corpus {corpus.name}", right=f"at least {max(body, 2)} for one window")
    rows = sorted(rows, key=lambda row: row[:2])[:count]
    nbytes = [row[3] for row in rows]
    of_rows, of_files = torch.tensor([row[2] for row in rows]), torch.tensor([row[1] for row in rows])
    return Text(of_rows, torch.tensor(nbytes, dtype=torch.float64), of_files)
