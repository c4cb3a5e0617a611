"""Fresh torch exports of ten kinds of network, by both exporters, for `wild.py`: what people will bring next.

    python benchmarks/exports.py DIR [--only vit]
    python benchmarks/wild.py DIR

Each is small in width and true in structure: ViT, Swin, ConvNeXt, a YOLO head, U-Net, grouped-query attention with a cache,
LSTM, GRU, a DETR-like decoder and a speech encoder; `NAME.legacy.onnx` by TorchScript, `NAME.dynamo.onnx` by torch.export
(which needs onnxscript). Batch, image sizes and lengths are dynamic where the network takes that.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH, HEIGHT, WIDTH, LENGTH, PAST = "batch", "height", "width", "length", "past"


class Block(nn.Module):
    """A transformer block ahead of which norms stand."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.first(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))
        return x + self.mlp(self.second(x))


class Vit(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 48, 8, 8)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 48)), nn.Parameter(torch.randn(1, 17, 48))
        self.blocks, self.norm, self.head = (
            nn.Sequential(Block(48, 3), Block(48, 3)),
            nn.LayerNorm(48),
            nn.Linear(48, 10),
        )

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])


class Window(nn.Module):
    """Attention within windows of 4 by 4, shifted by 2 in every other block."""

    def __init__(self, width: int, heads: int, shift: int):
        super().__init__()
        self.block, self.shift = Block(width, heads), shift

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        x = self.block(x).view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x


class Swin(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.first = nn.Sequential(Window(32, 2, 0), Window(32, 2, 2))
        self.norm, self.merge = nn.LayerNorm(128), nn.Linear(128, 64, bias=False)
        self.second, self.head = nn.Sequential(Window(64, 4, 0), Window(64, 4, 2)), nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(self.patches(image).permute(0, 2, 3, 1))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.head(self.second(self.merge(self.norm(x))).mean((1, 2)))


class ConvNextBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.deep, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(0.5 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 24, 4, 4), ConvNextBlock(24), nn.Conv2d(24, 48, 2, 2), ConvNextBlock(48))
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.norm(self.body(image).mean((2, 3))))


def conv(i: int, o: int, k: int = 3, s: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o), nn.SiLU())


class Yolo(nn.Module):
    """Two scales, boxes as distributions over 8 bins, decoded on a grid."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(conv(12, 16), conv(16, 32, 3, 2), conv(32, 32))
        self.deep, self.up = conv(32, 64, 3, 2), conv(96, 32)
        self.heads = nn.ModuleList([nn.Conv2d(32, 4 * 8 + 5, 1), nn.Conv2d(64, 4 * 8 + 5, 1)])
        self.register_buffer("bins", torch.arange(8.0))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([image[..., ::2, ::2], image[..., 1::2, ::2], image[..., ::2, 1::2], image[..., 1::2, 1::2]], 1)
        x = self.down(x)
        deep = self.deep(x)
        x = self.up(torch.cat([F.interpolate(deep, scale_factor=2.0, mode="nearest"), x], 1))
        boxes, scores = [], []
        for feature, head, stride in zip((x, deep), self.heads, (4, 8), strict=True):
            y = head(feature)
            b, _, h, w = y.shape
            sides = (y[:, :32].reshape(b, 4, 8, h * w).softmax(2) * self.bins[None, None, :, None]).sum(2)
            ys, xs = torch.meshgrid(torch.arange(h, device=y.device), torch.arange(w, device=y.device), indexing="ij")
            centre = torch.stack([xs, ys]).reshape(1, 2, -1).to(y.dtype) + 0.5
            boxes.append(torch.cat([centre - sides[:, :2], centre + sides[:, 2:]], 1) * stride)
            scores.append(y[:, 32:].flatten(2).sigmoid())
        return torch.cat(boxes, 2), torch.cat(scores, 2)


class Unet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(1, 16), conv(16, 32), conv(32, 64)
        self.up, self.d = nn.ConvTranspose2d(64, 32, 2, 2), conv(64, 32)
        self.e, self.head = conv(48, 16), nn.Conv2d(16, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        a = self.a(image)
        b = self.b(F.max_pool2d(a, 2))
        c = self.d(torch.cat([self.up(self.c(F.max_pool2d(b, 2))), b], 1))
        return self.head(self.e(torch.cat([F.interpolate(c, size=a.shape[2:], mode="bilinear"), a], 1)))


class Cached(nn.Module):
    """One layer of a language model: 4 heads that share 2 keys, rotary places, the cache given and returned."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(64, 32)
        self.q, self.k, self.v, self.o = nn.Linear(32, 32), nn.Linear(32, 16), nn.Linear(32, 16), nn.Linear(32, 32)
        self.gate, self.up, self.down = nn.Linear(32, 64), nn.Linear(32, 64), nn.Linear(64, 32)
        self.register_buffer("turns", 1.0 / 10000 ** (torch.arange(0, 8, 2).float() / 8))

    def rotate(self, x: Tensor, places: Tensor) -> Tensor:
        angle = places[:, None, :, None].to(x.dtype) * self.turns
        one, two = x[..., :4], x[..., 4:]
        return torch.cat([one * angle.cos() - two * angle.sin(), two * angle.cos() + one * angle.sin()], -1)

    def forward(self, tokens: Tensor, places: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.words(tokens)
        b, n, _ = x.shape
        q = self.rotate(self.q(x).view(b, n, 4, 8).transpose(1, 2), places)
        k = torch.cat([keys, self.rotate(self.k(x).view(b, n, 2, 8).transpose(1, 2), places)], 2)
        v = torch.cat([values, self.v(x).view(b, n, 2, 8).transpose(1, 2)], 2)
        score = q @ k.repeat_interleave(2, 1).transpose(2, 3) / 8**0.5
        x = x + self.o((score.softmax(-1) @ v.repeat_interleave(2, 1)).transpose(1, 2).reshape(b, n, 32))
        x = x + self.down(F.silu(self.gate(x)) * self.up(x))
        return x @ self.words.weight.T, k, v


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]):
        super().__init__()
        self.layer = kind(20, 32, 2, batch_first=True, bidirectional=kind is nn.GRU)
        self.head = nn.Linear(64 if kind is nn.GRU else 32, 5)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.layer(frames)[0])


class Detr(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(conv(3, 16, 3, 2), conv(16, 32, 3, 2), nn.Conv2d(32, 32, 1))
        self.queries = nn.Parameter(torch.randn(6, 32))
        self.cross = nn.MultiheadAttention(32, 4, batch_first=True)
        self.block, self.kinds, self.boxes = Block(32, 4), nn.Linear(32, 5), nn.Linear(32, 4)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.body(image).flatten(2).transpose(1, 2)
        q = self.queries[None].expand(image.shape[0], -1, -1)
        x = self.block(q + self.cross(q, memory, memory, need_weights=False)[0])
        return self.kinds(x), self.boxes(x).sigmoid()


class Speech(nn.Module):
    """Waves to frames, a convolution module and attention with lengths as a mask."""

    def __init__(self):
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(1, 32, 10, 5), nn.GELU(), nn.Conv1d(32, 32, 3, 2, 1), nn.GELU())
        self.gate, self.deep = nn.Conv1d(32, 64, 1), nn.Conv1d(32, 32, 7, padding=3, groups=32)
        self.norm, self.block, self.head = nn.BatchNorm1d(32), Block(32, 4), nn.Linear(32, 12)

    def forward(self, wave: Tensor) -> Tensor:
        x = self.front(wave[:, None])
        x = x + F.silu(self.norm(self.deep(F.glu(self.gate(x), 1))))
        return self.head(self.block(x.transpose(1, 2))).log_softmax(-1)


def made() -> dict[str, tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]], list[str]]]:
    """name -> network, inputs, dynamic axes of inputs, names of outputs."""
    image, tall = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 64, 64)
    cache = {
        "tokens": torch.randint(0, 64, (2, 3)), "places": torch.arange(5, 8).expand(2, 3).contiguous(),
        "keys": torch.randn(2, 2, 5, 8), "values": torch.randn(2, 2, 5, 8),
    }  # fmt: skip
    one, free = {"image": {0: BATCH}}, {"image": {0: BATCH, 2: HEIGHT, 3: WIDTH}}
    frames = {"frames": {0: BATCH, 1: LENGTH}}
    return {
        "vit": (Vit(), {"image": image}, one, ["logits"]),
        "swin": (Swin(), {"image": image}, one, ["logits"]),
        "convnext": (ConvNext(), {"image": tall}, free, ["logits"]),
        "yolo": (Yolo(), {"image": tall}, one, ["boxes", "scores"]),
        "unet": (Unet(), {"image": torch.randn(2, 1, 32, 32)}, one, ["map"]),
        "gqa": (Cached(), cache, {"tokens": {0: BATCH, 1: LENGTH}, "places": {0: BATCH, 1: LENGTH},
                                  "keys": {0: BATCH, 2: PAST}, "values": {0: BATCH, 2: PAST}}, ["logits", "k", "v"]),
        "lstm": (Recurrent(nn.LSTM), {"frames": torch.randn(2, 9, 20)}, frames, ["y"]),
        "gru": (Recurrent(nn.GRU), {"frames": torch.randn(2, 9, 20)}, frames, ["y"]),
        "detr": (Detr(), {"image": image}, one, ["kinds", "boxes"]),
        "speech": (Speech(), {"wave": torch.randn(2, 1600)}, {"wave": {0: BATCH, 1: LENGTH}}, ["logits"]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    for name, (network, inputs, axes, outputs) in made().items():
        if given.only not in name:
            continue
        network.eval()
        for dynamo in (False, True):
            path = given.folder / f"{name}.{'dynamo' if dynamo else 'legacy'}.onnx"
            shapes = {"dynamic_axes": axes}
            if dynamo:
                dims = {d: torch.export.Dim(d) for found in axes.values() for d in found.values()}
                shapes = {"dynamic_shapes": tuple({k: dims[d] for k, d in axes.get(n, {}).items()} for n in inputs)}
            try:
                torch.onnx.export(
                    network, tuple(inputs.values()), str(path), input_names=list(inputs), output_names=outputs,
                    dynamo=dynamo, opset_version=18 if dynamo else 17, external_data=False, **shapes,
                )  # fmt: skip
                print(path, path.stat().st_size)
            except Exception as e:  # an exporter's own limit is its own
                print(f"{path.name}: not exported: {str(e).splitlines()[0][:120]}", file=sys.stderr)


if __name__ == "__main__":
    main()
