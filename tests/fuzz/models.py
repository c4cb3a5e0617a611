"""Run mutated models through `clean,fuse,prune,quant` and `inspect` in one process: each is done or gives one clear error.

Usage: models.py [CASES [SEED]] [--corpus FOLDER] [--start CASE] [--compile]; 0 CASES: until it is stopped. --compile: `compile`
instead of passes, each library run beside ONNX Runtime. Half of the cases are tested on
data, half by shapes only. No case may take more than SECONDS of processor time or raise the memory of the process above
MEMORY; an exception that is no OnnxcError, or an error for which a pass of ours is at fault, is a finding. Models that something
new was said of join the seeds, in FOLDER for later runs too, where the models of findings go as well. Where a library that
is not ours kills the process, the next one goes on behind that case.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
from structured import SMALL, mutated  # noqa: E402

import onnxc  # noqa: E402
from onnxc.ir.errors import OnnxcError, Unsupported  # noqa: E402
from onnxc.measure.inspect import inspect  # noqa: E402
from onnxc.pipeline import sound  # noqa: E402
from tests import strategies  # noqa: E402

PASSES = "clean,fuse,prune,quant"
SECONDS = 30
MEMORY = 1 << 30
ROOM = 3 << 30
"""Bytes of address space above that of a process at its beginning: what asks for more gets an error."""
CHUNK = 2500
"""Cases of one process: reading the seeds takes as long as a hundred of them."""
TRIES = 12
"""How often a model is drawn for the compiler, which sees few that are not sound."""
LAST = "last"
"""The file of the corpus with the model that was tried last."""
TEXTS = (
    'a (float[N,4] x) => (float[N,3] y) <float[4,3] w = {1,2,3,4,5,6,7,8,9,1,2,3}> { t = MatMul(x, w) y = Relu(t) }',
    'b (float[1,2,8,8] x, bool c) => (float[1,2,8,8] y) { y = If (c) <then_branch = t () => (float[1,2,8,8] z) '
    '{ z = Relu(x) }, else_branch = e () => (float[1,2,8,8] z) { z = Neg(x) }> }',
    'c (float[2,3] x) => (float[2,3] y) <int64 n = {3}, bool go = {1}> { y = Loop (n, go, x) <body = b (int64 i, bool c, '
    'float[2,3] s) => (bool d, float[2,3] t) { d = Identity(c) t = Add(s, s) }> }',
    'd (float[1,4,6,6] x) => (float[1,4,6,6] y) <float s = {0.1}, int8 z = {0}> { q = QuantizeLinear(x, s, z) '
    'd = DequantizeLinear(q, s, z) y = Sigmoid(d) }',
    'e (float[N,8] x) => (float[N,2,4] y) <int64[3] s = {0,2,4}> { r = Reshape(x, s) t = Transpose<perm=[0,1,2]>(r) '
    'y = Softmax<axis=-1>(t) }',
)  # fmt: skip


def seeds() -> list[onnx.ModelProto]:
    """Networks of the property tests, ONNX's own example of each operator, and models with bodies and quantisers."""
    from onnx.backend.test.case.node import collect_testcases

    made = [
        strategies.build(seed, 1 + seed % 4, strategies.OPSETS[seed % len(strategies.OPSETS)]) for seed in range(60)
    ]
    made += [onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}') for text in TEXTS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        examples = [c.model for c in collect_testcases(None) if c.model is not None]
    kinds = {"+".join(n.op_type for n in m.graph.node) or str(i): m for i, m in enumerate(examples)}
    return made + [m for m in kinds.values() if m.ByteSize() < SMALL]


class Finding(AssertionError):
    """What a mutated model must not do."""


def transformed(data: bytes, check: str) -> str:
    """What the passes did, in words."""
    inspect(data)
    rows = onnxc.run_passes(data, PASSES, check=check).report.rows
    return "done: " + "; ".join(f"{r.name} {len(r.edits) > 0} {len(r.refusals)}" for r in rows)


def compiled(data: bytes, check: str) -> str:
    """What was compiled, and gave the outputs of ONNX Runtime, in words."""
    del check  # always on data
    from onnxc.codegen import compile_model
    from onnxc.compiling import optimiser
    from onnxc.measure.shapes import settled

    model = onnxc.load(data)
    sound(model)
    with tempfile.TemporaryDirectory() as folder:
        done = compile_model(model, folder, name="net", shapes=settled(model, [{}]), optimise=optimiser())
    return f"done: {len(done.kernels)} kernels, {len(done.fallbacks)} others"


def tried(data: bytes, check: str, what: Callable[[bytes, str], str] = transformed) -> str:
    """What became of the model, in words that leave its names and numbers out. Raises Finding."""
    try:
        said = what(data, check)
    except OnnxcError as e:
        text = str(e)
        if not text.isprintable() or re.search(r"\.(cc|h|py):\d+|/onnxruntime", text):
            raise Finding(f"unclear: {text!r}") from e
        if e.exit_status == 1 and not isinstance(e, Unsupported):
            raise Finding(f"our fault: {text}") from e
        said = f"{e.pass_name}: {type(e).__name__}: {e.what}"
    except Exception as e:
        raise Finding(f"internal error: {type(e).__name__}: {e}") from e
    return re.sub(r"['\"\[(].*|\d+|\b\w*[_/.]\w*\b", "", said)[:160]


def cases(seed: int, start: int, corpus: list[onnx.ModelProto], tries: int = 1) -> Iterator[tuple[int, bytes, str]]:
    """Numbers, mutated models and checks, from case `start` on; `corpus` may grow meanwhile. tries: how often a model is drawn
    again that is not sound."""
    number = start
    while True:
        rng = np.random.default_rng((seed, number))
        for _ in range(tries):
            data = mutated(rng, corpus[int(rng.integers(len(corpus)))], corpus)
            if tries == 1 or is_sound(data):
                break
        yield number, data, ("data", "shapes")[number % 2]
        number += 1


def is_sound(data: bytes) -> bool:
    """Whether a model gets as far as compilation; what fails in another way is worth a try as well."""
    try:
        sound(onnxc.load(data))
    except OnnxcError:
        return False
    except Exception:  # noqa: BLE001
        return True
    return True


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def run(
    count: int,
    seed: int = 0,
    start: int = 0,
    folder: Path | None = None,
    seconds: float = 1e9,
    tell=None,
    what=transformed,
) -> Counter:
    """`count` cases in this process: what was said, and how often. Raises Finding, unless `tell` is there to be told."""
    known = [p.read_bytes() for p in sorted(folder.glob("*.onnx"))] if folder else []
    corpus = seeds() + [m for data in known if (m := parsed(data)) is not None]
    said: Counter = Counter()
    highest, end = peak(), time.monotonic() + seconds
    for number, data, check in cases(seed, start, corpus, TRIES if what is compiled else 1):
        if number >= start + count or time.monotonic() > end:
            return said
        if tell:
            tell({"case": number})
            if folder:  # nobody else can, where the process ends
                (folder / LAST).write_bytes(data)
            used = int(time.process_time()) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (used + SECONDS, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        began = time.process_time()
        try:
            text = tried(data, check, what)
            took = time.process_time() - began
            if took > SECONDS:
                raise Finding(f"takes {took:.0f} s")
            if peak() > max(highest, MEMORY):
                raise Finding(f"takes {peak() >> 20} MiB")
        except Finding as e:
            if not tell:
                raise Finding(f"case {number} of seed {seed}: {e}") from e
            text = f"FOUND {e}"
            tell({"found": str(e), "case": number, "model": keep(folder, data, "found-")})
        highest = max(highest, peak())
        if text not in said and len(data) < SMALL and (model := parsed(data)) is not None:
            corpus.append(model)
            keep(folder, data, "")
        said[text] += 1
    raise AssertionError


def parsed(data: bytes) -> onnx.ModelProto | None:
    """The model in `data`, if it is one that can be mutated further."""
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception:  # noqa: BLE001
        return None
    return model if model.HasField("graph") else None


def keep(folder: Path | None, data: bytes, prefix: str) -> str:
    if folder is None:
        return ""
    path = folder / f"{prefix}{hashlib.sha256(data).hexdigest()[:16]}.onnx"
    if prefix:
        path = path.with_suffix(".bad")
    path.write_bytes(data)
    return path.name


def work(seed: int, start: int, count: int, folder: Path | None, what=transformed) -> None:
    """The process that does the work: a line of JSON for each thing that happens."""

    def tell(what: dict) -> None:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()

    with Path("/proc/self/statm").open() as statm:
        room = int(statm.read().split()[0]) * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    faulthandler.enable()
    faulthandler.register(signal.SIGXCPU, chain=True)  # says where, even in C, and then ends the process
    said = run(count, seed, start, folder, tell=tell, what=what)
    tell({"said": dict(said), "peak": peak() >> 20, "end": True})


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", type=int, nargs="?", default=10_000)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--start", type=int, default=0, help="the case to begin with")
    parser.add_argument("--compile", action="store_true", help="compile the models instead")
    parser.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.corpus:
        args.corpus.mkdir(parents=True, exist_ok=True)
    if args.work:
        work(args.seed, *args.work, args.corpus, compiled if args.compile else transformed)
        return
    kinds: Counter = Counter()
    findings, highest, at = 0, 0, args.start
    end = args.start + args.cases
    while args.cases == 0 or at < end:
        count = min(CHUNK, end - at) if args.cases else CHUNK
        command = [sys.executable, __file__, "0", str(args.seed), "--work", str(at), str(count)]
        command += ["--corpus", str(args.corpus)] if args.corpus else []
        command += ["--compile"] if args.compile else []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            last, ended = {}, False
            for line in child.stdout:
                last = json.loads(line)
                if "found" in last:
                    findings += 1
                    say(f"case {last['case']}: {last['found']} {last['model']}")
                ended = last.get("end", False)
                if ended:
                    kinds.update(last["said"])
                    highest = max(highest, last["peak"])
                elif "found" not in last:
                    at = last["case"]
            trace = child.stderr.read()
        if ended:
            at = at + 1
        else:
            findings += 1
            model = keep(args.corpus, (args.corpus / LAST).read_bytes(), "found-") if args.corpus else ""
            say(f"case {at}: the process ends with {child.returncode}: {model} {trace[:500]} ... {trace[-1500:]}")
            at += 1
        say(f"{at} cases, {findings} findings, {len(kinds)} kinds of ends, at most {highest} MiB")
    for text, times in kinds.most_common(40):
        say(f"{times:6d}  {text}")
    sys.exit(findings > 0)


if __name__ == "__main__":
    main()
