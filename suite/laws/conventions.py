"""The same model under every convention of "GFLOPs per token" in use: why published figures differ.

Each row says what it takes in and leaves out, and whether it is exact: whether the formula's weights are the
architecture's own. Table 2 of arXiv 2505.09343 is reproduced by two different rows of this table.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from v3bench.model_ref.config import Config
from v3bench.suite.laws import flops, params
from v3bench.suite.laws.flops import AnyConfig

LINEAR = "projections, experts, router, head"
REST = "input embedding, norms, MTP"


@dataclass(frozen=True)
class Row:
    """One convention: the value in GFLOP per token, unrounded, and how it comes about."""

    name: str
    gflops_per_token: float
    formula: str  # symbols of flops.py
    inserted: str  # the same with this config's numbers
    includes: str
    excludes: str
    exact: bool  # equal to an operator-level count of this architecture, for what it includes

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def conventions(config: AnyConfig, seq_len: int) -> tuple[Row, ...]:
    """Every convention for this config at ``seq_len``; the rows with MTP only where the config has it."""
    rows = [*exact_rows(config, seq_len), *paper_rows(config, seq_len), *dense_rows(config, seq_len)]
    if flops.mtp_parts(config, seq_len):
        rows.append(mtp_row(config, seq_len))
    return tuple(rows)


def exact_rows(config: AnyConfig, S: int) -> list[Row]:
    """Counts of the architecture's own products."""
    n = params.count(config).matmul
    width, absorbed = flops.expanded_width(config), flops.absorbed_width(config)
    windows = [flops.window(config, i) for i in range(config.num_hidden_layers)]
    causal = sum(flops.pairs(S, causal=True, window=w) for w in windows)
    full = sum(flops.pairs(S, causal=False, window=w) for w in windows)
    attended = sum(min(S, w or S) for w in windows)
    mla = isinstance(config, Config)
    form, decoded = ("expanded MLA", "absorbed MLA") if mla else ("attention", "attention")
    triangle, matrix = f"{form}, causal pairs S(S+1)/2", f"{form}, the whole matrix"
    forward_causal = f"(2 x {n} x {S} + 2 x {causal} x {width}) / {S}"
    forward_full = f"(2 x {n} x {S} + 2 x {full} x {width}) / {S}"
    symbols = "(2 N S + 2 P A) / S, P = causal pairs, all layers"
    whole = "(2 N S + 2 P A) / S, P = S^2 per layer"
    return [
        Row("train_causal", per_token(flops.train(config, S), S), f"3 {symbols}", f"3 {forward_causal}",
            f"forward and backward; {LINEAR}; {triangle}", REST, True),
        Row("train_full", per_token(flops.train(config, S, causal=False), S), f"3 {whole}", f"3 {forward_full}",
            f"forward and backward; {LINEAR}; {matrix}", REST, True),
        Row("prefill_causal", per_token(flops.forward(config, S), S), symbols, forward_causal,
            f"forward; {LINEAR} on every token; {triangle}", REST, True),
        Row("prefill_full", per_token(flops.forward(config, S, causal=False), S), whole, forward_full,
            f"forward; {LINEAR} on every token; {matrix}", REST, True),
        Row("decode", per_token(flops.decode(config, S), 1), "2 N + 2 P A', P = positions attended, all layers",
            f"2 x {n} + 2 x {attended} x {absorbed}",
            f"forward of one token at context {S}, itself included; {LINEAR}; {decoded}", REST, True),
    ]  # fmt: skip


def paper_rows(config: AnyConfig, S: int) -> list[Row]:
    """What arXiv 2505.09343 uses for its own models (Tables 2 and 4), and 6N and 2N."""
    counted = params.count(config)
    bare, n, width = counted.matmul_without_router, counted.matmul, flops.expanded_width(config)
    seen = sum(min(S, flops.window(config, i) or S) for i in range(config.num_hidden_layers))
    passes, bare_rest = "forward and backward; projections, experts, head", f"router, {REST}"
    products = f"attention's two products, {REST}"
    return [
        Row("train_half_square_without_router", per_token(6 * bare + 3 * seen * width, 1), "6 N + 6 A L S/2",
            f"6 x {bare} + 6 x {width} x {seen} / 2", f"{passes}; attention over half of S x S", bare_rest, False),
        Row("train_full_without_router", per_token(6 * bare + 6 * seen * width, 1), "6 N + 6 A L S",
            f"6 x {bare} + 6 x {width} x {seen}", f"{passes}; attention, the whole matrix", bare_rest, True),
        Row("train_without_attention", per_token(6 * n, 1), "6 N", f"6 x {n}",
            f"forward and backward; {LINEAR}", products, True),
        Row("inference_2n", per_token(2 * n, 1), "2 N", f"2 x {n}", f"forward; {LINEAR}", products, True),
    ]  # fmt: skip


def dense_rows(config: AnyConfig, S: int) -> list[Row]:
    """Megatron-LM's model FLOPs (Korthikanti et al., 2022): MHA and a two-matrix FFN of 4h, whatever the model is."""
    L, h, V = config.num_hidden_layers, config.hidden_size, config.vocab_size
    body, head, attention = 72 * L * h * h, 6 * V * h, 12 * L * h * S
    shape = "MHA (4 h^2) and a two-matrix FFN of width 4h (8 h^2) per layer, head"
    linear_exact = body + head == 6 * params.count(config).matmul
    exact = linear_exact and body + head + attention == flops.train(config, S, causal=False) // S
    return [
        Row("megatron_without_attention", per_token(body + head, 1), "72 L h^2 + 6 V h",
            f"72 x {L} x {h}^2 + 6 x {V} x {h}", f"forward and backward; {shape}",
            "attention's two products, grouped heads, gated FFN, experts, router, MTP", linear_exact),
        Row("megatron", per_token(body + head + attention, 1), "72 L h^2 (1 + s/(6h) + V/(12 h L))",
            f"72 x {L} x {h}^2 x (1 + {S}/(6 x {h}) + {V}/(12 x {h} x {L}))",
            f"forward and backward; {shape}, attention, the whole matrix",
            "grouped heads, gated FFN, experts, router, MTP", exact),
    ]  # fmt: skip


def mtp_row(config: AnyConfig, S: int) -> Row:
    """Training with the MTP modules counted, each over the whole sequence."""
    main, extra = flops.train(config, S), 3 * flops.mtp(config, S)
    return Row(
        name="train_causal_with_mtp",
        gflops_per_token=per_token(main + extra, S),
        formula="train_causal + 3 x MTP forward",
        inserted=f"({main} + {extra}) / {S}",
        includes="train_causal, and per MTP module eh_proj, one layer and the shared head, on every token",
        excludes="input embedding, norms",
        exact=True,
    )


def per_token(total: int, tokens: int) -> float:
    """GFLOP per token."""
    return total / tokens / 1e9
