"""Expert loads: those of the loss, and how uneven they are."""

from __future__ import annotations

import pytest
import torch
from v3bench.model_ref.config import Config
from v3bench.model_ref.errors import BadInput
from v3bench.model_ref.model import Model
from v3bench.suite.mtp.balance import loads_of, max_violation

from .small import RAW, model_of, windows


def biased() -> Model:
    """With biases that decide some choices."""
    model = model_of(1)
    for block in model.moe_blocks():
        assert block.gate.e_score_correction_bias is not None
        block.gate.e_score_correction_bias.copy_(torch.tensor([0.3, 0.0, -0.3, 0.0]))
    return model


def test_max_violation_by_hand() -> None:
    loads = torch.tensor([[4, 2, 1, 1], [3, 3, 3, 3], [8, 0, 0, 0]])  # means 2, 3, 2
    assert max_violation(loads).tolist() == [1.0, 0.0, 3.0]
    with pytest.raises(BadInput, match="a layer without load"):
        max_violation(torch.zeros(2, 4))


@pytest.mark.parametrize("rows", [2, 128])
def test_loads_are_those_of_the_loss(rows: int) -> None:
    model, ids = biased(), windows()
    got = loads_of(model, ids, rows=rows)
    assert torch.equal(got, model.loss(ids).loads)
    assert got.sum(1).tolist() == [3 * 9 * 2, 3 * 8 * 2]  # windows, positions, experts a token; MTP has one fewer


def test_a_dense_model_has_no_loads() -> None:
    raw = RAW | {"num_nextn_predict_layers": 0, "first_k_dense_replace": 2}
    assert loads_of(Model(Config.from_dict(raw)), windows()).shape == (0, 4)
