"""The forms of launches as data, and what launchers choose for them."""

from __future__ import annotations

from typing import Any

import pytest
from v3bench.kernels import forms


def test_every_launcher_has_forms_and_a_call_and_no_form_stands_twice() -> None:
    assert forms.FORMS.keys() == forms.CALLS.keys()
    for all_of_one in forms.FORMS.values():
        told = [str(sorted(form.items())) for form in all_of_one]
        assert len(set(told)) == len(told) > 0


def test_the_operations_of_a_model_run_whole() -> None:
    """As they do on a GPU: attention is an operation that calls others."""
    form = {"B": 2, "S": 512, "L": 700, "H": 4, "J": 4, "d": 64, "v": 64, "dtype": "bfloat16"}
    (whole,) = forms.launches("attention", form)
    (several,) = forms.launches("attention", {**form, "lengths": True})
    assert whole.args["lengths_ptr"] is None
    assert several.args["lengths_ptr"].shape == (2,)
    few = forms.launches("attention", {**form, "S": 1})
    assert [len(few), few[0].args["ROWS"]] == [2, 16]  # keys in parts, which are joined


@pytest.mark.parametrize(
    ("launcher", "change", "chosen"),
    [
        ("attention", {"lengths": False}, {"BLOCK_M": 64, "BLOCK_N": 64}),
        ("attention", {"lengths": True}, {"BLOCK_M": 128, "BLOCK_N": 32}),
        ("attention", {"S": 32}, {"BLOCK_M": 16, "BLOCK_N": 32}),
        ("attention", {"S": 1}, {"ROWS": 16, "BLOCK_N": 64}),
        ("attention", {"S": 1, "H": 256}, {"ROWS": 32, "BLOCK_N": 64}),
        ("attention", {"dtype": "float32", "d": 64, "v": 64}, {"BLOCK_M": 32, "BLOCK_N": 16}),
        ("attention", {"S": 1, "H": 256, "d": 128, "v": 128}, {"ROWS": 64, "BLOCK_N": 64}),
    ],
    ids=str,
)
def test_blocks_follow_from_the_form(launcher: str, change: dict[str, Any], chosen: dict[str, int]) -> None:
    form = {"B": 1, "S": 512, "L": 512, "H": 4, "J": 4, "d": 256, "v": 256, "dtype": "bfloat16", **change}
    first = forms.launches(launcher, {**form, "J": 4})[0]
    assert {name: first.args[name] for name in chosen} == chosen
