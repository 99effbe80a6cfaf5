"""Text to tokens and back: bytes, or a checkpoint's own tokenizer.json.

    read        a tokenizer.json by its path
    of_folder   those of a checkpoint
    match       that a model has a vocabulary for them
    Stream      text as its tokens come, in whole characters

The package ``tokenizers`` is imported only for a tokenizer.json.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

from v3bench.model_ref.config import read_json
from v3bench.model_ref.errors import BadInput

FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
UNKNOWN = "\ufffd"  # what stands for bytes that are no character, or not yet one
CUT = 3  # bytes at most of a character that is not whole yet


class Tokens(Protocol):
    """``size``: every token is below it; ``start``: tokens that this vocabulary's models read before a text."""

    size: int
    start: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """The text's tokens, without ``start``. Raises BadInput for text that no encoding has."""

    def decode(self, ids: Sequence[int]) -> str:
        """The tokens' text; what is no character comes as U+FFFD."""


class Encoded(Protocol):
    """A text's tokens, and the characters (first, one past the last) that each stands for."""

    @property
    def ids(self) -> list[int]:
        """One number a token."""

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """One pair a token."""


class Bytes:
    """UTF-8: token b is the byte b."""

    size = 256
    start: tuple[int, ...] = ()

    def encode(self, text: str) -> list[int]:
        """One token a byte; what a command line could not read as UTF-8 stays the byte it was."""
        try:
            return list(text.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError as error:
            raise BadInput(f"holds {text[error.start]!r}", where="text", right="characters of Unicode") from error

    def decode(self, ids: Sequence[int]) -> str:
        """The bytes' text, U+FFFD for what is no UTF-8."""
        return bytes(ids).decode("utf-8", "replace")


class Tokenizer:
    """A tokenizer.json, read by the package ``tokenizers``. Raises BadInput where either is missing, broken or empty.

    ``start`` is what the file's own post-processing puts before a text, or else, where tokenizer_config.json says
    ``add_bos_token``, its ``bos_token``. Lengths to which the file would cut texts or fill them up do not count.
    ``files`` are what a checkpoint needs to be read with the same tokens, by name; ``sha256`` is that of the first.
    """

    def __init__(self, path: Path) -> None:
        try:
            import tokenizers
        except ImportError as error:
            what, right = "needs the package tokenizers, which is not installed", "pip install tokenizers"
            raise BadInput(what, where=str(path), right=right) from error
        self.files, right = {FILE: contents(path)}, "a file that the package tokenizers saved"
        self.sha256 = hashlib.sha256(self.files[FILE]).hexdigest()
        try:
            self.inner = tokenizers.Tokenizer.from_buffer(self.files[FILE])
        except Exception as error:  # the package raises nothing narrower
            what = f"cannot be read as a tokenizer ({error})"
            raise BadInput(what, where=str(path), right=right) from error
        self.inner.no_truncation()
        self.inner.no_padding()
        self.size = max(self.inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if not self.size:
            raise BadInput("holds no tokens", where=str(path), right=right)
        self.start = self.processed_start() or self.named_start(path.with_name(SETTINGS))
        self.inner.post_processor = None  # it may move a token's place behind the blank that it begins with

    def processed_start(self) -> tuple[int, ...]:
        """The special tokens that the tokenizer itself puts before a text."""
        try:
            made = self.inner.encode("a")
        except Exception:  # a vocabulary without this letter says nothing about a text's start
            return ()
        count = next((i for i, special in enumerate(made.special_tokens_mask) if not special), 0)
        return tuple(made.ids[:count])

    def named_start(self, path: Path) -> tuple[int, ...]:
        """The token that tokenizer_config.json wants before a text, if any."""
        settings = read_json(path) if path.exists() else {}
        token = settings.get("bos_token") if settings.get("add_bos_token") else None
        if isinstance(token, dict):
            token = token.get("content")
        found = self.inner.token_to_id(token) if isinstance(token, str) else None
        if found is None:
            return ()
        self.files[SETTINGS] = json.dumps({"add_bos_token": True, "bos_token": token}).encode()
        return (found,)

    def encode(self, text: str, where: str = "text") -> list[int]:
        """The text's tokens, no special one added; ``where`` it is, for errors."""
        try:
            ids: list[int] = self.inner.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError) as error:  # of half a surrogate pair the package says it is no str
            raise BadInput("is no Unicode text", where=where, right="characters that UTF-8 has") from error
        except Exception as error:
            raise unknown(error, where) from error
        return ids

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Encoded]:
        """The same of many texts at once, with the place of each token; on all cores. Raises BadInput."""
        try:
            found: Sequence[Encoded] = self.inner.encode_batch(texts, add_special_tokens=False)
        except Exception as error:
            raise unknown(error) from error
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The tokens' text, special tokens spelled out."""
        text: str = self.inner.decode(list(ids), skip_special_tokens=False)
        return text


def unknown(error: Exception, where: str = "text") -> BadInput:
    """What is said of a text that a vocabulary has no tokens for."""
    return BadInput(f"cannot be tokenised ({error})", where=where, right="text that the tokenizer has tokens for")


def contents(path: Path) -> bytes:
    """A tokenizer's file. Raises BadInput."""
    try:
        return path.read_bytes()
    except OSError as error:
        right = f"a {FILE}, or a folder that holds one"
        raise BadInput(f"cannot be read ({error.strerror})", where=str(path), right=right) from error


def file_of(path: str | Path) -> Path:
    """The tokenizer.json that a path means: itself, or the one in that folder."""
    return Path(path) / FILE if Path(path).is_dir() else Path(path)


@cache
def read(path: str) -> Tokenizer:
    """The tokenizer of a file or a folder, read once in a process. Raises BadInput."""
    return Tokenizer(file_of(path))


def match(tokens: Tokens, vocab_size: int, where: str) -> None:
    """Raise BadInput where a tokenizer does not match a vocabulary: a model knows the tokens below ``vocab_size``."""
    if tokens.size > vocab_size:
        right = f"a tokenizer whose tokens are below the model's vocab_size {vocab_size}"
        raise BadInput(f"its largest token is {tokens.size - 1}", where=where, right=right)


def of_folder(path: str | Path, vocab_size: int) -> Tokens:
    """Tokens of a checkpoint: its tokenizer.json, else bytes for a vocabulary of 256. Raises BadInput."""
    file = Path(path) / FILE
    if file.exists():
        tokens = Tokenizer(file)
        match(tokens, vocab_size, str(file))
        return tokens
    if vocab_size == Bytes.size:
        return Bytes()
    right = f"{FILE} beside config.json, or a vocabulary of {Bytes.size} bytes"
    raise BadInput(f"no {FILE}, and vocab_size is {vocab_size}", where=str(path), right=right)


class Stream:
    """Text as its tokens come: ``feed`` gives the characters that are whole by then, ``end`` what is left."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        # The newest tokens, from one end of a character to a later one, ``ended``, and on. They are decoded again with
        # what follows, since some tokenizers treat the first token of a text differently.
        self.window: list[int] = []
        self.ended = 0
        self.given = 0  # characters of the window's text that have been given

    def feed(self, ids: Iterable[int]) -> str:
        """Take the next tokens, give the text that they complete."""
        self.window += ids
        text = self.tokens.decode(self.window)
        cut = next((n for n in range(CUT) if not text.endswith(UNKNOWN * (n + 1))), CUT)
        fresh = text[self.given : len(text) - cut]
        self.given += len(fresh)
        if cut == 0:
            self.window = self.window[self.ended :]
            self.ended, self.given = len(self.window), len(self.tokens.decode(self.window))
        return fresh

    def end(self) -> str:
        """The rest, though it may end within a character."""
        rest = self.tokens.decode(self.window)[self.given :]
        self.given += len(rest)
        return rest
