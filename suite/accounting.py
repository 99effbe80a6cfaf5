"""What ``v3bench model`` says of a model: parameters, KV bytes and FLOPs by formula and, on request, counted.

Without ``count`` nothing here imports torch. The keys of ``describe`` are a contract.
"""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from v3bench.model_ref.errors import BadInput
from v3bench.suite.laws import conventions, kv, params
from v3bench.suite.models import AnyConfig

HEADLINES = ("train_causal", "train_full", "prefill_causal", "decode")
LONGEST = 1 << 24  # tokens that are counted: query by query, seconds for each ten million
WIDTH = 110  # columns of the terminal table


def describe(name: str, config: AnyConfig, seq_len: int = 4096, *, count: bool = False) -> dict[str, Any]:
    """The object of ``v3bench model --json``. Params and bytes are integers, GFLOP per token unrounded.

    count: build the modules on the meta device and count them too, operator by operator. Raises BadInput for a
    sequence length that is no positive integer, CountError when an operation is not understood.
    """
    if isinstance(seq_len, bool) or not isinstance(seq_len, int) or seq_len < 1:
        raise BadInput(f"sequence length is {seq_len!r}", right="a positive integer")
    if count and seq_len > LONGEST:
        raise BadInput(f"{seq_len} tokens are too many to count", right=f"at most {LONGEST}, or no count")
    counted = params.count(config)
    rows = conventions.conventions(config, seq_len)
    values = {row.name: row.gflops_per_token for row in rows}
    description: dict[str, Any] = {
        "name": name,
        "architecture": config.model_type,
        "seq_len": seq_len,
        "params": {
            "total": counted.total,
            "activated": counted.activated,
            "activated_without_input_embedding": counted.activated_without_input_embedding,
            "mtp": counted.mtp,
        },
        "kv_bytes_per_token": {storage: kv.bytes_per_token(config, storage) for storage in kv.STORAGES},
        "gflops_per_token": {headline: values[headline] for headline in HEADLINES},
        "conventions": [row.as_json() for row in rows],
        "counted": None,
    }
    if count:
        from v3bench.suite.meter.counted import counted_model  # imports torch

        try:
            description["counted"] = counted_model(config, seq_len)
        except RuntimeError as error:
            if "overflow" not in str(error):
                raise
            right = "smaller sizes, or no count"
            raise BadInput("one tensor is larger than torch can address", where=name, right=right) from error
    return description


def text_table(description: dict[str, Any], config: AnyConfig) -> str:
    """The description for a terminal: parameters by part, KV cache in B, kB and KiB, every FLOP convention."""
    lines = [f"{description['name']} ({description['architecture']}), {description['seq_len']} tokens per sequence"]
    for section in (parameter_lines(config), kv_lines(config), flop_lines(description), counted_lines(description)):
        shown = list(section)
        lines += ["", *shown] if shown else []
    return "\n".join(lines)


def parameter_lines(config: AnyConfig) -> Iterator[str]:
    counted = params.count(config)
    yield f"{'parameters':<36}{'stored':>20}{'read per token':>20}"
    for part in params.PARTS:
        if counted.parts[part]:
            yield f"  {part.replace('_', ' '):<34}{counted.parts[part]:>20,}{counted.active[part]:>20,}"
    yield f"  {'total, MTP out':<34}{counted.total:>20,}{counted.activated:>20,}"
    yield f"  {'without input embedding':<34}{'':>20}{counted.activated_without_input_embedding:>20,}"
    if counted.mtp:
        yield f"  {'MTP (embedding and head: as above)':<34}{counted.mtp:>20,}{sum(counted.mtp_active.values()):>20,}"


def kv_lines(config: AnyConfig) -> Iterator[str]:
    """Per token in B, kB and KiB, then per sequence in B."""
    yield f"{'KV cache per token':<36}{'B':>14}{'kB (1000 B)':>16}{'KiB (1024 B)':>16}"
    stored = [s for s in kv.STORAGES if kv.bytes_per_token(config, s) is not None]
    for storage in stored:
        size = kv.bytes_per_token(config, storage) or 0
        yield f"  {storage:<34}{size:>14,}{size / 1000:>16.3f}{size / 1024:>16.3f}"
    mha = kv.mha_bytes_per_token(config)
    yield f"  {'bf16, if every head were cached':<34}{mha:>14,}{mha / 1000:>16.3f}{mha / 1024:>16.3f}"
    yield ""
    yield f"{'KV cache per sequence, in B':<36}" + "".join(f"{storage:>18}" for storage in stored)
    for context in kv.CONTEXTS:
        sizes = [kv.bytes_per_sequence(config, context, storage) or 0 for storage in stored]
        yield f"  {f'{context // 1024}K = {context:,} tokens':<34}" + "".join(f"{size:>18,}" for size in sizes)


def flop_lines(description: dict[str, Any]) -> Iterator[str]:
    yield f"{'GFLOP per token, by convention':<36}{'value':>12}  formula"
    for row in description["conventions"]:
        mark = "" if row["exact"] else "  (approximate)"
        yield f"  {row['name']:<34}{row['gflops_per_token']:>12.4f}  {row['formula']}{mark}"
        for word, text in (("in: ", row["includes"]), ("out: ", row["excludes"])):
            yield from wrap(text, WIDTH, initial_indent=" " * 6 + word, subsequent_indent=" " * 11)


def counted_lines(description: dict[str, Any]) -> Iterator[str]:
    """Counted beside formula, and whether they are equal as integers."""
    counted = description["counted"]
    if counted is None:
        return
    yield f"{'counted on the real modules':<36}{'counted':>24}{'formula':>24}"
    for check in counted["checks"]:
        verdict = "equal" if check["agrees"] else "DIFFERENT"
        yield f"  {check['name']:<34}{check['counted']:>24,}{check['formula']:>24,}  {verdict}"
