"""Gradients of softmax attention (mla_prefill.py), without atomics: every repeat gives the same bits.

    reference               the definition of that case
    mla_prefill_backward    launcher of the square causal case with widths of 192 and 128
    launches, backward      of every case that ``attention`` in flash_attention.py serves

Three launches (kernels in attention_gradients.py): what each query needs of out and lse; dk and dv; dq. Scores are
computed twice, 1152 multiply-adds a pair of 192 + 128 columns for the 832 of a single pass, which would need atomics.

B batch  S queries  L keys (S <= L)  H heads  J key-value heads (J divides H)  d query and key width  v value width
"""

from __future__ import annotations

import torch
from torch import Tensor
from v3bench.kernels import checks, mla_prefill, tables
from v3bench.kernels.attention_gradients import kernel_keys, kernel_queries, kernel_rows
from v3bench.kernels.attention_tiles import Mask, Widths, bulk, element, source, strides
from v3bench.kernels.launch import Config, Launch, cdiv, run
from v3bench.kernels.mla_prefill import KEY, LOG2E, VALUE

LARGEST = 128  # rows of a block
ROWS = 32  # of kernel_rows' programs: 32 x 128 bf16 twice, 16 bytes a thread of 4 warps


def reference(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, d_out: Tensor, *, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv of the square causal case, from out and lse as rounded; in at least float32, rounded once."""
    given, wide = q.dtype, torch.promote_types(q.dtype, torch.float32)
    q, k, v, out, d_out = (x.to(wide) for x in (q, k, v, out, d_out))
    weights = (torch.einsum("bshd,blhd->bhsl", q, k) * scale - lse.to(wide)[..., None]).exp().tril()
    delta = torch.einsum("bshv,bshv->bhs", out, d_out)
    slope = weights * (torch.einsum("bshv,blhv->bhsl", d_out, v) - delta[..., None]) * scale
    dq, dk = torch.einsum("bhsl,blhd->bshd", slope, k), torch.einsum("bhsl,bshd->blhd", slope, q)
    return dq.to(given), dk.to(given), torch.einsum("bhsl,bshv->blhv", weights, d_out).to(given)


def launches(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    d_out: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    rows: Tensor,
    *,
    scale: float,
    mask: Mask,
    config: Config,
) -> tuple[Launch, ...]:
    """As the forward's arguments and results; ``rows`` is memory to work in, from ``working``.

    ``config`` has KEYS_M, KEYS_N, KEYS_warps, KEYS_stages for dk and dv, and QUERIES_.. for dq.
    """
    (B, S, H, d), (_, L, J, width), P = q.shape, v.shape, rows.shape[-1]
    widths, described = Widths.of(d, width), bulk(q, k, v, d_out, dq, dk, dv)
    by_rows = {
        "out_ptr": out, "d_out_ptr": d_out, "lse_ptr": lse, "rows_ptr": rows, "S": S, "P": P,
        "H": H, "width": width, "out_by_batch": out.stride(0), **strides("d_out_by", d_out), "BLOCK": ROWS,
        "VALUE": widths.value,
    }  # fmt: skip
    M, N = config["KEYS_M"], config["KEYS_N"]
    by_keys = {
        "q_head": source(q, M, widths.head, described), "q_tail": source(q, M, widths.last, described),
        "k_ptr": k, "v_ptr": v, "d_out": source(d_out, M, widths.value, described),
        "dk_head": source(dk, N, widths.head, described), "dk_tail": source(dk, N, widths.last, described),
        "dv_out": source(dv, N, widths.value, described),
        "BLOCK_M": M, "BLOCK_N": N,
    }  # fmt: skip
    keys_grid = (cdiv(L, N), J, B)
    M, N = config["QUERIES_M"], config["QUERIES_N"]
    by_queries = {
        "k_head": source(k, N, widths.head, described), "k_tail": source(k, N, widths.last, described),
        "v": source(v, N, widths.value, described), "q_ptr": q, "d_out_ptr": d_out,
        "dq_head": source(dq, M, widths.head, described), "dq_tail": source(dq, M, widths.last, described),
        "BLOCK_M": M, "BLOCK_N": N,
    }  # fmt: skip
    shared = {
        "rows_ptr": rows, "S": S, "P": P, "L": L, "H": H, "groups": H // J, "d": d,
        "width": width, "scale": scale, "factor": scale * LOG2E,
        **strides("q_by", q), **strides("k_by", k), **strides("v_by", v), **strides("d_out_by", d_out),
        **mask.arguments, "BULK": described, "TYPE": element(q), **widths.constexprs,
    }  # fmt: skip
    # Every block of keys reads the queries that see it, every block of queries the keys it sees.
    seen = (L - S // 2 if mask.causal else L) * (d + width) * q.itemsize
    return (
        Launch(kernel_rows, (cdiv(P, ROWS), H, B), by_rows, {"num_warps": 4}),
        Launch(
            kernel_keys,
            keys_grid,
            by_keys | shared,
            options(config, "KEYS"),
            l2_bytes=B * H * cdiv(S, config["KEYS_N"]) * seen,
        ),
        Launch(
            kernel_queries,
            (cdiv(S, M) * H, B),
            by_queries | shared,
            options(config, "QUERIES"),
            l2_bytes=B * H * cdiv(S, M) * seen,
        ),
    )


def working(lse: Tensor) -> Tensor:
    """float32 (B, H, 2, S padded to whole blocks): what kernel_rows leaves of each query, read without a mask."""
    B, H, S = lse.shape
    return torch.empty(B, H, 2, cdiv(S, LARGEST) * LARGEST, dtype=torch.float32, device=lse.device)


def options(config: Config, kernel: str) -> dict[str, int]:
    """The compiler's options for one of the two kernels."""
    return {"num_warps": config[f"{kernel}_warps"], "num_stages": config[f"{kernel}_stages"]}


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    d_out: Tensor,
    *,
    scale: float,
    mask: Mask,
    config: Config,
) -> tuple[Tensor, Tensor, Tensor]:
    """Checked arguments -> dq, dk, dv, contiguous."""
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    if not lse.numel():  # no queries
        return dq, dk.zero_(), dv.zero_()
    if not q.is_meta:
        d_out = d_out if bulk(d_out) else d_out.contiguous()  # a gradient of a sum repeats one element
        rows = working(lse)
        run(launches(q, k, v, out, lse, d_out, dq, dk, dv, rows, scale=scale, mask=mask, config=config))
    return dq, dk, dv


def mla_prefill_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    d_out: Tensor,
    *,
    scale: float,
    config: Config | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k (B, S, H, 192), v (B, S, H, 128), what ``mla_prefill`` made of them, and out's gradient -> dq, dk, dv.

    Raises ValueError.
    """
    op = "mla_prefill_backward"
    mla_prefill.check(op, q, k, v, scale, Mask())
    B, S, H, _ = q.shape
    key, value = (B, S, H, KEY), (B, S, H, VALUE)
    for name, x, shape in (("q", q, key), ("k", k, key), ("v", v, value), ("d_out", d_out, value)):
        checks.tensor(op, name, x, q.dtype, shape, aligned=False)
    checks.tensor(op, "out", out, q.dtype, (B, S, H, VALUE), contiguous=True, aligned=False)
    checks.tensor(op, "lse", lse, torch.float32, (B, H, S), contiguous=True, aligned=False)
    checks.device(op, mla_prefill.NEEDS, q, out, lse, d_out)
    config = config or tables.choose(op, q.device, B=B, H=H, S=S)
    return backward(q, k, v, out, lse, d_out, scale=scale, mask=Mask(), config=config)


def example(op: str, shape: dict[str, int], config: Config) -> tuple[Launch, ...]:
    """Launches at a table's shape on the meta device, for compilation ahead of time."""
    B, H, S = shape["B"], shape["H"], shape["S"]
    q, k, dq, dk = (torch.empty(B, S, H, KEY, dtype=torch.bfloat16, device="meta") for _ in range(4))
    v, out, d_out, dv = (torch.empty(B, S, H, VALUE, dtype=torch.bfloat16, device="meta") for _ in range(4))
    lse = torch.empty(B, H, S, dtype=torch.float32, device="meta")
    rows = working(lse)
    return launches(q, k, v, out, lse, d_out, dq, dk, dv, rows, scale=KEY**-0.5, mask=Mask(), config=config)


# (queries, keys, warps, stages) of a tile. dk and dv alone take 160 registers a thread, so their tiles have 32 queries,
# two CTAs an SM; 64 x 64 would spill 16 bytes, and of 8 warps would compute every score twice.
KEYS = ((32, 64, 4, 3), (32, 64, 4, 2), (32, 128, 8, 2))
QUERIES = ((128, 64, 8, 3), (64, 32, 4, 3), (128, 64, 8, 2), (64, 32, 4, 2))
CANDIDATES = {
    "mla_prefill_backward": [
        {
            "KEYS_M": keys[0], "KEYS_N": keys[1], "KEYS_warps": keys[2], "KEYS_stages": keys[3],
            "QUERIES_M": queries[0], "QUERIES_N": queries[1], "QUERIES_warps": queries[2], "QUERIES_stages": queries[3],
        }
        for keys in KEYS
        for queries in QUERIES
    ]
}  # fmt: skip
TABLE_SHAPES = {"mla_prefill_backward": mla_prefill.TABLE_SHAPES["mla_prefill"]}
