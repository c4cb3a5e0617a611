"""TfIdfVectorizer: how often each n-gram of a pool stands in a sequence of numbers."""

from __future__ import annotations

import numpy as np

from onnxc.codegen import tvm_api as tvm
from onnxc.codegen.operators.loops import loops, when
from onnxc.codegen.operators.node import Node, Refused, shape_of
from onnxc.codegen.operators.shape import wanted_shape
from onnxc.codegen.operators.table import row


@row("TfIdfVectorizer")
def tf_idf(n: Node, x):
    """Counts of n-grams whose elements stand 1 to max_skip_count + 1 apart (TF), whether there are any (IDF), weighted or not."""
    mode = n.attribute("mode")
    if mode not in ("TF", "IDF", "TFIDF"):
        raise Refused(f"attribute mode = {mode} is not known, only TF, IDF, TFIDF")
    if n.attribute("pool_strings"):
        raise Refused("n-grams of text are not known", "use pool_int64s")
    least, most, skips = (int(n.attribute(name)) for name in ("min_gram_length", "max_gram_length", "max_skip_count"))
    places = [int(i) for i in n.attribute("ngram_indexes")]
    weights = n.attribute("weights") or [1.0] * len(places)
    grams = _grams(n.attribute("pool_int64s"), n.attribute("ngram_counts"))
    kept = [i for i, gram in enumerate(grams) if least <= len(gram) <= most]
    shape, out = shape_of(x), wanted_shape(n)
    rows, length = (shape[0], shape[1]) if len(shape) == 2 else (1, shape[0])
    flat, count, x_ = n.reshape(x, (rows, length)), out[-1], tvm.tirx
    if not kept:
        return n.const(np.zeros(out), "float32")
    longest = max(len(grams[i]) for i in kept)
    pool = np.zeros((len(kept), longest), np.int64)
    for k, i in enumerate(kept):
        pool[k, : len(grams[i])] = grams[i]
    sizes, targets = (np.asarray(of, np.int32) for of in ([len(grams[i]) for i in kept], [places[i] for i in kept]))
    tables = (pool, sizes, targets, np.asarray([weights[i] for i in kept], np.float32))

    def body(T, t, gram, size, place, factor, made):
        same, found = T.alloc_buffer((1,), "int32"), T.alloc_buffer((1,), "float32")
        with T.grid(rows, count) as (r, i):
            T.buffer_store(made, x_.const(0, "float32"), (r, i))
        with T.grid(rows, len(kept)) as (r, g):
            T.buffer_store(found, x_.const(0, "float32"), (0,))
            with T.grid(skips + 1, length) as (skip, start):
                fits = start + (size[g] - 1) * (skip + 1) < length
                with when(T, x_.all(fits, x_.any(skip == 0, size[g] > 1))):  # a single element skips nothing
                    T.buffer_store(same, x_.const(1, "int32"), (0,))
                    with T.serial(0, size[g]) as k:
                        equal = x_.Cast("int64", t[r, start + k * (skip + 1)]) == gram[g, k]
                        T.buffer_store(same, x_.Select(equal, same[0], x_.const(0, "int32")), (0,))
                    T.buffer_store(found, found[0] + x_.Cast("float32", same[0]), (0,))
            many = found[0] if mode != "IDF" else x_.min(found[0], x_.const(1, "float32"))
            T.buffer_store(made, many if mode == "TF" else many * factor[g], (r, place[g]))

    stored = [n.weight(array) for array in tables]
    return n.reshape(loops(n, [flat, *stored], [((rows, count), "float32")], body), out)


def _grams(pool: list[int], starts: list[int]) -> list[tuple[int, ...]]:
    """The n-grams: those of one element stand from starts[0] on, those of two from starts[1], and so on."""
    made = []
    for size, (start, end) in enumerate(zip(starts, [*starts[1:], len(pool)]), 1):
        made += [tuple(pool[i : i + size]) for i in range(start, end, size)]
    return made
