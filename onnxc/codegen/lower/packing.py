"""Which kernels quantise and pack their own result, so that few-bit layers follow each other without floats between.

y = kernel(...); q = pack(y); z = kernel(q)   ->   q = kernel(...); z = kernel(q), or y, q where y has other readers
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from onnxc.codegen.kernels import narrow, planes
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.spec import BINARY, KernelSpec, Refusal, Schedule
from onnxc.codegen.kernels.sums import Coded
from onnxc.codegen.kernels.thresholds import thresholds
from onnxc.codegen.match.fewbit import FewBit
from onnxc.codegen.match.products import Match, Matches
from onnxc.codegen.memory import spill
from onnxc.codegen.prepare.stored import Lazy

PART = 1 << 17  # weights that are packed at once where they are unpacked for it
LARGE = 1 << 18  # and others


@dataclass(frozen=True)
class Choice:
    """The form of a kernel that is used, who makes it, and who declined. `packing` is the key of what it packs itself."""

    form: Match | FewBit
    family: Family | None
    schedule: Schedule | None
    refusals: list[Refusal] = field(default_factory=list)
    packing: tuple | None = None


def packed(
    family: Family,
    spec: KernelSpec,
    schedule: Schedule,
    weights: np.ndarray | Lazy | Coded,
    scale: np.ndarray | None = None,
) -> np.ndarray:
    """`family.pack` of weights (oc, c/groups, kh, kw) times `scale` (oc,).

    Large ones are packed some channels at a time, as blocks of channels do not depend on each other, and spilled to a file;
    `Lazy` ones are unpacked no further than that.
    """

    if isinstance(weights, Coded) or spec.weight.kind in narrow.KINDS:  # small as they are
        return family.pack(spec, schedule, weights)
    whole = weights

    def pack(start: int, end: int) -> np.ndarray:
        part = np.asarray(whole[start:end])
        if scale is not None:
            each = np.broadcast_to(scale.reshape(-1), (spec.oc,))[start:end]
            part = part * each.reshape(-1, 1, 1, 1).astype(part.dtype)
        return family.pack(spec if end - start == spec.oc else replace(spec, oc=end - start), schedule, part)

    step = max(1, (PART if isinstance(weights, Lazy) else LARGE) // (spec.kh * spec.kw * spec.c * schedule.block))
    spans = list(_spans(spec.oc, step * schedule.block, schedule.block))
    if spec.groups > 1 or len(spans) == 1:
        return pack(0, spec.oc)
    first, blocks = pack(*spans[0]), [-(-(end - start) // schedule.block) for start, end in spans]
    if first.shape[:2] != (1, blocks[0]):  # a layout of another kind
        return pack(0, spec.oc)
    parts = chain([first], (pack(*span) for span in spans[1:]))
    return spill.gathered(parts, (1, sum(blocks), *first.shape[2:]), first.dtype)


def _spans(channels: int, step: int, block: int) -> Iterator[tuple[int, int]]:
    """Runs of `step` channels; the last one is longer where less than a block would be left."""
    start = 0
    while start < channels:
        end = channels if channels - start < step + block else start + step
        yield start, end
        start = end


def memory(array: np.ndarray | Lazy) -> tuple:
    """What tells weights apart while they are held: two views of the same elements in the same order are one."""
    if isinstance(array, np.ndarray):
        return array.ctypes.data, array.shape, array.strides, array.dtype.str
    return (id(array),)


def key(form: FewBit) -> tuple:
    """What tells packed activations apart: how they are packed, and of what."""
    scale = form.quantised.scale
    return (form.packing(), form.quantised.source, None if scale is None else scale.tobytes())


def wanted(matches: Matches, chosen: dict) -> dict:
    """Variable -> the few-bit kernels that read it packed."""
    found: dict = {}
    for end in matches.kernels:
        choice = chosen[end]
        if isinstance(choice.form, FewBit):
            found.setdefault(choice.form.quantised.source, []).append((matches.kernels[end], choice.form))
    return found


def fused(var, matches: Matches, chosen: dict, wants: dict) -> Iterator[tuple[Match | FewBit, tuple]]:
    """Forms of the kernel that ends in `var` which pack its result, the best first, with the key of what they pack."""
    choice, readers = chosen[var], wants.get(var, ())
    if not readers or choice.family is None or not choice.family.packs:
        return
    reader, form = max(
        readers, key=lambda reader: reader[1].spec.macs
    )  # who needs all the pixels, before one that skips some
    spec, pack = choice.form.spec, form.packing()
    same = reader.spatial == matches.kernels[var].spatial
    if not same or (pack.n, pack.h, pack.w, pack.c) != (spec.n, spec.oh, spec.ow, spec.oc):
        return
    floats = any(key(other) != key(form) for _, other in readers) or _read_as_floats(var, var, matches, chosen)
    scale = () if form.quantised.scale is None else (form.quantised.scale,)
    made = replace(spec, packed=pack)
    if not floats:
        made = replace(made, output=pack.encoding)
        compared = _compared(choice.form, made) if pack.encoding == BINARY else None
        if compared is not None:
            yield compared, key(form)
    yield replace(choice.form, spec=made, operands=[*choice.form.operands, *scale]), key(form)


def _compared(form: Match | FewBit, spec) -> FewBit | None:
    """A few-bit kernel that compares its counts with thresholds instead of computing its epilogue."""
    if not isinstance(form, FewBit) or form.quantised.planes is not None:  # thresholds are of integers
        return None
    if not all(isinstance(operand, np.ndarray) for operand in form.operands):
        return None
    answer = thresholds(spec, planes.table(spec, form.weight), list(form.operands))
    if isinstance(answer, str):
        return None
    table, flip = answer
    flips = bool(flip.any())
    tables = (table, flip) if flips else (table,)
    return replace(form, spec=replace(spec, epilogue=(("threshold", flips),)), operands=(), tables=tables)


def _read_as_floats(var, source, matches: Matches, chosen: dict) -> bool:
    """Whether anything reads `var` but few-bit kernels that pack `source`, from which quantisers lead to `var`."""
    if var in matches.outputs:
        return True
    for binding in matches.readers.get(var, ()):
        if binding.var in matches.starts:
            form = chosen[matches.starts[binding.var]].form
            if not isinstance(form, FewBit) or not form.quantised.source.same_as(source):
                return True
        elif binding.var not in matches.quantising or _read_as_floats(binding.var, source, matches, chosen):
            return True
    return False
