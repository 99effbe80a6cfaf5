"""A child process with a Hopper GPU that is not there: launchers run whole, nothing is compiled or launched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

BEFORE = """
import json
import torch
from v3bench.kernels import standin

def moved(module):
    '''A module on the meta device, its tensors on the GPU.'''
    for one in module.modules():
        for name, w in one._parameters.items():
            if w is not None:
                one._parameters[name] = w.detach().as_subclass(standin.There)
        for name, buffer in one._buffers.items():
            if buffer is not None:
                one._buffers[name] = buffer.as_subclass(standin.There)
    return module

"""


def there(code: str) -> Any:
    """What the code prints as JSON; a tensor on another device, or a wait for the GPU, is an error."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", BEFORE + code], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
