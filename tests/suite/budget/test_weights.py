"""The budget of released weights, held to the same figures of whole tensors and to folders whose error is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from v3bench.kernels.quantize import GUARD, reference_blocks
from v3bench.model_ref import BadInput
from v3bench.model_ref.checkpoint_export import described, quantize
from v3bench.suite import cli, export, released
from v3bench.suite.budget import weights, weights_text
from v3bench.suite.budget.code_range import Range, half_step
from v3bench.suite.budget.error import error
from v3bench.suite.budget.weight_figures import Sums

from ..folders import EXPERT, MOVED, WHOLE, bf16

KEPT = ("embed", "head", "norm", "gate.", "bias", "eh_proj")


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
    """Several bands of rows to a matrix."""
    monkeypatch.setattr(released, "BAND", 20_000)


@pytest.fixture
def original(tmp_path):
    """A BF16 folder of three shards, and its tensors."""
    checkpoint = bf16(tmp_path / "bf16")
    checkpoint.write(3)
    return checkpoint


@pytest.fixture
def coded(original, tmp_path):
    """Its export."""
    export.write(original.folder, tmp_path / "fp8")
    return tmp_path / "fp8"


def of(found, name):
    """One matrix' figures."""
    (row,) = (row for row in found["tensors"] if row["name"] == name)
    return row


def share(mask, of=None):
    """Of true elements."""
    return int(mask.sum()) / (mask.numel() if of is None else int(of.sum()))


def spread(scales, shape):
    """scales (I, J) -> one for each value."""
    return scales.repeat_interleave(128, 0)[: shape[0]].repeat_interleave(128, 1)[:, : shape[1]]


def dequantized(w):
    """The definition: codes and scales of the whole matrix by kernels/quantize.py, multiplied."""
    codes, scales = reference_blocks(w.float(), clamp=GUARD)
    return codes.float() * spread(scales, w.shape)


def change(folder, name, make):
    """Write a folder's tensor anew."""
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        if name in tensors:
            tensors[name] = make(tensors[name])
            save_file(tensors, path, {"format": "pt"})


def test_the_export_error_is_that_of_whole_tensors(original):
    found = weights.measure(original.folder).as_json()
    assert found["measure"] == "export_error"
    names = [name for name in original.tensors if not any(part in name for part in KEPT)]
    assert {row["name"] for row in found["tensors"]} == {*names}
    assert found["kept"] == {"tensors": len(original.tensors) - len(names)}
    for name in names:
        w = original.tensors[name].float()
        want, row = error(dequantized(w), w), of(found, name)
        assert row["relative_error"] == pytest.approx(want.relative, rel=1e-9)
        assert row["cosine"] == pytest.approx(want.cosine, rel=1e-12)
        assert row["flushed"] == share((w != 0) & (dequantized(w) == 0), of=w != 0)


def test_a_group_is_one_vector(original):
    found = weights.measure(original.folder).as_json()
    names = [row["name"] for row in found["tensors"]]
    for group, chosen in [
        (found["total"], names),
        (next(kind for kind in found["kinds"] if kind["kind"] == "mlp.experts.up_proj"),
         [name for name in names if ".experts." in name and ".up_proj" in name]),
        (next(layer for layer in found["layers"] if layer["mtp"]), [name for name in names if ".layers.2." in name]),
    ]:  # fmt: skip
        vector = torch.cat([original.tensors[name].float().flatten() for name in chosen])
        want = error(torch.cat([dequantized(original.tensors[name]).flatten() for name in chosen]), vector)
        assert group["tensors"] == len(chosen)
        assert group["values"] == len(vector)
        assert group["relative_error"] == pytest.approx(want.relative, rel=1e-9)
        assert group["cosine"] == pytest.approx(want.cosine, rel=1e-12)
    assert [layer["layer"] for layer in found["layers"]] == [0, 1, 2]


def test_the_worst_block_is_where_it_is(original):
    w = original.tensors[MOVED] = torch.full((140, 15), 448.0, dtype=torch.bfloat16)  # with a scale of 1 exact
    w[130:, 3] = 2.0**-11  # a quarter of the least code
    original.write(3)
    row = of(weights.measure(original.folder).as_json(), MOVED)
    square = 10 * 2.0**-22
    block = row["worst_block"]
    assert (block["tensor"], block["row"], block["column"]) == (MOVED, 128, 0)
    assert block["relative_error"] == pytest.approx((square / (448**2 * (12 * 15 - 10) + square)) ** 0.5)
    assert row["flushed"] == 10 / w.numel()


def test_a_matrix_of_zeros_has_no_error(original):
    original.tensors[MOVED].zero_()
    original.write(3)
    row = of(weights.measure(original.folder).as_json(), MOVED)
    assert (row["relative_error"], row["cosine"], row["flushed"]) == (None, None, None)


@pytest.mark.parametrize("value, counts", [(float("nan"), (1, 0)), (float("inf"), (0, 1))])
def test_what_is_not_finite_is_named_and_counts_nowhere(original, value, counts):
    before = weights.measure(original.folder).as_json()
    original.tensors[MOVED][139, 2] = value
    original.write(3)
    found = weights.measure(original.folder)
    after = found.as_json()
    assert after["not_finite"] == [{"name": MOVED, "nan": counts[0], "infinite": counts[1]}]
    assert after["total"]["values"] == before["total"]["values"] - 140 * 15
    assert f"not finite: {MOVED} holds {counts[0]} NaN and {counts[1]} infinite values" in weights_text.lines(found)
    json.dumps(after, allow_nan=False)


def test_our_own_export_errs_as_it_said_it_would(original, coded):
    before, after = (weights.measure(*folders).as_json() for folders in ([original.folder], [coded, original.folder]))
    assert after["measure"] == "release_error"
    for row in after["tensors"]:
        said = of(before, row["name"])
        assert {name: row[name] for name in said} == said
        assert (row["equal_codes"], row["equal_scales"]) == (1, 1)
        assert row["own_relative_error"] == row["relative_error"]
    assert after["kept"] == {
        "tensors": before["kept"]["tensors"], "differing": [], "only_in_checkpoint": [], "only_in_original": [],
    }  # fmt: skip


def test_another_release_errs_otherwise(original, coded):
    def doubled(scales):
        return scales * 2

    def moved(codes):
        raw = codes.view(torch.uint8).clone()
        raw[:7] ^= 1  # the last bit of the mantissa
        return raw.view(torch.float8_e4m3fn)

    change(coded, MOVED + "_scale_inv", doubled)
    change(coded, EXPERT, moved)
    change(coded, "model.norm.weight", doubled)
    found = weights.measure(coded, original.folder)
    row = of(found.as_json(), MOVED)
    assert row["relative_error"] == pytest.approx(1, abs=0.1)  # twice as large
    assert row["cosine"] == pytest.approx(row["own_cosine"])
    assert (row["equal_codes"], row["equal_scales"]) == (1, 0)
    row = of(found.as_json(), EXPERT)
    assert row["equal_codes"] == pytest.approx(1 - 7 / 136)
    assert row["equal_scales"] == 1
    codes, scales = (load_all(coded)[name] for name in (EXPERT, EXPERT + "_scale_inv"))
    want = error(codes.float() * spread(scales, codes.shape), original.tensors[EXPERT])
    assert row["relative_error"] == pytest.approx(want.relative, rel=1e-9)
    assert row["own_relative_error"] < row["relative_error"]
    assert found.as_json()["kept"]["differing"] == ["model.norm.weight"]
    assert "differs from the original: model.norm.weight" in weights_text.lines(found)


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_blocks_that_are_not_v3s_are_measured_and_not_compared_with_ours(tmp_path):
    checkpoint = bf16(tmp_path / "bf16", **WHOLE)
    checkpoint.write()
    other = bf16(tmp_path / "fp8", **WHOLE)
    other.config["quantization_config"] = described() | {"weight_block_size": [64, 32]}
    for name in [name for name in other.tensors if not any(part in name for part in KEPT)]:
        w = other.tensors[name].float()
        scales = w.unflatten(0, (-1, 64)).unflatten(2, (-1, 32)).abs().amax((1, 3)) / 448
        each = scales.repeat_interleave(64, 0).repeat_interleave(32, 1)
        other.tensors |= {name: (w / each).to(torch.float8_e4m3fn), name + "_scale_inv": scales}
    other.write(2)
    found = weights.measure(other.folder, checkpoint.folder).as_json()
    row = of(found, MOVED)
    codes, scales = other.tensors[MOVED].float(), other.tensors[MOVED + "_scale_inv"]
    values = codes * scales.repeat_interleave(64, 0).repeat_interleave(32, 1)
    assert row["relative_error"] == pytest.approx(error(values, checkpoint.tensors[MOVED]).relative, rel=1e-9)
    assert {row[name] for name in ("own_relative_error", "own_cosine", "equal_codes", "equal_scales")} == {None}


def test_codes_alone_give_their_range_and_a_bound_that_no_error_exceeds(original, coded):
    found, true = weights.measure(coded).as_json(), weights.measure(coded, original.folder).as_json()
    assert found["measure"] == "code_range"
    assert not any("error" in name for row in (found["total"], *found["tensors"]) for name in row)
    for row in found["tensors"]:
        assert of(true, row["name"])["relative_error"] <= row["bound"] < 0.5
    codes, scales = quantize(original.tensors[MOVED].float())
    row, size = of(found, MOVED), codes.float().abs()
    assert row["zero"] == share(size == 0)
    assert row["subnormal"] == share((size > 0) & (size < 2**-6))
    assert row["largest"] == share(size == 448)
    assert row["scale_spread"] == pytest.approx(float(scales.max() / scales.min()))
    assert (row["range_used"], row["least_range_used"]) == (1, 1)


def test_half_a_step_of_every_code():
    codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    steps = codes.diff()
    assert torch.equal(half_step(codes)[:-1], steps / 2)
    assert half_step(codes)[-1] == 16


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(0, 30), st.integers(0, 2**16))
def test_sums_are_those_of_whole_tensors_and_no_error_is_above_the_bound(rows, columns, octaves, seed):
    random = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, columns, generator=random) * 2.0 ** -(torch.rand(rows, columns, generator=random) * octaves)
    w[torch.rand(rows, columns, generator=random) < 0.2] = 0
    codes, scales = quantize(w)
    got, sums, found = codes.float() * spread(scales, w.shape), Sums(), Range()
    sums.add(got, w, (128, 128), "w", 0)
    found.add(codes.float(), scales, (128, 128))
    want = error(got, w)
    if sums.relative is None:
        assert not w.any()
        assert found.bound is None
        return
    assert (sums.relative, sums.cosine) == pytest.approx(want[:2], rel=1e-9)
    # A value half-way between two codes may have been rounded to the farther one, by float32's last bit.
    assert found.bound is None or sums.relative <= found.bound * (1 + 1e-6)


def test_range_that_is_not_used_shows(coded):
    change(coded, MOVED, lambda codes: (codes.float() / 8).to(codes.dtype))
    row = of(weights.measure(coded).as_json(), MOVED)
    assert row["range_used"] == row["least_range_used"] == 1 / 8


@pytest.mark.parametrize("name, value", [(MOVED, 0x7F), (MOVED + "_scale_inv", float("inf"))])
def test_codes_and_scales_that_are_not_finite(original, coded, name, value):
    def spoil(tensor):
        raw = tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor
        raw.view(-1)[-1] = value
        return tensor

    change(coded, name, spoil)
    for folders in ([coded], [coded, original.folder]):
        assert [row.matrix.name for row in weights.measure(*folders).not_finite] == [MOVED]


def test_stacked_experts_come_apart_as_they_are_released(original, tmp_path):
    before = weights.measure(original.folder).as_json()
    t = original.tensors
    for i in (1, 2):
        prefix = f"model.layers.{i}.mlp.experts."
        parts = {part: [t.pop(f"{prefix}{e}.{part}_proj.weight") for e in range(4)] for part in ("gate", "up", "down")}
        pairs = zip(parts["gate"], parts["up"], strict=True)
        t[prefix + "gate_up_proj"] = torch.stack([torch.cat(pair) for pair in pairs])
        t[prefix + "down_proj"] = torch.stack(parts["down"])
    for path in original.folder.glob("*.safetensors*"):
        path.unlink()
    original.write()
    after = weights.measure(original.folder).as_json()
    rows = [{row["name"]: row for row in found["tensors"]} for found in (before, after)]
    assert rows[0] == rows[1]


def refused(*arguments):
    """The one line."""
    with pytest.raises(BadInput) as caught:
        weights.measure(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folders_that_cannot_be_measured(original, coded, tmp_path):
    assert "none: is no folder" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "empty: holds no config.json" in refused(tmp_path / "empty")
    assert "holds no FP8 weights" in refused(original.folder, coded)
    assert "is FP8 itself" in refused(coded, coded)
    other = bf16(
        tmp_path / "v2", model_type="deepseek_v2", topk_method="noaux_tc", architectures=["DeepseekV2ForCausalLM"]
    )
    other.write()
    assert "v2: is a deepseek_v2; expected the original of" in refused(coded, other.folder)
    wider = bf16(tmp_path / "wider", moe_intermediate_size=200)
    wider.write()
    line = refused(coded, wider.folder)
    assert "has shape [200, 140]" in line or "has shape [140, 200]" in line
    plain = bf16(tmp_path / "plain")
    plain.tensors = {name: tensor for name, tensor in plain.tensors.items() if ".layers.2." not in name}
    plain.write()
    assert "plain: lacks tensor 'model.layers.2." in refused(coded, plain.folder)
    (shard,) = coded.glob("model-00002*")
    shard.write_bytes(shard.read_bytes()[:-9])
    assert "is cut off or no safetensors file" in refused(coded)


def test_the_command(original, coded, tmp_path, capsys):
    def run(*words):
        status, (out, err) = cli.main(["weights", *map(str, words)]), capsys.readouterr()
        return status, out, err

    status, out, err = run(coded, "--against", original.folder, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["total"]["equal_codes"] == 1
    for words, what in [([coded], "bound"), ([coded, "--against", original.folder], "codes equal")]:
        status, out, err = run(*words)
        assert (status, err) == (0, "")
        assert "layer 2 (MTP)" in out
        assert what in out
    original.tensors[MOVED][0, 0] = float("nan")
    original.write(3)
    status, out, err = run(original.folder)
    assert status == 1
    assert f"not finite: {MOVED} holds 1 NaN and 0 infinite values\n" in out
    status, out, err = run(original.folder, "--export", tmp_path / "new")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"tensor '{MOVED}': holds NaN" in err
    assert not (tmp_path / "new").exists()
