"""``v3bench generate``: continue a prompt with a checkpoint's model, with its MTP module's drafts or without."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v3bench.model_ref.config import Config, read_json
from v3bench.model_ref.errors import BadInput
from v3bench.suite import models, tokens
from v3bench.suite.tokens import Stream, Tokens

if TYPE_CHECKING:
    from v3bench.model_ref.decoder import Decoder
    from v3bench.model_ref.generate import Generated, OnTokens


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked: ``prompt`` as text, or ``file`` of its tokens; ``drafts`` a step, 0 without MTP."""

    checkpoint: str
    prompt: str | None = None
    file: str | None = None
    max_new_tokens: int = 128
    drafts: int = 0
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """What came: ``text`` without the token that ended it, None where nothing turns tokens into text."""

    generated: Generated
    text: str | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        row = self.generated
        return {
            "tokens": row.tokens, "text": self.text, "proposed": row.all_proposed, "accepted": row.all_accepted,
            "acceptance_rate": row.acceptance_rate, "tokens_per_step": row.tokens_per_step, "seconds": self.seconds,
        }  # fmt: skip

    def line(self) -> str:
        """One line about it."""
        row, parts = self.generated, [f"{len(self.generated.tokens)} tokens in {self.seconds:.2f} s"]
        if row.all_proposed:
            parts.append(f"{row.all_accepted} of {row.all_proposed} drafts accepted")
        if row.tokens_per_step is not None:
            parts.append(f"{row.tokens_per_step:.2f} tokens a step")
        return ", ".join(parts)


class NobodyReads(Exception):
    """Ends a generation that nobody waits for."""


def answer(request: Request, device: str, put: Callable[[str], bool]) -> Answer | None:
    """Load the model and generate; ``put`` gets the text as it comes, and says whether anybody reads it: else None.

    Raises BadInput, before it loads where it can.
    """
    import torch
    from v3bench.model_ref.sampling import Sampling

    if request.max_new_tokens < 1:
        raise BadInput(f"--max-new-tokens is {request.max_new_tokens}", where="generate", right="a positive number")
    sampling = Sampling(request.temperature, request.seed)
    folder = Path(request.checkpoint)
    if not folder.is_dir():
        raise BadInput(
            "is no folder", where=request.checkpoint, right="a folder with config.json and safetensors files"
        )
    _, config = models.load(request.checkpoint)
    vocabulary = vocabulary_of(request, config.vocab_size)
    prompt = prompt_of(request, vocabulary, config.vocab_size)
    stop = stop_of(folder)
    model = loaded(request, config, device)
    stream = None if vocabulary is None else Stream(vocabulary)

    def show(row: int, new: list[int]) -> None:
        new = new[:-1] if new[-1] in stop else new
        if not put("".join(f"{token} " for token in new) if stream is None else stream.feed(new)):
            raise NobodyReads

    started = time.perf_counter()
    try:
        row = generated(model, prompt, request, sampling, stop, show)
    except NobodyReads:
        return None
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    if stream is not None:
        put(stream.end())
    shown = row.tokens[:-1] if row.tokens[-1] in stop else row.tokens
    return Answer(row, None if vocabulary is None else vocabulary.decode(shown), seconds)


def generated(
    model: Decoder, prompt: Sequence[int], request: Request, sampling: Any, stop: frozenset[int], show: OnTokens
) -> Generated:
    """The one row that was asked for."""
    from v3bench.model_ref.generate import generate
    from v3bench.model_ref.model import Model
    from v3bench.model_ref.speculate import speculate

    if request.drafts:
        assert isinstance(model, Model)
        return speculate(
            model, [prompt], request.max_new_tokens,
            drafts=request.drafts, stop=stop, sampling=sampling, on_tokens=show,
        )[0]  # fmt: skip
    return generate(model, [prompt], request.max_new_tokens, stop=stop, sampling=sampling, on_tokens=show)[0]


def vocabulary_of(request: Request, vocab_size: int) -> Tokens | None:
    """What turns text into tokens; None where a file gives tokens and the checkpoint says nothing about text."""
    there = (Path(request.checkpoint) / tokens.FILE).exists() or vocab_size == tokens.Bytes.size
    return tokens.of_folder(request.checkpoint, vocab_size) if request.file is None or there else None


def prompt_of(request: Request, vocabulary: Tokens | None, vocab_size: int) -> list[int]:
    """The prompt's tokens. Raises BadInput for one that is empty or that the model cannot read."""
    if request.file is not None:
        return tokens_in(request.file, vocab_size)
    assert vocabulary is not None
    if not request.prompt:
        raise BadInput("the prompt is empty", where="--prompt", right="some text")
    return [*vocabulary.start, *vocabulary.encode(request.prompt)]


def tokens_in(file: str, vocab_size: int) -> list[int]:
    """Tokens of a JSON file: a list, or an object with it under ``tokens``, as ``--json`` prints. Raises BadInput."""
    right = f"a JSON list of tokens from 0 to {vocab_size - 1}"
    try:
        held = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror})", where=file, right=right) from error
    except (ValueError, RecursionError) as error:
        raise BadInput("is not JSON", where=file, right=right) from error
    found = held.get("tokens") if isinstance(held, dict) else held
    if not isinstance(found, list):
        raise BadInput("holds no list of tokens", where=file, right=right)
    if not found:
        raise BadInput("the prompt is empty", where=file, right=right)
    for token in found:
        if type(token) is not int or not 0 <= token < vocab_size:
            raise BadInput(f"holds {json.dumps(token)[:40]}", where=file, right=right)
    return found


def stop_of(folder: Path) -> frozenset[int]:
    """The tokens that end a text: ``eos_token_id`` of generation_config.json, or else of config.json."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        found = read_json(path).get("eos_token_id") if path.exists() else None
        if found is not None:
            ids = found if isinstance(found, list) else [found]
            if not all(type(token) is int for token in ids):
                raise BadInput(f"eos_token_id is {json.dumps(found)[:40]}", where=str(path), right="a token, or a list")
            return frozenset(ids)
    return frozenset()


def loaded(request: Request, config: models.AnyConfig, device: str) -> Decoder:
    """The checkpoint's model: float32 on a CPU, bfloat16 on a GPU. Raises BadInput where drafts have no MTP module."""
    import torch

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    if not isinstance(config, Config):
        if request.drafts:
            right = "a DeepSeek checkpoint with MTP, or no --mtp"
            raise BadInput("is a dense model, which has no MTP modules", where=request.checkpoint, right=right)
        from v3bench import baselines

        dense: Decoder = baselines.load_pretrained(request.checkpoint, dtype=dtype, device=device)
        return dense
    from v3bench.model_ref.checkpoint import load_pretrained
    from v3bench.model_ref.checkpoint_files import Files
    from v3bench.model_ref.checkpoint_table import has_mtp

    if request.drafts:
        with Files(request.checkpoint) as files:
            if not has_mtp(config, files):
                right = "a checkpoint with them, or no --mtp"
                raise BadInput("holds no MTP tensors", where=request.checkpoint, right=right)
    return load_pretrained(request.checkpoint, dtype=dtype, device=device)
