"""The models on Triton's kernels: what they compute with torch's, forward, over a cache, and backward."""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from v3bench.baselines.config import DenseConfig
from v3bench.baselines.dense import Dense
from v3bench.kernels import (
    norm_fused,
    norm_quantize,
    swiglu,
    swiglu_fused,
    swiglu_quantize,
    tables,
    triton_ops,
)
from v3bench.kernels import ops as op_sets
from v3bench.kernels.ops import TORCH, Ops
from v3bench.model_ref import precision
from v3bench.model_ref.model import Model
from v3bench.suite.trials import registry

from .tiny import config

# Rows that belong to no expert are never written: what the interpreter computes of them may be anything.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{what} encountered:RuntimeWarning") for what in ("overflow", "invalid value")
]
KERNELS = Path(op_sets.__file__).parent
# Sizes that FP8 rows of 16 bytes and the interpreter's patience allow.
EVEN = {
    "hidden_size": 64, "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16,
    "v_head_dim": 16, "moe_intermediate_size": 32, "num_hidden_layers": 2, "n_routed_experts": 4, "n_group": 2,
    "topk_group": 1, "num_experts_per_tok": 2, "num_nextn_predict_layers": 1,
}  # fmt: skip
DENSE = {
    "model_type": "qwen2", "vocab_size": 61, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip


def pair(ops: Ops, dense: bool = False, plain: Ops = TORCH) -> tuple[Any, Any]:
    """The same weights, float32, with ``plain`` operations and with ``ops``; the matrices large enough to matter."""
    models = []
    for one in (plain, ops):
        torch.manual_seed(1)
        model: Any
        if dense:
            model = Dense(DenseConfig.from_dict(DENSE), ops=one, dtype=torch.float32)
        else:
            model = Model(config(**EVEN), ops=one, dtype=torch.float32)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=0.15)
        models.append(model)
    return models[0], models[1]


def off(got: torch.Tensor, want: torch.Tensor) -> float:
    """Relative error, in the Frobenius norm."""
    return float((got.double() - want.double()).norm() / want.double().norm())


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's time goes with the size of the blocks, and these tensors fill few: the trials' small ones."""
    shipped = tables.choose

    def choose(op: str, device: torch.device, **shape: int) -> Any:
        return registry.load(op).small_config or shipped(op, device, **shape)

    monkeypatch.setattr(tables, "choose", choose)


def tokens(batch: int, count: int) -> torch.Tensor:
    return torch.randint(61, (batch, count))


# float32 sums in another order; a wrong mask, position or expert is off by orders of magnitude.
CLOSE = 1e-5


@pytest.mark.parametrize("dense", [False, True])
def test_float32_logits_and_cached_decoding(dense: bool) -> None:
    want, got = pair(triton_ops.TRITON, dense)
    ids = tokens(2, 12)
    logits = want(ids).detach()
    with torch.no_grad():
        assert off(got(ids), logits) < CLOSE
        start, cache = got.prefill(ids[:, :9], lengths=[9, 7])
        assert off(start[0], logits[0, :9]) < CLOSE
        assert off(got.decode(ids[:, 9:11], cache)[0], logits[0, 9:11]) < CLOSE
        cache.truncate([10, 7])
        more = got.decode(torch.stack((ids[0, 10:11], ids[1, 7:8])), cache)
    assert off(more[0], logits[0, 10:11]) < CLOSE
    assert off(more[1], logits[1, 7:8]) < CLOSE


@pytest.mark.parametrize("dense", [pytest.param(False, marks=pytest.mark.slow), True])
def test_float32_gradients(dense: bool) -> None:
    models, ids = pair(triton_ops.TRITON, dense), tokens(2, 9)
    for model in models:
        model.loss(ids).total.backward()
    gradients = [{name: p.grad for name, p in model.named_parameters()} for model in models]
    assert gradients[0].keys() == gradients[1].keys()
    for name, want in gradients[0].items():
        assert off(gradients[1][name], want) < 10 * CLOSE, name


EMULATED = precision.ops(precision.FP8)
# Where a float32 sum ends just on the other side, a code moves by a sixteenth: one in a row of 64 is 1/16/8 of the row.
ONE_CODE = 1e-2


@pytest.mark.parametrize("dense", [pytest.param(False, marks=pytest.mark.slow), True])
def test_fp8_computes_what_the_definitions_do(dense: bool) -> None:
    want, got = pair(triton_ops.fp8(), dense, plain=EMULATED)
    ids = tokens(2, 9)
    with torch.no_grad():
        logits = got(ids)
        assert off(logits, want(ids)) < ONE_CODE
        assert torch.equal(got(ids), logits)  # from the weights' cached codes


@pytest.mark.slow
@pytest.mark.parametrize("dense", [False, True])
def test_fp8_has_the_gradients_of_its_emulation(dense: bool) -> None:
    want, got = pair(triton_ops.fp8(), dense, plain=EMULATED)
    ids = tokens(2, 9)
    for model in (want, got):
        model.loss(ids).total.backward()
    for (name, a), b in zip(want.named_parameters(), got.parameters(), strict=True):
        assert b.grad is not None, name
        assert off(b.grad, a.grad) < 2 * ONE_CODE, name


# Two operands of e4m3 make a product 3.6e-2 off; at worst the errors of all products on the way add up.
PRODUCT = 3.6e-2


@pytest.mark.parametrize(("dense", "products"), [pytest.param(False, 2 * 7, marks=pytest.mark.slow), (True, 2 * 4)])
def test_fp8_stays_near_the_exact_logits_and_gradients(dense: bool, products: int) -> None:
    want, got = pair(triton_ops.fp8(), dense)
    ids = tokens(2, 9)
    with torch.no_grad():
        assert PRODUCT < off(got(ids), want(ids)) < products * PRODUCT
    for model in (want, got):
        model.loss(ids).total.backward()
    for (name, a), b in zip(want.named_parameters(), got.parameters(), strict=True):
        assert b.grad is not None, name
        assert off(b.grad, a.grad) < 2 * products * PRODUCT, name


def test_changed_weights_are_quantised_anew() -> None:
    _, got = pair(triton_ops.fp8())
    ids = tokens(1, 4)
    with torch.no_grad():
        before = got(ids)
        got.layers[0].ffn.w_down.mul_(-3)
        assert off(got(ids), before) > 0.1


@pytest.fixture
def nothing_plain(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every definition, and every operation of the other sets and of their parts, raises when it is called."""
    names = set()
    kept = {id(function) for function in (triton_ops.linear.linear, triton_ops.experts.grouped)}
    plain = {id(value) for one in (TORCH, op_sets.REFERENCE) for value in (*vars(one).values(), swiglu.swiglu)} - kept
    for module, name, value in functions():
        if name.startswith("reference") or id(value) in plain:
            short = f"{module.__name__.rpartition('.')[2]}.{name}"
            monkeypatch.setattr(module, name, forbidden(short))
            names.add(short)
    return names


def functions() -> list[tuple[Any, str, Any]]:
    """(module, name, function) of every function that a kernels' module knows by a name of its own."""
    modules = [import_module(f"v3bench.kernels.{path.stem}") for path in sorted(KERNELS.glob("*.py"))]
    return [(m, name, value) for m in modules for name, value in vars(m).items() if inspect.isfunction(value)]


def forbidden(name: str) -> Any:
    def call(*args: object, **kwargs: object) -> None:
        pytest.fail(f"{name} was called")

    return call


@pytest.mark.parametrize("fp8", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_kernel_falls_back_to_a_definition(nothing_plain: set[str], fp8: bool) -> None:
    assert {"attention.reference", "mla_decode.mla_decode", "quantize.reference_tiles", "route.route"} <= nothing_plain
    assert {"ffn.ffn", "norm_linear.norm_linear", "norm.rms_norm", "swiglu.swiglu"} <= nothing_plain
    torch.manual_seed(1)
    model = Model(config(**EVEN), ops=triton_ops.fp8() if fp8 else triton_ops.TRITON, dtype=torch.float32)
    dense = Dense(DenseConfig.from_dict(DENSE), ops=model.ops, dtype=torch.float32)
    for one in (model, dense):
        one.loss(tokens(1, 6)).total.backward()
        _, cache = one.prefill(tokens(1, 6))
        one.decode(tokens(1, 1), cache)


COUNTED = (norm_quantize.rms_norm_quantize, swiglu_quantize.swiglu_quantize, norm_fused.rms_norm, swiglu_fused.swiglu)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each of COUNTED was called, from wherever."""
    made: Counter[str] = Counter()

    def counting(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            made[function.__name__] += 1
            return function(*args, **kwargs)

        return call

    for module, name, value in functions():
        if value in COUNTED:
            monkeypatch.setattr(module, name, counting(value))
    return made


# A dense layer: attention's norm, q_norm, the network's norm and its SwiGLU. A sparse one: attention's norm, q_norm,
# the shared and the routed experts' SwiGLU. Values come out of both kv_norms, the norm before the gate, and the last.
SPARSE_CALLS = {"rms_norm_quantize": 3 + 2, "swiglu_quantize": 1 + 2, "rms_norm": 2 + 1 + 1}
DENSE_CALLS = {"rms_norm_quantize": 2 * 2, "swiglu_quantize": 2, "rms_norm": 1}


@pytest.mark.parametrize(
    ("dense", "training", "want"),
    [
        (False, False, SPARSE_CALLS),
        pytest.param(False, True, SPARSE_CALLS, marks=pytest.mark.slow),
        (True, False, DENSE_CALLS),
        (True, True, DENSE_CALLS),
    ],
)
def test_fp8_quantises_in_the_pass_that_makes_the_values(
    calls: Counter[str], dense: bool, training: bool, want: dict[str, int]
) -> None:
    # A set holds its operations by value; what they call is looked up when they are called, and so counted already.
    _, model = pair(replace(triton_ops.fp8(), rms_norm=norm_fused.rms_norm), dense)
    with torch.set_grad_enabled(training):
        logits = model(tokens(1, 3))
        if training:
            logits.sum().backward()
    assert calls == want
