"""Equal windows of held-out files, and what kind of text each token is.

Every file has the same number of positions, so that a mean over files is a mean over positions, and the file is what
is drawn again when an interval is asked for: tokens of one file are not independent.
"""

from __future__ import annotations

import ast
import codecs
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor
from v3bench.model_ref.errors import BadInput
from v3bench.suite.mtp.conventions import ALL_TEXT, KINDS
from v3bench.suite.train.corpus import Corpus, Source

CODE, PROSE = KINDS


@dataclass(frozen=True, eq=False)
class Windows:
    """F held-out files, a row each; ``left_out`` others are too short for their windows.

    ids    int64 (F, per_file, length + 1)
    kinds  masks by kind of text, bool of the same shape. ALL_TEXT is true throughout. CODE and PROSE are there where
           any file is Python source, and false in files that are not. A token is of the kind of its first byte.
    bytes_per_token  float64 (F), the mean of each file
    """

    names: tuple[str, ...]
    ids: Tensor
    kinds: dict[str, Tensor]
    left_out: int
    bytes_per_token: Tensor


@lru_cache(32)  # what is a comment takes a second to find
def windows(corpus: Corpus, per_file: int, length: int, most: int | None = None) -> Windows:
    """``per_file`` windows of each held-out file, spread over it; no token is predicted twice.

    Of more files than ``most``, so many spread over the list of those that are long enough. Raises BadInput where none
    is, or a number is not positive.
    """
    if min(per_file, length) < 1 or (most is not None and most < 1):
        raise BadInput(f"{per_file} windows of {length} tokens in {most} files", where="windows", right="at least 1")
    held = list(corpus.files(held_out=True))
    enough = [(source, text) for source, text in held if len(text) > per_file * length]
    left_out = len(held) - len(enough)
    if not enough:
        what = f"none of {len(held)} held-out files has {per_file * length + 1} tokens"
        raise BadInput(what, where=f"corpus {corpus.name}", right="fewer or shorter windows, or longer files")
    if most is not None and most < len(enough):
        enough = [enough[n * len(enough) // most] for n in range(most)]

    def rows(files: Iterable[Tensor]) -> Tensor:
        return torch.stack([cut(file, per_file, length) for file in files])

    ids = rows(text for _, text in enough).long()
    kinds = {ALL_TEXT: torch.ones_like(ids, dtype=torch.bool)}
    python = [source.name.endswith(".py") for source, _ in enough]
    if any(python):
        none = torch.zeros(max(len(text) for _, text in enough), dtype=torch.bool)
        pairs = zip(python, enough, strict=True)
        prose = rows(prose_tokens(corpus, *file) if it_is else none[: len(file[1])] for it_is, file in pairs)
        kinds |= {CODE: ~prose & torch.tensor(python)[:, None, None], PROSE: prose}
    names, sizes = zip(*((source.name, source.size / source.tokens) for source, _ in enough), strict=True)
    return Windows(names, ids, kinds, left_out, torch.tensor(sizes, dtype=torch.float64))


def held_out(corpus: Corpus) -> Iterator[tuple[str, Tensor]]:
    """Name and tokens of each held-out file."""
    for source, text in corpus.files(held_out=True):
        yield source.name, text


def cut(text: Tensor, per_file: int, length: int) -> Tensor:
    """(N) -> (per_file, length + 1): the first window at the file's beginning, the last at its end.

    Windows share at most a token, which the first of them predicts and the second only reads.
    """
    starts = torch.arange(per_file) * (len(text) - length - 1) // max(per_file - 1, 1)
    return text[starts[:, None] + torch.arange(length + 1)]


def prose_tokens(corpus: Corpus, source: Source, text: Tensor) -> Tensor:
    """Which tokens (N) of a held-out file of Python source begin within a comment or a docstring, bool."""
    if corpus.encoding is None:
        return prose_of(text)
    return prose_of(corpus.encoding.texts[source.sha256])[corpus.encoding.begins[source.sha256]]


def prose_of(text: Tensor) -> Tensor:
    """Which bytes (N) of Python source are of a comment or a docstring, bool; none where the source does not parse."""
    data, mask = bytes(text.tolist()), torch.zeros(len(text), dtype=torch.bool)
    skip = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    lines = data[skip:].splitlines(keepends=True)
    starts = list(accumulate((len(line) for line in lines), initial=skip))
    try:
        spans = [*comments(lines), *docstrings(data[skip:].decode())]
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        return mask
    for (line, column), (last, end) in spans:
        mask[starts[line - 1] + column : starts[last - 1] + end] = True
    return mask


Span = tuple[tuple[int, int], tuple[int, int]]  # (line from 1, byte within it): the first, and one past the last


def comments(lines: list[bytes]) -> Iterator[Span]:
    """Every comment of the source, from its sign to the end of its line."""
    text = [line.decode() for line in lines]
    feed = iter(text)
    for token in tokenize.generate_tokens(lambda: next(feed, "")):
        if token.type == tokenize.COMMENT:
            row, column = token.start  # in characters
            start = len(text[row - 1][:column].encode())
            yield (row, start), (row, start + len(token.string.encode()))


def docstrings(text: str) -> Iterator[Span]:
    """The docstring of every module, class and function, with its quotes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in somebody else's strings
        tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            string = first.value if isinstance(first, ast.Expr) else None
            if isinstance(string, ast.Constant) and isinstance(string.value, str):
                assert string.end_lineno is not None
                assert string.end_col_offset is not None
                yield (string.lineno, string.col_offset), (string.end_lineno, string.end_col_offset)


def by_file(values: Tensor, mask: Tensor) -> list[float]:
    """Mean of ``values`` (F, per_file, n) where ``mask`` is true, for each file that has such a token."""
    chosen = mask.flatten(1).double()
    sums, counts = (values.flatten(1).double() * chosen).sum(1), chosen.sum(1)
    means: list[float] = (sums[counts > 0] / counts[counts > 0]).tolist()
    return means
