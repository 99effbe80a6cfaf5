"""Captured graphs: enough buffer sets, whole rounds that last long enough, outputs kept apart, refusals with a why."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from v3bench.suite.meter import graph
from v3bench.suite.meter.graph import Rotation, Uncapturable, capture, rounds_for, sets_needed

MB = 1 << 20


@pytest.mark.parametrize(
    "nbytes, l2, sets",
    [
        (20 * MB, 60 * MB, 10),  # nine are three times the L2, but not more
        (200 * MB, 60 * MB, 1),
        (180 * MB, 60 * MB, 2),
        (MB, 60 * MB, 64),  # 181 would be needed: the most is said to be 64
        (1, 60 * MB, 64),
    ],
)
def test_the_sets_are_more_than_three_times_the_l2(nbytes, l2, sets):
    assert sets_needed(nbytes, l2) == sets
    assert sets == 64 or sets * nbytes > 3 * l2 >= (sets - 1) * nbytes


def test_no_bytes_need_no_sets():
    assert sets_needed(MB, 60 * MB, most=500) == 181
    with pytest.raises(ValueError, match="0 bytes"):
        sets_needed(0, 60 * MB)


def test_the_l2_is_read_under_either_name():
    assert graph.l2_bytes(SimpleNamespace(L2_cache_size=50 * MB)) == 50 * MB
    assert graph.l2_bytes(SimpleNamespace(l2_cache_size=60 * MB)) == 60 * MB
    with pytest.raises(RuntimeError, match="does not tell"):
        graph.l2_bytes(SimpleNamespace())


def test_a_rotation_takes_the_sets_in_turn():
    rotation = Rotation([lambda: "a", lambda: "b", lambda: "c"])
    assert [rotation() for _ in range(4)] == ["a", "b", "c", "a"]
    assert rotation.round() == ["a", "b", "c"]
    with pytest.raises(ValueError, match="no calls"):
        Rotation([])


def test_rounds_fill_the_least_time_and_no_more():
    assert rounds_for(10e-6, 200e-6, 4) == 20
    assert rounds_for(11e-6, 200e-6, 4) == 19
    assert rounds_for(1e-3, 200e-6, 4) == 1
    assert rounds_for(0.0, 200e-6, 64) == graph.MOST_LAUNCHES // 64
    assert rounds_for(1e-9, 200e-6, 10_000) == 1


def test_whole_rounds_are_captured_until_a_replay_lasts_long_enough(cuda):
    calls = [lambda seconds=seconds: cuda.launch(seconds) for seconds in (5e-6, 10e-6)]
    captured = capture(calls, least_seconds=100e-6)
    assert captured.launches == 14  # seven rounds of 15 us are the first to be 100 us
    assert captured.graph.launches == [5e-6, 10e-6] * 7
    start = cuda.now
    captured.replay()
    assert cuda.now - start == pytest.approx(105e-6)
    assert cuda.mode == "default"


def test_a_long_round_is_captured_once(cuda):
    captured = capture([lambda: cuda.launch(1e-3)])
    assert captured.launches == 1
    assert "reset" not in cuda.log
    captured.release()
    assert cuda.log[-1] == "reset"


def test_outputs_of_a_round_live_side_by_side(cuda):
    """An output freed at once would be the next launch's too: its buffers would not rotate."""
    alive, most = set(), []

    class Output:
        def __init__(self):
            alive.add(id(self))
            most.append(len(alive))

        def __del__(self):
            alive.discard(id(self))

    def call():
        cuda.launch(50e-6)
        return Output()

    captured = capture([call, call, call], least_seconds=299e-6)
    assert captured.launches == 6
    assert max(most) >= 4  # three kept, and the one being made
    assert len(captured.kept) == len(alive) == 3
    captured.release()
    assert not alive


def test_a_call_that_waits_is_refused_before_the_capture(cuda):
    calls = []

    def call():
        calls.append(cuda.mode)
        cuda.wait()

    with pytest.raises(Uncapturable) as error:
        capture([call])
    assert str(error.value) == (
        "cannot be captured in a CUDA graph: RuntimeError: called a synchronizing CUDA operation"
    )
    assert calls == ["default", "error"]  # no capture was begun that could leave torch in disorder
    assert cuda.mode == "default"


def test_a_capture_that_fails_says_what_failed_first_and_restores_the_stream(cuda):
    def call():
        if cuda.recording is not None:
            raise RuntimeError("operation not permitted when stream is capturing")

    cuda.breaks = RuntimeError("capture was invalidated")
    with pytest.raises(Uncapturable, match=r"not permitted when stream is capturing$"):
        capture([call])
    assert cuda.log[-2:] == ["set_stream default", "reset"]


def test_a_launch_that_the_graph_does_not_see_is_refused(cuda):
    """On a stream of its own it would not be replayed, and be timed as nothing."""
    cuda.mode = "default"
    with pytest.raises(Uncapturable, match="CUDA Graph is empty"):
        capture([lambda: None])


def test_an_error_of_the_call_itself_passes_through(cuda):
    with pytest.raises(ZeroDivisionError):
        capture([lambda: 1 / 0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_graph_runs_every_set_and_refuses_what_waits():
    tensors = [torch.zeros(1 << 20, device="cuda") for _ in range(3)]
    captured = capture([lambda t=t: t.add_(1) for t in tensors])
    before = [float(t[0]) for t in tensors]
    captured.replay()
    torch.cuda.synchronize()
    rounds = captured.launches // 3
    assert [float(t[0]) - b for t, b in zip(tensors, before, strict=True)] == [rounds] * 3
    with pytest.raises(Uncapturable):
        capture([lambda: tensors[0].sum().item()])
    assert torch.randn(4, device="cuda").isfinite().all()  # torch still works
