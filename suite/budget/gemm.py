"""The second level of the error budget: a product of quantised matrices against float64 of the unquantised ones.

    oriented   a recipe's operands of one of the three products, for sides that are summed along their last axis
    sources    the error by what causes it: one side or both, exactly summed, or in few bits

M rows  N columns  K products in a sum
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.precision import Operands, Recipe
from v3bench.model_ref.scaling import Scaling
from v3bench.suite.budget.accumulation import TILE, array
from v3bench.suite.budget.error import Error, error
from v3bench.suite.budget.quantisers import BF16, Cast
from v3bench.suite.laws.numerics import FRACTION_BITS, tensor_core
from v3bench.suite.ledger.data import choose

LEFT, RIGHT, BOTH = "left quantised", "right quantised", "both quantised"
SUM_PROMOTED = f"sum alone, {FRACTION_BITS} bits, promoted every {TILE}"  # against the exact sum of the same operands
SUM_NEVER = f"sum alone, {FRACTION_BITS} bits, never promoted"
PROMOTED = f"both quantised, {FRACTION_BITS} bits, promoted every {TILE}"
NEVER = f"both quantised, {FRACTION_BITS} bits, never promoted"
SOURCES = (LEFT, RIGHT, BOTH, SUM_PROMOTED, SUM_NEVER, PROMOTED, NEVER)
# Which sides of a product a recipe quantises lying the other way: y = x W' has both as they are.
TURNED = {"forward": (False, False), "dgrad": (False, True), "wgrad": (True, True)}


def oriented(recipe: Recipe, product: str) -> Operands:
    """The operands of "forward", "dgrad" or "wgrad" with boxes for sides (M, K) and (N, K). Raises BadInput."""
    choose(product, TURNED, "product", recipe.name)
    operands: Operands = getattr(recipe, product)
    sides = zip((operands.left, operands.right), TURNED[product], strict=True)
    return Operands(*(turned(side) if turn else side for side, turn in sides))


def turned(scaling: Scaling | None) -> Scaling | None:
    """What does to a transposed matrix as ``scaling`` does to the matrix."""
    return None if scaling is None else replace(scaling, box=scaling.box[::-1])


def sources(operands: Operands, a: Tensor, b: Tensor, rows: int | None = None) -> dict[str, Error]:
    """a (M, K), b (N, K) -> the error of a b' by source, of the first ``rows`` rows.

    A side without quantiser is rounded to bfloat16. What sums in few bits add is modelled for FP8 only: promoted, sums
    are of codes, and scales come to them in FP32; never promoted, of what the codes stand for, as if scales were exact.
    """
    left, right = operands.left or Cast(BF16), operands.right or Cast(BF16)
    a, b = a.double(), b.double()
    qa, qb = left(a.float()).double()[:rows], right(b.float()).double()
    want, exact = a[:rows] @ b.T, qa @ qb.T
    found = {LEFT: error(qa @ b.T, want), RIGHT: error(a[:rows] @ qb.T, want), BOTH: error(exact, want)}
    if isinstance(left, Scaling) and isinstance(right, Scaling):
        promoted = tile_by_tile(left, right, a.float(), b.float(), rows)
        never = torch.from_numpy(tensor_core(array(qa)[:, None], array(qb)[None])).to(a.device)
        found |= {SUM_PROMOTED: error(promoted, exact), SUM_NEVER: error(never, exact)}
        found |= {PROMOTED: error(promoted, want), NEVER: error(never, want)}
    return found


def tile_by_tile(left: Scaling, right: Scaling, a: Tensor, b: Tensor, rows: int | None) -> Tensor:
    """a (M, K), b (N, K) -> (rows, N): every TILE products of codes summed by the model, scaled, and added in FP32."""
    (a, by_a), (b, by_b) = tiled(left, a), tiled(right, b)
    a, by_a = a[:rows], by_a[:rows]
    sums = tensor_core(array(a)[:, None], array(b)[None])  # (rows, N, tiles)
    scaled = torch.from_numpy(sums).float().to(a.device) * by_a[:, None] * by_b
    total = torch.zeros(scaled.shape[:2], device=a.device)
    for tile in scaled.unbind(-1):  # one after the other, as the kernel does
        total += tile
    return total.double()


def tiled(quantiser: Scaling, x: Tensor) -> tuple[Tensor, Tensor]:
    """x (R, C) -> codes (R, tiles, TILE), filled up with zeros, and each tile's scale (R, tiles). Raises BadInput."""
    (R, C), (r, c) = x.shape, quantiser.sides(x)
    if c != TILE and c < C:
        raise BadInput(f"a box of {c} columns", where="budget of a product", right=f"{TILE} or all of them")
    codes, scales = quantiser.codes(x)
    codes = F.pad(codes, (0, -C % TILE)).unflatten(1, (-1, TILE))
    return codes, scales.repeat_interleave(r, 0)[:R].expand(R, codes.shape[1])
