"""An operation that a counting mode can see: the project's own functions answer like torch's.

A dispatch mode sees aten operations only; a Triton kernel, or a choice such as "causal", is invisible to
it. Functions marked with ``operation`` hand themselves to an active ``TorchFunctionMode`` first, exactly
as ``torch.nn.functional`` does, so a mode can count them by a formula on their arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch.overrides import handle_torch_function, has_torch_function

F = TypeVar("F", bound=Callable[..., Any])


def operation(function: F) -> F:
    """Make a function on tensors visible to an active TorchFunctionMode; nothing else changes."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        tensors = tuple(a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor))
        if has_torch_function(tensors):
            return handle_torch_function(call, tensors, *args, **kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]
