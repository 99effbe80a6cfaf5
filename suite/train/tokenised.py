"""A corpus in a tokenizer's tokens: the same files on the same sides, told apart by a hash of its own.

What the tokenizer puts before a text stands before each file, and nothing after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from v3bench.model_ref.errors import BadInput
from v3bench.suite import tokens
from v3bench.suite.tokens import Encoded, Tokenizer
from v3bench.suite.train import corpus
from v3bench.suite.train.corpus import Corpus, Source

CHUNK = 1 << 22  # bytes of text that are tokenised at a time: what is known of its tokens takes some 30 times as many
DTYPES = (torch.uint8, torch.int16, torch.int32)

File = tuple[Source, Tensor]  # and its bytes


@dataclass(frozen=True, eq=False)
class Encoding:
    """How a corpus was tokenised, and of its held-out files, by their SHA-256, what their tokens stand for.

    texts   their bytes, uint8 (N)
    begins  the byte that each token begins with, int64 (tokens); of a token within a character, that character's first
    whole   how many of them come back from their tokens as they were
    """

    tokens: Tokenizer
    texts: Mapping[str, Tensor]
    begins: Mapping[str, Tensor]
    whole: int

    @property
    def about(self) -> str:
        """The tokenizer in words. Where text is lost, bits per byte are too few."""
        lost = len(self.texts) - self.whole
        told = f" that loses text of {lost} of {len(self.texts)} held-out files" if lost else ""
        return f"tokenizer {self.tokens.sha256[:12]}{told}"

    def as_json(self) -> dict[str, Any]:
        """The tokenizer, as a run folder keeps it."""
        return {"sha256": self.tokens.sha256, "size": self.tokens.size, "start": list(self.tokens.start)}


@cache
def load(name: str, tokenizer: str | None = None) -> Corpus:
    """A corpus by its name: a byte a token, or in the tokens of a tokenizer.json. Raises BadInput."""
    text = corpus.load(name)
    return text if tokenizer is None else tokenised(text, tokens.read(tokenizer))


def tokenised(text: Corpus, tokenizer: Tokenizer) -> Corpus:
    """A corpus of bytes in a tokenizer's tokens. Raises BadInput for text that it has no tokens for."""
    dtype = next(dtype for dtype in DTYPES if tokenizer.size - 1 <= torch.iinfo(dtype).max)
    start, counts, begins, sides, whole = torch.tensor(tokenizer.start, dtype=dtype), {}, {}, [], 0
    for held_out in (False, True):
        parts = []
        for (source, data), found in encoded(text.files(held_out=held_out), tokenizer):
            ids = torch.tensor(found.ids, dtype=dtype)
            counts[source.sha256] = len(ids)
            parts += [start, ids]
            if held_out:
                begins[source.sha256] = begin(data, found.offsets)
                whole += tokenizer.decode(found.ids).encode() == raw(data)
        sides.append(torch.cat(parts))
    sources = tuple(replace(source, tokens=counts[source.sha256]) for source in text.sources)
    encoding = Encoding(tokenizer, {s.sha256: data for s, data in text.files(held_out=True)}, begins, whole)
    told, (train, held) = f"{text.sha256} {tokenizer.sha256} {tokenizer.start}", sides
    return Corpus(text.name, sources, train, held, hashlib.sha256(told.encode()).hexdigest(), encoding)


def encoded(files: Iterable[File], tokenizer: Tokenizer) -> Iterator[tuple[File, Encoded]]:
    """Each file with its tokens, many made at once."""
    for some in chunks(files):
        texts = [raw(data).decode() for _, data in some]
        try:
            yield from zip(some, tokenizer.encode_batch(texts), strict=True)
        except BadInput:
            for (source, _), text in zip(some, texts, strict=True):
                tokenizer.encode(text, where=source.name)  # says of which file
            raise


def chunks(files: Iterable[File]) -> Iterator[list[File]]:
    """CHUNK bytes of files at a time, and the last beyond."""
    some: list[File] = []
    for file in files:
        some.append(file)
        if sum(len(data) for _, data in some) >= CHUNK:
            yield some
            some = []
    yield some


def raw(data: Tensor) -> bytes:
    """Bytes, uint8 (N), as such."""
    found: bytes = data.numpy().tobytes()
    return found


def begin(data: Tensor, offsets: Sequence[tuple[int, int]]) -> Tensor:
    """The byte that each token begins with, int64, from the characters that it stands for."""
    characters = ((data & 0xC0) != 0x80).nonzero().flatten()  # further bytes of a character begin with the bits 10
    first = torch.tensor([one for one, _ in offsets], dtype=torch.int64)
    return characters[first.clamp(max=len(characters) - 1)]
