"""Launches as values, and the launch tables that decide their configuration."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from triton.runtime.errors import OutOfResources
from v3bench.kernels import catalog, tables
from v3bench.kernels.launch import Launch, cdiv, run, split


class Recording:
    """Stands for a kernel: remembers how it was started."""

    def __init__(self) -> None:
        self.started: list[tuple[object, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> object:
        return lambda **given: self.started.append((grid, given))


def test_a_launch_starts_its_kernel_with_everything_it_holds() -> None:
    kernel = Recording()
    run([Launch(kernel, (2, 3), {"x": 1}, {"num_warps": 8}), Launch(kernel, (4,), {"x": 2})])
    assert kernel.started == [((2, 3), {"x": 1, "num_warps": 8}), ((4,), {"x": 2})]


def test_an_empty_grid_starts_nothing() -> None:
    kernel = Recording()
    run([Launch(kernel, (0, 5), {})])
    assert kernel.started == []


def test_a_grid_that_no_gpu_takes_is_an_error_that_says_so() -> None:
    kernel = Recording()
    with pytest.raises(ValueError, match=r"grid of \(1, 65536\) programs"):
        run([Launch(kernel, (1, 65536), {})])
    run([Launch(kernel, (65536, 65535), {})])
    assert [grid for grid, _ in kernel.started] == [(65536, 65535)]


def test_a_launch_runs_on_the_gpu_that_its_tensors_lie_on(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[torch.device] = []

    def enter(device: torch.device) -> nullcontext[None]:
        entered.append(device)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", enter)
    kernel = Recording()
    for index in (0, 1):
        there = SimpleNamespace(is_cuda=True, device=torch.device("cuda", index))
        run([Launch(kernel, (1,), {"n": 3, "x": there})])
    assert entered == [torch.device("cuda", 1)]
    assert len(kernel.started) == 2


class TooLarge:
    """Stands for a kernel whose programs take more than the GPU has: Triton says so once it is compiled."""

    __module__, __name__ = "v3bench.kernels.some_op", "kernel"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, grid: tuple[int, ...]) -> object:
        return self.start

    def start(self, **given: object) -> None:
        raise self.error


def test_a_gpu_with_too_little_shared_memory_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA A100 {device.index}")
    kernel, there = TooLarge(OutOfResources(196608, 166912, "shared memory")), torch.device("cuda", 0)
    launch = Launch(kernel, (1,), {"x": SimpleNamespace(is_cuda=True, device=there)}, {"num_warps": 8, "num_stages": 4})
    message = (
        "some_op.kernel: a program takes 196608 bytes of shared memory with num_warps 8, num_stages 4, NVIDIA A100 0 "
        "has 166912; where the operation has a launch table, `v3bench tune OP --device cuda` looks for a configuration "
        "that fits"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run([launch])
    kernel.error = OutOfResources(1024, 512, "threads")
    with pytest.raises(ValueError, match=r"takes 1024 threads with num_warps 8, num_stages 4, NVIDIA A100 0 has 512;"):
        run([launch])


def test_any_other_error_of_a_kernel_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^an illegal memory access$"):
        run([Launch(TooLarge(RuntimeError("an illegal memory access")), (1,), {})])


def test_a_config_is_split_into_constexprs_and_options() -> None:
    assert split({"BLOCK": 64, "num_warps": 4, "num_stages": 3}) == ({"BLOCK": 64}, {"num_warps": 4, "num_stages": 3})


def test_cdiv() -> None:
    assert [cdiv(n, 128) for n in (0, 1, 128, 129)] == [0, 1, 1, 2]


ROWS = [
    {
        "device": device,
        "shape": {"M": M, "K": 128},
        "config": {"n": n},
        "basis": basis,
        "source": "s",
        "triton": "3.7.1",
        "predicted": {},
    }
    for device, M, n, basis in (
        ("sm_90", 64, 1, "modelled"),
        ("sm_90", 4096, 2, "modelled"),
        ("NVIDIA H200", 64, 3, "measured"),
    )
]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "some_op.json").write_text(json.dumps({"op": "some_op", "rows": ROWS}))
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    return "some_op"


def test_the_nearest_shape_counts(table: str) -> None:
    def n(M: int, K: int = 128, device: str = "sm_90") -> int:
        return int(tables.nearest(table, device, (("M", M), ("K", K))).config["n"])

    assert [n(1), n(64), n(511), n(513), n(1 << 20)] == [1, 1, 1, 2, 2]
    assert n(0) == 1
    assert n(64, K=1 << 20) == 1
    assert n(4096, device="NVIDIA H200") == 3  # tuned there: its rows alone count
    assert n(4096, device="NVIDIA H100 80GB HBM3") == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"triton": None}, "row 1 has None as triton"),
        ({"triton": "main"}, "row 1 has 'main' as triton, which is no version"),
        ({"triton": "3.7"}, "row 1 has '3.7' as triton, which is no version"),
        ({"shape": [64]}, r"row 1 has \[64\] as shape"),
        ({"speed": 3}, "row 1 has speed, which no row has"),
    ],
)
def test_a_row_that_tune_did_not_write_is_refused(table: str, change: dict[str, object], said: str) -> None:
    path = tables.FOLDER / "other_op.json"
    path.write_text(json.dumps({"op": "other_op", "rows": [{**ROWS[0], **change}]}))
    with pytest.raises(ValueError, match=rf"^other_op\.json: {said}; v3bench tune other_op makes it anew$"):
        tables.rows("other_op")


def test_a_row_without_a_compiler_is_refused(table: str) -> None:
    old = {name: value for name, value in ROWS[0].items() if name != "triton"}
    (tables.FOLDER / "other_op.json").write_text(json.dumps({"op": "other_op", "rows": [old]}))
    with pytest.raises(ValueError, match=r"^other_op\.json: row 1 lacks triton; v3bench tune other_op makes it anew$"):
        tables.rows("other_op")


def test_other_dimensions_are_an_error(table: str) -> None:
    with pytest.raises(ValueError, match="a table for M, K was asked for M"):
        tables.nearest(table, "sm_90", (("M", 1),))


@pytest.mark.parametrize("op", catalog.MODULES)
def test_the_shipped_tables_answer_every_shape_they_were_made_for(op: str) -> None:
    module = catalog.module(op)
    for shape in module.TABLE_SHAPES[op]:
        config = tables.choose(op, torch.device("meta"), **shape)
        assert config in module.CANDIDATES[op], f"{op} {shape}: {config} is no candidate; run v3bench tune {op}"
        launches = module.example(op, shape, config)
        assert all(launch.programs for launch in launches)


@pytest.mark.parametrize("op", catalog.MODULES)
def test_shipped_rows_say_where_they_come_from(op: str) -> None:
    for row in tables.rows(op):
        assert row.basis in ("modelled", "measured")
        assert (row.device == "sm_90") == (row.basis == "modelled")
        assert row.source
        wanted = {
            "flops",
            "bytes",
            "programs",
            "ctas_per_sm",
            "waves",
            "instructions_per_element",
            "seconds",
            "roofline_share",
        }
        assert row.predicted.keys() == wanted
        assert 0 < row.predicted["roofline_share"] <= 1
