"""Several processes that train one model on shares of each batch, as torchrun starts them: gradients are averaged.

All processes hold the same weights, draw the same batches and end with the same bytes; each learns from its share.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import torch

from onnxc.ir.errors import BadOption

from .arithmetic import clipped, ternary


class Ranks:
    """This process among those that torchrun started, or alone. `sent`: bytes that it sent for gradients."""

    def __init__(self) -> None:
        self.count, self.rank, self.sent = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0")), 0
        if self.count > 1:
            import torch.distributed as dist

            if not dist.is_available():
                raise BadOption("this torch trains in one process only", remedy="start onnxc without torchrun")
            self._dist = dist
            if not dist.is_initialized():
                dist.init_process_group("gloo")

    def share(self, size: int) -> slice | None:
        """Which samples of a batch of `size` this process learns from; None: all, or too few to share."""
        return slice(self.rank, None, self.count) if self.count > 1 and size >= self.count else None

    def average(self, weights: Sequence[torch.Tensor], as_ternary: bool, seed: Sequence[int]) -> None:
        """Each gradient becomes its mean over all processes, or of what each has made ternary (TernGrad)."""
        for k, w in enumerate(weights):
            if w.grad is None:
                if self.count == 1:
                    continue
                w.grad = torch.zeros_like(w)  # another process may have come by it, as by another branch of an If
            if as_ternary:
                self._ternary(w.grad, hash((*seed, k, self.rank)) % 2**63)
            elif self.count > 1:
                self._mean(w.grad)

    def _mean(self, t: torch.Tensor) -> None:
        host = t.cpu()
        self._dist.all_reduce(host)
        self.sent += host.numel() * host.element_size()
        t.copy_(host / self.count)

    def _ternary(self, grad: torch.Tensor, seed: int) -> None:
        """One scale for all processes, the largest; four values of a gradient in a byte."""
        host = clipped(grad).cpu()
        scale = host.abs().max()
        if self.count > 1:
            self._dist.all_reduce(scale, self._dist.ReduceOp.MAX)
            self.sent += 4
        if not scale > 0:
            grad.zero_()
            return
        codes = ternary(host, scale, torch.Generator().manual_seed(seed))
        total = codes.float()
        if self.count > 1:
            mine = packed(codes)
            all_ = [torch.empty_like(mine) for _ in range(self.count)]
            self._dist.all_gather(all_, mine)
            self.sent += mine.numel()
            total = torch.stack([unpacked(one, codes.numel()) for one in all_]).sum(0).reshape(codes.shape)
        grad.copy_(total * (scale / self.count))

    def agree(self, statistics: Iterable[torch.Tensor]) -> None:
        """Floating statistics become their means over all processes."""
        if self.count > 1:
            for t in statistics:
                if t.is_floating_point():
                    host = t.cpu()
                    self._dist.all_reduce(host)
                    t.copy_(host / self.count)


def packed(codes: torch.Tensor) -> torch.Tensor:
    """-1, 0 and 1 as two bits each: uint8 [ceil(n / 4)]."""
    flat = torch.nn.functional.pad((codes.reshape(-1) + 1).to(torch.uint8), (0, -codes.numel() % 4)).reshape(-1, 4)
    return flat[:, 0] | flat[:, 1] << 2 | flat[:, 2] << 4 | flat[:, 3] << 6


def unpacked(bits: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` values that `packed` made bits of, as floats."""
    return torch.stack([bits >> s & 3 for s in (0, 2, 4, 6)], 1).reshape(-1)[:count].float() - 1
