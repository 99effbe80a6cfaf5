"""What is wrong with a tensor: of every launcher's every tensor, one error that names it, or the right result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from .launchers import LAUNCHERS, tensors

LAYERS = ("fp8_linear", "fp8_norm_linear", "fp8_ffn", "fp8_experts", "masked_mlp")  # of launchers that stand here too
ARGUMENTS = [
    (name, argument)
    for name, launcher in LAUNCHERS.items()
    if not name.endswith("gradients")
    for argument, value in launcher.inputs(**launcher.sizes).items()
    if isinstance(value, Tensor)
]
COUNT = Counter(name for name, _ in ARGUMENTS)
Change = Callable[[Tensor], Any]


def raw(x: Tensor) -> Tensor:
    """What torch can copy: bytes in place of e4m3."""
    return x.view(torch.uint8) if x.dtype == torch.float8_e4m3fn else x


def turned(x: Tensor) -> Tensor:
    """The same elements, the last dimension not dense."""
    return torch.stack((raw(x), raw(x)), -1)[..., 0].view(x.dtype)


def apart(x: Tensor) -> Tensor:
    """The same elements, a gap of one between rows."""
    return wider(x)[..., :-1]


def shifted(x: Tensor) -> Tensor:
    """The same elements, the first one right after an aligned address."""
    return torch.cat((raw(x).flatten()[:1], raw(x).flatten()))[1:].view(x.shape).view(x.dtype)


def wider(x: Tensor) -> Tensor:
    """The last column once more."""
    return torch.cat((raw(x), raw(x)[..., -1:]), -1).view(x.dtype)


def deeper(x: Tensor) -> Tensor:
    """A dimension more."""
    return x[None]


def flatter(x: Tensor) -> Tensor:
    """A dimension less."""
    return x[0]


def given(name: str, argument: str, change: Change) -> dict[str, Any]:
    """A launcher's arguments with one of them changed."""
    torch.manual_seed(0)
    inputs = LAUNCHERS[name].inputs(**LAUNCHERS[name].sizes)
    return inputs | {argument: change(inputs[argument])}


def refused(name: str, argument: str, change: Change, want: Callable[[], Any]) -> str:
    """What the launcher says; "" where it gives what is wanted, within an eighth, a step of e4m3."""
    try:
        got = tensors(LAUNCHERS[name].call(**given(name, argument, change)))
    except ValueError as error:
        return str(error)
    for part, wanted in zip(got, tensors(want()), strict=True):
        torch.testing.assert_close(part, wanted, rtol=1 / 8, atol=0.05, equal_nan=True)
    return ""


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_what_no_launcher_takes_is_refused_by_name(name: str, argument: str) -> None:
    changes: tuple[Change, ...] = (lambda x: [1.0], lambda x: x.bool())
    for change in changes:
        with pytest.raises(ValueError, match=rf"^\w+: \w*{argument} is .*, expected"):
            LAUNCHERS[name].call(**given(name, argument, change))


@pytest.mark.parametrize(("name", "argument"), [case for case in ARGUMENTS if COUNT[case[0]] > 1])
def test_tensors_on_two_devices_are_refused(name: str, argument: str) -> None:
    with pytest.raises(ValueError, match=r"^\w+: tensors lie on (cpu|meta) and (cpu|meta); one device is needed$"):
        LAUNCHERS[name].call(**given(name, argument, lambda x: x.to("meta")))


@pytest.mark.parametrize(("name", "argument"), [case for case in ARGUMENTS if case[0] not in LAYERS])
def test_the_same_elements_elsewhere_are_refused_or_give_the_same(name: str, argument: str) -> None:
    usual = LAUNCHERS[name].call(**given(name, argument, torch.clone))
    for change in (turned, apart, shifted):
        said = refused(name, argument, change, lambda: usual)
        assert not said or any(f"{argument} {what}" in said for what in ("has strides", "has rows that"))


@pytest.mark.parametrize(("name", "argument"), [case for case in ARGUMENTS if case[0] not in LAYERS])
def test_another_shape_is_refused_or_right(name: str, argument: str) -> None:
    for change in (wider, deeper, flatter):
        said = refused(name, argument, change, lambda c=change: LAUNCHERS[name].want(**given(name, argument, c)))
        assert not said or "expected" in said or "has rows that" in said


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_queries_of_another_dtype_than_the_keys_in_fp8_tokens_are_refused(dtype: torch.dtype) -> None:
    """Triton multiplies no two dtypes, and a token's 64 last channels are bfloat16 in its page."""
    with pytest.raises(ValueError, match=r"paged_mla_fp8: q is float(16|32), expected bfloat16"):
        LAUNCHERS["paged_mla_fp8"].call(**given("paged_mla_fp8", "q", lambda q: q.to(dtype)))
