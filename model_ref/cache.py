"""The cache of a decoder: for every layer one tensor that grows with the tokens seen, rows of different lengths.

MLA keeps per token one latent and one decoupled key, (C+R); the dense baselines keep keys and values, (2J, d).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from v3bench.model_ref.errors import BadInput


class Cache:
    """Entries of ``batch`` rows in ``layers`` tensors (batch, capacity, *entry).

    Row b holds lengths[b] tokens. Lengths live on the host, so no step waits for the device. When a step needs
    more than ``capacity``, the tensors double, unless ``grows`` is False: then BadInput is raised.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        capacity: int,
        entry: Sequence[int],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        grows: bool = True,
    ) -> None:
        self._lengths: Tensor | None = None
        shape = (batch, capacity, *entry)
        # Zeros: a row's unused tail is read under a mask, where a stray NaN would still spread.
        with torch.inference_mode(False):  # else no other mode could write to them
            self.layers = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        self.batch, self.grows = batch, grows
        self.set_lengths([0] * batch)

    @property
    def capacity(self) -> int:
        """Tokens per row that fit without growing."""
        return self.layers[0].shape[1] if self.layers else 0

    @property
    def nbytes(self) -> int:
        """Bytes of the layers' tensors."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def lengths(self) -> Tensor:
        """Tokens held by each row, int64 (B)."""
        if self._lengths is None:
            self._lengths = torch.tensor(self.host_lengths, device=self.layers[0].device if self.layers else None)
        return self._lengths

    def set_lengths(self, lengths: Sequence[int]) -> None:
        """Say how many tokens each row holds."""
        self.host_lengths = list(lengths)
        self.longest = max(self.host_lengths, default=0)
        self.uniform = all(length == self.longest for length in self.host_lengths)
        self._lengths = None

    def truncate(self, lengths: Tensor | Sequence[int] | int) -> None:
        """Forget what lies beyond ``lengths`` (B), or beyond one length in every row. Raises BadInput."""
        if isinstance(lengths, Tensor):
            lengths = lengths.tolist()
        new = [lengths] * self.batch if isinstance(lengths, int) else list(lengths)
        if len(new) != self.batch or any(not 0 <= n <= old for n, old in zip(new, self.host_lengths, strict=True)):
            raise BadInput(f"truncate to {new}", where="cache", right=f"lengths of at most {self.host_lengths}")
        self.set_lengths(new)

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows only, in this order."""
        with torch.inference_mode(False), torch.no_grad():
            for i, old in enumerate(self.layers):
                self.layers[i] = old[list(rows)]
        self.batch = len(rows)
        self.set_lengths([self.host_lengths[row] for row in rows])

    def reserve(self, count: int) -> None:
        """Make room for ``count`` more tokens in every row."""
        need = self.longest + count
        if need <= self.capacity:
            return
        if not self.grows:
            raise BadInput(f"{need} tokens exceed the capacity {self.capacity}", where="cache")
        shape = (self.batch, max(need, 2 * self.capacity), *self.layers[0].shape[2:])
        with torch.inference_mode(False), torch.no_grad():
            for i, old in enumerate(self.layers):
                self.layers[i] = old.new_zeros(shape)
                self.layers[i][:, : old.shape[1]] = old

    def append(self, layer: int, *parts: Tensor) -> Tensor:
        """Write the next tokens of one layer; the view (B, L, *entry) of all tokens up to them.

        ``parts`` (B, n, ...) lie one after another along dim 2 of the entry. All rows advance together, once all
        layers have been written: see ``advance``.
        """
        tensor, (B, n) = self.layers[layer], parts[0].shape[:2]
        start = 0
        if not self.uniform:
            device = tensor.device
            where = torch.arange(B, device=device)[:, None], self.lengths[:, None] + torch.arange(n, device=device)
        for part in parts:
            end = start + part.shape[2]
            if self.uniform:
                tensor[:, self.longest : self.longest + n, start:end] = part
            else:
                tensor[(*where, slice(start, end))] = part
            start = end
        return tensor[:, : self.longest + n]

    def advance(self, count: int) -> None:
        """Count ``count`` appended tokens in every row."""
        there = self._lengths
        self.set_lengths([length + count for length in self.host_lengths])
        if there is not None:
            self._lengths = there + count  # on the device already: no copy from the host at every step
