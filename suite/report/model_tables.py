"""What every preset costs by formula: KV bytes, GFLOPs per token by convention, parameters; frames and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from v3bench.suite import accounting, models
from v3bench.suite.laws import kv
from v3bench.suite.report.display import fixed
from v3bench.suite.report.tables import Column, Table

REFERENCE = "deepseek-v3"  # what the ratios are against
SEQ_LEN = 4096  # tokens, as Table 2 of arXiv 2505.09343 has it
INFERRED = ("ablation-small", "ablation-large")
FORMULA_ONLY = "Basis: formula on each config; nothing here is measured."
Descriptions = Mapping[str, Mapping[str, Any]]


def descriptions() -> dict[str, dict[str, Any]]:
    """Preset name -> what ``v3bench model`` says of it: released models by family and size, then the project's own."""
    found = [accounting.describe(name, models.load(name)[1], seq_len=SEQ_LEN) for name in models.presets()]
    found.sort(key=lambda d: (KINDS.index(kind(d["name"])), d["name"].split("-")[0], -d["params"]["total"]))
    return {d["name"]: d for d in found}


KINDS = ("released", "inferred", "proxy")


def kind(name: str) -> str:
    """``released``; ``inferred``, a shape that no source states; ``proxy``, a small model of the same architecture."""
    return "inferred" if name in INFERRED else "proxy" if name.endswith(("-small", "-tiny")) else "released"


def released(described: Descriptions) -> list[str]:
    """Names of presets that are somebody's released model."""
    return [name for name in described if kind(name) == "released"]


def params_frame(described: Descriptions) -> pd.DataFrame:
    """One row per preset: total, activated, activated_without_input_embedding, mtp."""
    rows = [
        {"model": name, "kind": kind(name), "architecture": d["architecture"], **d["params"]}
        for name, d in described.items()
    ]
    return pd.DataFrame(rows)


def kv_frame(described: Descriptions) -> pd.DataFrame:
    """One row per preset: B per token by storage, and how many times DeepSeek-V3's BF16 bytes."""
    frame = pd.DataFrame(
        [{"model": name, "kind": kind(name), **d["kv_bytes_per_token"]} for name, d in described.items()]
    )
    frame["ratio"] = frame["bf16"] / described[REFERENCE]["kv_bytes_per_token"]["bf16"]
    return frame


def sequence_frame(described: Descriptions, storage: str = "bf16") -> pd.DataFrame:
    """One row per preset and context length: tokens, B per sequence."""
    return pd.DataFrame(
        {"model": name, "tokens": tokens, "bytes": kv.bytes_per_sequence(models.load(name)[1], tokens, storage)}
        for name in described
        for tokens in kv.CONTEXTS
    )


def flops_frame(described: Descriptions) -> pd.DataFrame:
    """One row per preset: GFLOP per token of the four headline conventions."""
    return pd.DataFrame([{"model": name, "kind": kind(name), **d["gflops_per_token"]} for name, d in described.items()])


def conventions_frame(described: Descriptions) -> pd.DataFrame:
    """One row per preset and convention: value, formula, formula with numbers, what is in and out."""
    return pd.DataFrame([{"model": name, **row} for name, d in described.items() for row in d["conventions"]])


def convention_values(described: Descriptions) -> pd.DataFrame:
    """One row per convention, one column per preset: GFLOP per token."""
    frame = conventions_frame(described)
    wide = frame.pivot(index="name", columns="model", values="gflops_per_token")
    return wide.loc[frame["name"].drop_duplicates(), list(described)].reset_index()


def whole(key: str, label: str) -> Column:
    """A column of whole numbers, shown in full."""
    return Column(key, label, True)


def decimal(key: str | int, label: str, places: int = 2, scale: float = 1) -> Column:
    """A column in multiples of ``scale``, with the same decimals in every row."""
    return Column(key, label, True, lambda value: fixed(value / scale, places))


MODEL = (Column("model", "Model"), Column("kind", "Shape"))


def kv_table(described: Descriptions) -> Table:
    columns = (
        *MODEL, whole("bf16", "BF16, B"), whole("fp8", "FP8, B"), whole("fp8_flashmla", "FP8 as FlashMLA stores it, B"),
        decimal("ratio", "BF16 over DeepSeek-V3\u2019s"),
    )  # fmt: skip
    note = f"{FORMULA_ONLY} FP8: one byte per cached element, no scales. MTP\u2019s own cache is left out."
    return Table("KV cache per token", columns, kv_frame(described), note)


def sequence_table(described: Descriptions) -> Table:
    frame = sequence_frame(described)
    wide = frame.pivot(index="model", columns="tokens", values="bytes").loc[list(described)].reset_index()
    wide["kind"] = wide["model"].map(kind)
    columns = tuple(decimal(tokens, f"{tokens // 1024}K tokens, MB", 1, 1e6) for tokens in kv.CONTEXTS)
    note = f"{FORMULA_ONLY} 1 MB = 1,000,000 B; 4K = 4,096 tokens."
    return Table("KV cache per sequence in BF16", (*MODEL, *columns), wide, note)


def flops_table(described: Descriptions) -> Table:
    columns = (
        *MODEL, decimal("train_causal", "Training, causal"), decimal("train_full", "Training, full"),
        decimal("prefill_causal", "Prefill, causal"), decimal("decode", "Decode"),
    )  # fmt: skip
    note = (
        f"{FORMULA_ONLY} At {SEQ_LEN:,} tokens. Training is forward and backward; decode is one token at that context."
    )
    return Table("GFLOP per token", columns, flops_frame(described), note)


def convention_tables(described: Descriptions) -> tuple[Table, Table]:
    """(value of every convention for the released models, what each convention is on the example of DeepSeek-V3)."""
    columns = (Column("name", "Convention"), *(decimal(name, name) for name in released(described)))
    values = Table("GFLOP per token under every convention", columns, convention_values(described), FORMULA_ONLY)
    frame = conventions_frame(described)
    example = frame[frame["model"] == REFERENCE]
    meaning = (
        Column("name", "Convention"), Column("formula", "Formula"),
        Column("inserted", f"With {REFERENCE}\u2019s numbers"), decimal("gflops_per_token", "GFLOP"),
        Column("includes", "In"), Column("excludes", "Out"), Column("exact", "Exact"),
    )  # fmt: skip
    note = "Exact: equal to an operator-level count of this architecture, for what the convention includes."
    return values, Table("What each convention takes in and leaves out", meaning, example, note)


def params_table(described: Descriptions) -> Table:
    columns = (
        *MODEL, Column("architecture", "model_type"), whole("total", "Total"), whole("activated", "Activated"),
        whole("activated_without_input_embedding", "Activated, without input embedding"),
        whole("mtp", "MTP, beside the total"),
    )  # fmt: skip
    note = (
        f"{FORMULA_ONLY} {' and '.join(INFERRED)} are inferred from the report\u2019s parameter counts; their "
        "configs are not published. Proxies are small models of the same architecture."
    )
    return Table("Parameters", columns, params_frame(described), note)
