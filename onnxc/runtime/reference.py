"""ONNX Runtime as the reference: run a model, look at its intermediate tensors.

onnxruntime is imported at the first session, and nowhere but in `onnxc.runtime`. Its errors become one-line
`VerificationError`s; its log is silent.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxc.ir import temporary
from onnxc.ir.errors import NotTaken, Unsupported, VerificationError
from onnxc.ir.lean import NOWHERE, Lean
from onnxc.runtime.containers import sequences, taken
from onnxc.runtime.exchange import Exchange
from onnxc.runtime.rounds import refuse_endless
from onnxc.runtime.seeded import draws, seeded
from onnxc.runtime.specs import check_feeds, input_specs
from onnxc.runtime.trees import refuse_deep
from onnxc.runtime.watch import run as watched
from onnxc.runtime.wording import ort_errors, plain

if TYPE_CHECKING:
    import onnx
    import onnxruntime as ort

# Protobuf cannot serialise 2 GiB; what is larger goes to ORT as a file with external data.
INLINE_BYTES = 2**31 - 2**22
# Tensors at least this large move to the external file.
EXTERNAL_BYTES = 1024


class Session:
    """A model in ONNX Runtime on the CPU.

    `model`: a ModelProto, a `Lean` (whose weights are not copied), bytes, or a path (which finds external data beside it).
    `outputs`: extra tensors to return, which become graph outputs on a copy. `optimise=False` runs the graph node by node
    as it stands, and gives back the memory of activations after each run. `redraw`: random numbers that a model draws are the same
    in each run, for which it is started anew; where time is measured it is not. `profile`: a folder for its own times of nodes
    (`runtime.ort_profile`).

    Raises `VerificationError` if ORT does not take the model.
    """

    def __init__(
        self,
        model: onnx.ModelProto | Lean | bytes | str | Path,
        *,
        threads: int = 1,
        optimise: bool = True,
        outputs: Sequence[str] = (),
        redraw: bool = True,
        profile: Path | None = None,
    ):
        beside: Mapping[str, np.ndarray] = {}
        redraw = redraw and draws(model.proto if isinstance(model, Lean) else _as_proto(model, load_external=False))
        if redraw:
            model = seeded(model.whole() if isinstance(model, Lean) else _as_proto(model, load_external=True))
        if isinstance(model, Lean):
            # what the optimiser rewrites has to be inside
            if optimise or saturates(model.proto):
                model = model.whole()
            else:
                model, beside = model.proto, model.arrays
        proto = _as_proto(model, load_external=bool(outputs))
        self.inputs = input_specs(proto, values=False)
        self.outputs = tuple(value.name for value in proto.graph.output)
        self._lists = sequences(proto.graph)
        self._optional = {v.name for v in proto.graph.output if v.type.WhichOneof("value") == "optional_type"}
        from onnxc.ir.nodes import all_nodes

        loops = False
        for node in all_nodes(proto):
            refuse_deep(node)
            refuse_endless(node, proto)
            loops |= node.op_type in ("Loop", "Scan")  # how often, nobody may know before it ends
        self._weights = sum(prod(t.dims) for t in proto.graph.initializer) if loops else None
        extra, self._fixed = _split_requests(proto, outputs, beside)
        self._given = {name for name in outputs if name in self.inputs}
        self._computed = {*self.outputs, *extra}
        self._exchange = Exchange(proto)
        if self._exchange:
            proto = _as_proto(model, load_external=True) if isinstance(model, str | Path) else proto
            proto = _shallow(proto, proto.graph.initializer)
            self._exchange.wrap(proto.graph, proto.opset_import)

        with temporary.on_demand(Path(tempfile.gettempdir()), "session") as place:
            try:
                as_it_is = isinstance(model, str | Path) and not extra and not self._exchange
                source = str(model) if as_it_is else _loadable(proto, extra, place, bool(beside))
                self._beside = _beside(beside, place)  # has to live as long as the session
                start = partial(
                    _started, source, threads, optimise, saturates(proto), exact=not _overlooked(proto), beside=self._beside,
                    profile=profile,
                )  # fmt: skip
                self._session = start()
                self._restart = start if redraw and isinstance(source, bytes) else None
            except ort_errors() as error:
                raise _refused(NotTaken, "ONNX Runtime does not take the model", error) from error

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Outputs by name: the graph's own, or those asked for (each an output, or named when the session was made).

        `feeds` may hold more than the inputs (labels, say). Raises `BadData` if an input is missing or does not fit,
        `VerificationError` if the run fails.
        """
        feeds = check_feeds(feeds, self.inputs)
        names = list(self.outputs if outputs is None else outputs)
        computed = [name for name in names if name not in self._fixed and name not in self._given]
        unknown = sorted(set(computed) - self._computed)
        if unknown:
            raise VerificationError("no such output", tensor=unknown[0], expected=", ".join(sorted(self._computed)))
        try:
            if self._restart is not None:
                self._session = self._restart()
            given = self._exchange.given(feeds) | {name: list(feeds[name]) for name in self._lists}
            arrays = self._outputs(self._exchange.names(computed), given) if computed else []
            values = dict(zip(computed, self._exchange.taken(computed, arrays)))
        except ort_errors() as error:
            raise _refused(VerificationError, "the model fails in ONNX Runtime", error) from error
        except (RuntimeError, UnicodeDecodeError) as error:
            # tensors inside of types that ONNX Runtime and NumPy do not share, strings that are no UTF-8
            text = str(error).strip().splitlines()[0]
            raise Unsupported(
                f"ONNX Runtime cannot exchange this type with NumPy: {text}", remedy="use --check shapes"
            ) from error
        for name, value in values.items():
            if value is None and name not in self._optional:  # of an output that is declared without a type
                raise Unsupported(
                    "this output is not compared", tensor=name, expected="a tensor", found="nothing",
                    remedy="use --check shapes",
                )  # fmt: skip
        known = {**feeds, **self._fixed, **{name: taken(value) for name, value in values.items()}}
        return {name: known[name] for name in names}

    def end_profiling(self) -> Path:
        """The file with the times of all runs, of a session with a `profile`."""
        return Path(self._session.end_profiling())

    def _outputs(self, names: list[str], feeds: Mapping[str, np.ndarray | list]) -> list[np.ndarray]:
        return (
            self._session.run(names, feeds)
            if self._weights is None
            else watched(self._session, names, feeds, self._weights)
        )


def saturates(proto: onnx.ModelProto) -> bool:
    """Whether sums of a model may saturate even if ONNX Runtime does not optimise it: on x86 without VNNI its products of
    uint8 and int8 keep sums of two in 16 bits."""
    products = ("QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger", "QGemm", "DynamicQuantizeMatMul")
    return any(node.op_type in products for node in proto.graph.node)


def _overlooked(proto: onnx.ModelProto) -> bool:
    """Whether ONNX Runtime's exchange of int8 for uint8 would break the model: it overlooks scales by block, and gives
    scales by row without zero points one zero point, which its own kernel refuses."""
    several = {t.name for t in proto.graph.initializer if len(t.dims)}
    return any(a.name == "block_size" for node in proto.graph.node for a in node.attribute) or any(
        node.op_type == "DequantizeLinear" and len(node.input) == 2 and node.input[1] in several
        for node in proto.graph.node
    )


def _started(
    source: str | bytes,
    threads: int,
    optimise: bool,
    saturating: bool,
    exact: bool,
    beside: Mapping[str, ort.OrtValue],
    profile: Path | None = None,
) -> ort.InferenceSession:
    """A session whose sums of integers are exact where ONNX Runtime can make them so; `beside`: weights by name, which it uses
    where they lie.

    By `session.x64quantprecision` its optimiser exchanges products that saturate on this machine, so it is needed where
    there are any; on some models it fails in doing so, and these run as they are. Not `exact`: it is not asked to.
    """
    import onnxruntime as ort

    level = ort.GraphOptimizationLevel
    for precise in (True, False) if exact and (optimise or saturating) else (False,):
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        plain = level.ORT_ENABLE_EXTENDED if saturating and precise else level.ORT_DISABLE_ALL
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else plain
        if precise:
            options.add_session_config_entry("session.x64quantprecision", "1")
        if not optimise:  # no memory of its own between runs: neither an arena nor weights packed anew
            options.enable_cpu_mem_arena = False
            options.add_session_config_entry("session.disable_prepacking", "1")
            # its plan of the memory that equal inputs share takes time quadratic in the weights
            options.enable_mem_pattern = False
            # each weight is dequantised when its layer is due; by default all are first
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile / "times")
            options.optimized_model_filepath = str(profile / "optimised.onnx")
        for name, value in beside.items():
            options.add_initializer(name, value)
        try:
            return ort.InferenceSession(source, options, ["CPUExecutionProvider"])
        except ort_errors():
            if not precise:
                raise
    raise AssertionError


class Runner:
    """What passes get to look at numbers with: `runner(model, feeds, outputs)` returns named arrays.

    Sessions of the last few models are kept, by a digest of all that a model computes; see `prepare` for loops. Several threads may
    use one.
    """

    def __init__(self, *, threads: int = 1, optimise: bool = True, sessions: int = 2):
        self._threads = threads
        self._optimise = optimise
        self._limit = sessions
        # what a Lean's arrays are known by is where they lie: they are held as long as that counts
        self._sessions: OrderedDict[tuple, tuple[Session, Mapping[str, np.ndarray]]] = OrderedDict()
        self._lock = threading.Lock()

    def session(self, model: onnx.ModelProto | Lean, outputs: Sequence[str] = ()) -> Session:
        """The session of `model` with these tensors as extra outputs."""
        proto, arrays = (model.proto, model.arrays) if isinstance(model, Lean) else (model, {})
        key = (_digest(proto), tuple(outputs), tuple((name, id(a)) for name, a in arrays.items()))
        with self._lock:
            if key in self._sessions:
                self._sessions.move_to_end(key)
                return self._sessions[key][0]
            while len(self._sessions) >= self._limit:  # before there is another one
                self._sessions.popitem(last=False)
        made = Session(model, threads=self._threads, optimise=self._optimise, outputs=outputs)
        with self._lock:
            self._sessions[key] = made, arrays
        return made

    def __call__(
        self, model: onnx.ModelProto | Lean, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """The graph's outputs, or the tensors `outputs` (intermediate ones, inputs and initialisers included)."""
        return self.prepare(model, outputs)(feeds)

    def prepare(
        self, model: onnx.ModelProto | Lean, outputs: Sequence[str] | None = None
    ) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
        """A function from feeds to these tensors: for a loop over batches, which reads and hashes the weights once
        instead of each time. `model` itself is not held."""
        session = self.session(model, outputs or ())
        return lambda feeds: session.run(feeds, outputs)


def _as_proto(model: onnx.ModelProto | bytes | str | Path, load_external: bool) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    if isinstance(model, onnx.ModelProto):
        return model
    try:
        if isinstance(model, bytes):
            return onnx.load_model_from_string(model)
        return onnx.load(str(model), load_external_data=load_external)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise VerificationError(f"not a readable ONNX model: {error}") from error


def _split_requests(
    proto: onnx.ModelProto, names: Sequence[str], beside: Mapping[str, np.ndarray]
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Which requested tensors must become graph outputs, and the values of those that are initialisers."""
    import onnx

    wanted = set(names) - {value.name for value in proto.graph.output}
    weights = {
        t.name: beside[t.name] if t.name in beside else onnx.numpy_helper.to_array(t)
        for t in proto.graph.initializer
        if t.name in wanted
    }
    inputs = {value.name for value in proto.graph.input}
    made = {name for node in proto.graph.node for name in node.output if name}
    for name in names:
        if name in wanted and name not in made and name not in weights and name not in inputs:
            raise VerificationError("no such tensor in the model", tensor=name)
    return [name for name in names if name in wanted and name in made], weights


def _shallow(proto: onnx.ModelProto, initializers: Iterable[onnx.TensorProto]) -> onnx.ModelProto:
    """A copy of `proto` with these initialisers instead of its own."""
    import onnx

    copy = onnx.ModelProto()
    _copy_fields(proto, copy, {"graph"})
    _copy_fields(proto.graph, copy.graph, {"initializer"})
    copy.graph.initializer.extend(initializers)
    return copy


def _copy_fields(source, target, without: set[str]) -> None:
    for field, value in source.ListFields():
        if field.name in without:
            continue
        if hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def _beside(arrays: Mapping[str, np.ndarray], place: Callable[[], Path]) -> dict[str, ort.OrtValue]:
    """Arrays as ORT uses them where they lie. It wants to see the file that the model names, too, but never reads it."""
    import onnxruntime as ort

    if arrays:
        with (place() / NOWHERE).open("wb") as file:
            file.truncate(max(a.nbytes for a in arrays.values()))
    return {name: ort.OrtValue.ortvalue_from_numpy(a) for name, a in arrays.items()}


def _loadable(
    proto: onnx.ModelProto, extra: Sequence[str], place: Callable[[], Path], outside: bool = False
) -> bytes | str:
    """What ORT is to load, with the tensors `extra` among the graph outputs.

    That is the model's bytes, or a file in the folder `place()`, if they are too many for protobuf (its weights are put beside it then)
    or some of its weights stand `outside` already.
    """
    import onnx

    large = _weight_bytes(proto) >= INLINE_BYTES
    if large:
        proto = _externalise(proto, place() / "weights")
    elif extra:
        proto = _shallow(proto, proto.graph.initializer)
    # ORT infers the types of outputs that bear a name only.
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(extra))
    if not large and not outside:
        return proto.SerializeToString()
    path = place() / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return str(path)


def _weight_bytes(proto: onnx.ModelProto) -> int:
    return sum(len(tensor.raw_data) or tensor.ByteSize() for tensor in proto.graph.initializer)


def _externalise(proto: onnx.ModelProto, file: Path) -> onnx.ModelProto:
    """A copy of `proto` whose large initialisers stand in `file`; one tensor at a time is held twice."""
    import onnx

    tensors = []
    with file.open("wb") as stream:
        for tensor in proto.graph.initializer:
            raw = tensor.raw_data or onnx.numpy_helper.to_array(tensor).tobytes()
            if len(raw) < EXTERNAL_BYTES or tensor.data_type == onnx.TensorProto.STRING:
                tensors.append(tensor)
                continue
            stub = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            stub.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", file.name), ("offset", stream.tell()), ("length", len(raw))):
                stub.external_data.add(key=key, value=str(value))
            stream.write(raw)
            tensors.append(stub)
    return _shallow(proto, tensors)


def _digest(model: onnx.ModelProto) -> str:
    """A digest of all that the model computes. Weights are hashed one by one, so size does not matter."""
    digest = hashlib.blake2b(_shallow(model, ()).SerializeToString(deterministic=True), digest_size=16)
    for tensor in model.graph.initializer:
        digest.update(f"{tensor.name} {tensor.data_type} {list(tensor.dims)} ".encode())
        digest.update(tensor.raw_data or tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _refused(kind: type[VerificationError], what: str, error: Exception) -> VerificationError:
    """One line from ORT's message, with the node if it names one."""
    text = plain(str(error))
    node = re.search(r"Node[: (,]+\(?[\"']?([^\s\"',)]+)", text)
    return kind(f"{what}: {text}", node=node.group(1) if node else None)
