"""The conventions that MTP's records carry: made by the benchmarks, parsed by the ledger and the report.

A convention is parts joined by "; ". ``about`` is the training in words; it comes last and may hold a "; " itself.
The parsers give None for a convention of another kind, so that records can be sorted by trying them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ALL_TEXT = "all text"
KINDS = ("code", "comments and docstrings")
MODEL = "module"  # impl: the trained model itself, or its MTP module
MOST_FREQUENT = "most-frequent"  # impl: always the most frequent token
LOOK_UP = "n-gram look-up"  # impl: what followed the last n tokens before
NGRAM = "order-5 n-gram"  # impl: a language model to compare bits per byte with
# The architecture with its experts, the same for a GPU, and with every layer dense.
SUBJECTS = ("proxy.mtp-v3", "proxy.mtp-v3-300m", "proxy.mtp-dense")
MLA, DENSE_FFN, SHARED, EXPERTS = "mla", "dense-ffn", "shared-expert", "routed-experts"  # impls: parts of a layer
PROJECTION, HEAD = "eh-proj", "head"
PARTS = (MLA, DENSE_FFN, SHARED, EXPERTS, PROJECTION, HEAD)


@dataclass(frozen=True)
class Forced:
    """Teacher-forced acceptance or accuracy of one draft on held-out text."""

    draft: int  # 1 is the token after the next
    temperature: float | None  # 0: argmax against argmax; above: mean of sum(min(p, q)); None: against the true token
    text: str  # ALL_TEXT or one of KINDS
    about: str


@dataclass(frozen=True)
class Learning:
    """The same of draft 1 at temperature 0 on all text, or bits per byte, during training."""

    steps: int
    about: str


@dataclass(frozen=True)
class Balance:
    """Expert load of one layer."""

    bias: bool
    layer: int
    about: str


@dataclass(frozen=True)
class Generated:
    """Acceptance in greedy generation by speculative decoding."""

    draft: int
    batch: int  # sequences


@dataclass(frozen=True)
class OfPart:
    """A part of a step at full size: two tokens of each request over one, or the rate of a step of so many."""

    tokens: int  # of each request; 2 in a ratio
    batch: int  # requests
    context: int  # cached tokens of each
    ep: int  # GPUs that share the routed experts, of which one was measured; 0: of another part


@dataclass(frozen=True)
class Batched:
    """A figure of decoding: what it is of, in words, and the batch in sequences."""

    what: str
    batch: int


def teacher_forced(draft: int, about: str, *, temperature: float = 0.0, text: str = ALL_TEXT) -> str:
    """acceptance_rate of bench "acceptance": "teacher-forced; draft 1; temperature 0; all text; <about>"."""
    return f"teacher-forced; draft {draft}; temperature {temperature:g}; {text}; {about}"


def accuracy(draft: int, about: str, *, text: str = ALL_TEXT) -> str:
    """draft_accuracy: "teacher-forced; draft 1; all text; <about>"."""
    return f"teacher-forced; draft {draft}; {text}; {about}"


def held_out(about: str) -> str:
    """bits_per_byte of benches "acceptance", "floor" and "released": "held-out files; <about>"."""
    return f"held-out files; {about}"


def windowed(files: int, per_file: int, length: int, about: str) -> str:
    """``about`` of ``held_out``, and of how much text: "18 files, 16 windows of 128 tokens of each; <about>"."""
    return f"{files} files, {per_file} windows of {length} tokens of each; {about}"


def after(steps: int, about: str) -> str:
    """acceptance_rate and bits_per_byte of bench "learning": "teacher-forced; draft 1; after 100 steps; <about>"."""
    return f"teacher-forced; draft 1; after {steps} steps; {about}"


def balance(layer: int, about: str, *, bias: bool) -> str:
    """max_violation of bench "balance": "with bias; layer 3; <about>"."""
    return f"{'with' if bias else 'without'} bias; layer {layer}; {about}"


def plain(batch: int) -> str:
    """tokens_per_second: "plain; batch 1"."""
    return f"plain; batch {batch}"


def drafting(drafts: int, batch: int) -> str:
    """tokens_per_second, tokens_per_step: "mtp; 1 drafts; batch 1"."""
    return f"mtp; {drafts} drafts; batch {batch}"


def in_generation(draft: int, batch: int) -> str:
    """acceptance_rate of bench "speculation": "in generation; draft 1; temperature 0; batch 1"."""
    return f"in generation; draft {draft}; temperature 0; batch {batch}"


def generated(batch: int) -> str:
    """distinct_3grams: "batch 1"."""
    return f"batch {batch}"


TWO_TOKEN_STEP, DRAFT = "two-token step", "draft"  # step_cost, over a plain one-token step
MEASURED, BOUND, FROM_PARTS = "measured", "bound", "from parts"  # speed_up


def batched(what: str, batch: int) -> str:
    """step_cost and speed_up: "two-token step; batch 1", "draft; batch 1", "measured; batch 1"."""
    return f"{what}; batch {batch}"


TWO_OVER_ONE = "two tokens over one"
TOKENS = {1: "one token", 2: "two tokens"}


def two_over_one(batch: int, context: int, share: str = "") -> str:
    """step_cost of bench "parts": "two tokens over one; batch 8; 4096 tokens of context; EP144 share"."""
    return f"{TWO_OVER_ONE}; {of_part(batch, context, share)}"


def step_of(tokens: int, batch: int, context: int, share: str = "") -> str:
    """byte_rate of bench "parts": "one token; batch 8; 4096 tokens of context; EP144 share"."""
    return f"{TOKENS[tokens]}; {of_part(batch, context, share)}"


def of_part(batch: int, context: int, share: str) -> str:
    """What both say."""
    return f"batch {batch}; {context} tokens of context" + (f"; {share}" if share else "")


def ep_share(ep: int) -> str:
    """The routed experts of one GPU."""
    return f"EP{ep} share"


def split(ways: int) -> str:
    """The rows of the head that one GPU has."""
    return f"split {ways} ways" if ways > 1 else ""


def parse_part(convention: str) -> OfPart | None:
    """A convention of ``two_over_one`` or of ``step_of``."""
    what = "|".join((TWO_OVER_ONE, *TOKENS.values()))
    share = r"(?:; EP(\d+) share|; split \d+ ways)?"
    found = re.fullmatch(rf"({what}); batch (\d+); (\d+) tokens of context{share}", convention)
    if not found:
        return None
    tokens = next((n for n, words in TOKENS.items() if words == found[1]), 2)
    return OfPart(tokens, int(found[2]), int(found[3]), int(found[4] or 0))


def parse_forced(convention: str) -> Forced | None:
    """A convention of ``teacher_forced`` or of ``accuracy``."""
    found = re.fullmatch(
        r"teacher-forced; draft (\d+); (?:temperature ([\d.]+); )?"
        rf"({'|'.join(map(re.escape, (ALL_TEXT, *KINDS)))}); (.*)",
        convention,
    )
    if not found:
        return None
    draft, temperature, text, about = found.groups()
    return Forced(int(draft), None if temperature is None else float(temperature), text, about)


def parse_held_out(convention: str) -> str | None:
    """``about`` of a convention of ``held_out``."""
    found = re.fullmatch(r"held-out files; (.*)", convention)
    return found[1] if found else None


def parse_learning(convention: str) -> Learning | None:
    """A convention of ``after``."""
    found = re.fullmatch(r"teacher-forced; draft 1; after (\d+) steps; (.*)", convention)
    return Learning(int(found[1]), found[2]) if found else None


def parse_balance(convention: str) -> Balance | None:
    """A convention of ``balance``."""
    found = re.fullmatch(r"(with|without) bias; layer (\d+); (.*)", convention)
    return Balance(found[1] == "with", int(found[2]), found[3]) if found else None


def parse_generation(convention: str) -> Generated | None:
    """A convention of ``in_generation``."""
    found = re.fullmatch(r"in generation; draft (\d+); temperature 0; batch (\d+)", convention)
    return Generated(int(found[1]), int(found[2])) if found else None


def parse_batched(convention: str) -> Batched | None:
    """A convention of ``batched``, ``plain``, ``drafting`` or ``generated`` (whose ``what`` is empty)."""
    found = re.fullmatch(r"(?:(.*); )?batch (\d+)", convention)
    return Batched(found[1] or "", int(found[2])) if found else None


def parse_drafting(convention: str) -> int | None:
    """Drafts a step of a convention of ``drafting``; 0 of ``plain``."""
    found = re.fullmatch(r"(?:plain|mtp; (\d+) drafts); batch \d+", convention)
    return int(found[1] or 0) if found else None
