"""Model -> Relax -> kernels: one walk over the imported graph that picks kernels, fuses epilogues and sets the layout.

    y = clip(add(multiply(conv2d(x, w), s), r))   ->   y = call_tir(kernel, [x, packed w * s, r])

Values are kept in the layouts they have been made in, (n, c, h, w) or (n, h, w, c), and converted when a reader needs
the other. Convolutions make (n, h, w, c); operators with a rule in `layout` follow their operands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from onnxc.codegen import origins
from onnxc.codegen.candidates import Chooser
from onnxc.codegen.kernels import interleave, narrow, pool, quantise
from onnxc.codegen.kernels.family import Family
from onnxc.codegen.kernels.spec import Refusal, Schedule
from onnxc.codegen.later import Later, kernel
from onnxc.codegen.lower import contracts, layout, packing, planes
from onnxc.codegen.lower.contracts import Lowered
from onnxc.codegen.lower.packing import Choice
from onnxc.codegen.lower.rivals import slower
from onnxc.codegen.match import products as match
from onnxc.codegen.match import quantised
from onnxc.codegen.match.constants import Constants
from onnxc.codegen.match.fewbit import FewBit
from onnxc.codegen.micro import between, fewbit, layers
from onnxc.codegen.micro.calls import Micro
from onnxc.codegen.micro.waits import flash_waits
from onnxc.codegen.prepare.importer import import_onnx
from onnxc.codegen.prepare.record import StaticModel
from onnxc.codegen.target import Target
from onnxc.codegen.tvm_api import name_of, tvm_modules, whole
from onnxc.ir.errors import Unsupported

FIRST, LAST = "nchw", "nhwc"
WORTH_SHARING = 200_000  # multiply-adds: some microseconds, a few times what it takes to share them
BITS_PER_FLOAT = 16  # products of bits in the time of one multiply-add of floats


def lower(model: StaticModel, target: Target, threads: int = 1, choose: Chooser | None = None) -> Lowered:
    """Imports `model` for `threads` threads, with the kernels of `choose`. Raises Unsupported for what TVM cannot import."""
    return _Lowering(model, target, threads, choose or Chooser(target)).run()


class _Lowering:
    """State of one walk. `values`: original variable -> {layout: new expression}."""

    def __init__(self, model: StaticModel, target: Target, threads: int, choose: Chooser):
        self.model, self.target, self.threads, self.choose = model, target, threads, choose
        self.imported = import_onnx(model)
        self.function = self.imported.module["main"]
        self.relax = tvm_modules().relax
        self.builder = origins.recorder()
        self.arrays: list[np.ndarray] = []
        self.array_vars: list = []
        self.stored: dict = {}  # variable of an array -> its bytes
        self.cache: dict = {}
        self.values: dict = {}
        self.functions: dict = {}
        self.later: dict[str, Later] = {}
        self.packed_only: set = set()  # variables without floats, which only few-bit kernels read
        self.report: list[dict] = []
        self.definitions: dict = {}
        self.hidden: set = set()  # variables that a kernel takes in

    def run(self) -> Lowered:
        """The walk; parameters are known only at its end, so the function is put together there."""
        relax, function, count = self.relax, self.function, len(self.model.inputs)
        self.constants = Constants(self.imported.weights)
        self.constants.integers = self.imported.integers
        inputs = list(function.params[:count])
        self.values.update({param: {FIRST: param} for param in inputs})
        bindings = [b for block in function.body.blocks for b in block.bindings]
        for binding in bindings:
            if not isinstance(binding, relax.VarBinding):
                raise Unsupported("the model has data-dependent shapes", remedy="compile the part before them")
            self.constants.note(binding.var, binding.value)
            self.definitions[binding.var] = binding.value
        matches = match.find(bindings, function.body.body, self.constants, quantised.begin, self.target.micro)
        contracts.check_matches(matches)
        self.readers, self.hidden = matches.readers, matches.absorbed | matches.quantising
        self.chosen = {var: self._choice(found) for var, found in matches.kernels.items()}
        self.wanted = packing.wanted(matches, self.chosen)
        with whole(self.builder), self.builder.function("main", inputs):
            with self.builder.dataflow():
                for binding in bindings:
                    self._binding(binding, matches)
                result = self.builder.emit_output(self._result(function.body.body))
            self.builder.emit_func_output(result)
        module = self.builder.get()
        main = module["main"]
        module["main"] = relax.Function([*inputs, *self.array_vars], main.body, main.ret_ty, main.is_pure, main.attrs)
        made = Lowered(module, count, self.arrays, self.report, self.builder.emitted, self.later)
        return contracts.check_lowered(made)

    def _result(self, body):
        parts = body.fields if isinstance(body, self.relax.Tuple) else [body]
        made = self.definitions.get(body) if isinstance(body, self.relax.Var) else None
        if isinstance(made, self.relax.Tuple):
            parts = made.fields
        done = [self.get(part, FIRST) for part in parts]
        return self.relax.Tuple(done)

    def constant(self, array: np.ndarray):
        """A constant operand: scalars in the graph, everything else as a parameter of main, equal ones once."""
        if array.ndim == 0:
            return self.relax.const(array.item(), str(array.dtype))
        small = array.nbytes <= 1 << 20
        key = (array.shape, array.dtype.str, array.tobytes()) if small else id(array)
        if key not in self.cache:
            var = self.relax.Var(f"c{len(self.arrays)}", self.relax.TensorType(array.shape, str(array.dtype)))
            self.arrays.append(array)
            self.array_vars.append(var)
            self.stored[var] = array.nbytes
            self.cache[key] = var
        return self.cache[key]

    def get(self, expr, order: str, rank: int = 4):
        """`expr` of the imported graph in the wanted layout, converted when it must be; a constant as one of `rank` axes."""
        relax = self.relax
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.get(part, order, rank) for part in expr.fields])
        if expr in self.constants:
            array = self.constants.value(expr)
            if isinstance(expr.ty, relax.ShapeType):
                return relax.ShapeExpr(array.tolist())
            return self.constant(layout.constant_last(array, rank) if order == LAST else array)
        if not isinstance(expr, relax.Var):
            return expr
        forms = self.values[expr]
        if order not in forms:
            other = forms[LAST if order == FIRST else FIRST]
            turn = layout.to_last if order == LAST else layout.to_first
            forms[order] = self._convert(other, turn(match.rank(other)))
        return forms[order]

    def _convert(self, value, axes):
        shape = [int(extent) for extent in value.ty.shape.values]
        moved = [shape[axis] for axis in axes]
        if [e for e in shape if e != 1] == [e for e in moved if e != 1] and sum(e != 1 for e in shape) <= 1:
            return self.builder.emit(self.relax.op.reshape(value, moved))
        made = between.permute(self, value, tuple(axes)) if self.target.micro else None
        return self.builder.emit(self.relax.op.permute_dims(value, list(axes))) if made is None else made

    def emit_micro(self, call: Micro, operands: list, shape: list[int], kind: str):
        """A call of C code on new operands, with a result of this shape and type."""
        name = f"micro{len(self.functions)}"
        function = self.builder.add_func(between.emit(name, call, operands, shape, kind), name)
        self.functions[name] = function
        return self.builder.emit(self.relax.call_tir(function, operands, self.relax.TensorType(shape, kind)))

    def _permuted(self, var, call) -> bool:
        """A model's own change between the two layouts is none of ours: the tensor is there in the other one."""
        rank = match.rank(var)
        if getattr(call.op, "name", "") != "relax.permute_dims" or rank not in layout.RANKS or call.attrs.axes is None:
            return False
        axes, forms = tuple(int(axis) for axis in call.attrs.axes), self.values[call.args[0]]
        if axes == layout.to_first(rank) and FIRST in forms:
            self.values[var] = {LAST: forms[FIRST]}
        elif axes == layout.to_last(rank) and LAST in forms:
            self.values[var] = {FIRST: forms[LAST]}
        else:
            return False
        return True

    def _binding(self, binding, matches: match.Matches) -> None:
        var, value = binding.var, binding.value
        relax = self.relax
        if var in self.constants or var in matches.absorbed:
            return
        self.builder.nodes = origins.chain(var, self.definitions, self.hidden, matches.kernels, self.imported.nodes)
        if var in matches.quantising and any(arg in self.packed_only for arg in value.args):
            self.packed_only.add(var)
            return
        if var in matches.kernels:
            self._kernel(var, matches.kernels[var], self._fused(var, matches))
        elif isinstance(value, relax.Var):
            self.values[var] = self.values[value]
        elif isinstance(value, relax.Tuple):
            self.values[var] = {FIRST: self.get(value, FIRST)}
        elif isinstance(value, relax.TupleGetItem):
            forms = self.values[value.tuple_value].items()
            self.values[var] = {o: self.builder.emit(relax.TupleGetItem(t, value.index)) for o, t in forms}
        elif self.target.micro and between.take(self, var, value):
            return
        elif not (self._permuted(var, value) or self._channels_last(var, value)):
            self.values[var] = {FIRST: self.builder.emit(self._call(value, self._arguments(value, FIRST)))}

    def _arguments(self, call, order: str, rank: int = 4) -> list:
        """Operands in the wanted layout. Scale and zero point of a quantiser are numbers in the graph where they can be."""
        name = getattr(call.op, "name", "")
        args = []
        for i, arg in enumerate(call.args):
            if i and name in layout.QUANTISERS and arg in self.constants and self.constants.value(arg).size == 1:
                args.append(self.constant(self.constants.value(arg).reshape(())))
            else:
                args.append(self.get(arg, FIRST if i and name in layout.RAW else order, rank))
        return args

    def _call(self, call, args: list):
        """The same call on new operands; functions that the importer made move over with it."""
        for i, arg in enumerate(args):
            if isinstance(arg, self.relax.GlobalVar):
                if arg not in self.functions:
                    self.functions[arg] = self.builder.add_func(self.imported.module[arg], name_of(arg))
                args[i] = self.functions[arg]
        return self.relax.Call(call.op, args, call.attrs, call.ty_args if hasattr(call, "ty_args") else None)

    def _channels_last(self, var, call) -> bool:
        """Emits `call` on channels-last operands when one of them is so already and a rule exists."""
        name = getattr(call.op, "name", "")
        operands = [p for a in call.args for p in (a.fields if isinstance(a, self.relax.Tuple) else [a])]
        tensors = [a for a in operands if isinstance(a, self.relax.Var) and a not in self.constants]
        if name == "relax.permute_dims":
            return self._turned(var, call)
        if not any(LAST in self.values[a] and FIRST not in self.values[a] for a in tensors):
            return False
        if name == "relax.reshape":
            return self._reshape(var, call)
        if name == "relax.call_tir":
            return self._interleaved(var, call)
        ranks = {match.rank(a) for a in tensors}
        rank = min(ranks)
        if len(ranks) > 1 or rank not in layout.RANKS:
            return False
        if name in layout.ELEMENTWISE:
            made = self._call(call, [self.get(a, LAST, rank) for a in call.args])
        elif name in layout.RULES:
            made = layout.RULES[name](call, *self._arguments(call, LAST, rank))
        else:
            return self._reduce_away(var, call, name)
        if made is None:
            return self._reduce_away(var, call, name)
        self.values[var] = {LAST: self.builder.emit(made)}
        return True

    def _interleaved(self, var, call) -> bool:
        """Phases of a transposed convolution put side by side channels-last."""
        phases = interleave.noted(self.imported.module[call.args[0]])
        if phases is None:
            return False
        parts = [self.get(part, LAST) for part in call.args[1].fields]
        self.values[var] = {LAST: self.builder.emit(interleave.call(self.builder, parts, phases, last=True))}
        return True

    def _turned(self, var, call) -> bool:
        """A transposition from one layout to the other: the same elements in memory."""
        source, rank = call.args[0], match.rank(call.args[0])
        axes = None if call.attrs.axes is None else tuple(int(axis) % rank for axis in call.attrs.axes)
        forms = self.values.get(source, {}) if isinstance(source, self.relax.Var) else {}
        if rank not in layout.RANKS or not forms:
            return False
        if axes == layout.to_last(rank) and LAST in forms:
            self.values[var] = {FIRST: forms[LAST]}
        elif axes == layout.to_first(rank) and FIRST in forms:
            self.values[var] = {LAST: forms[FIRST]}
        else:
            return False
        return True

    def _reshape(self, var, call) -> bool:
        """Reshape of (n, 1, 1, c): the elements stand in the same order in both layouts."""
        source = self.values[call.args[0]][LAST]
        shape = [int(extent) for extent in source.ty.shape.values]
        if len(shape) not in layout.RANKS or any(extent != 1 for extent in shape[1:-1]):
            return False
        self.values[var] = {FIRST: self.builder.emit(self.relax.op.reshape(source, call.args[1]))}
        return True

    def _reduce_away(self, var, call, name: str) -> bool:
        """A reduction over rows and columns without keepdims: (n, c), the same from both layouts."""
        if name not in layout.REDUCTIONS or call.attrs.axis is None or call.attrs.keepdims:
            return False
        rank = match.rank(call.args[0])
        if rank not in layout.RANKS or sorted(int(axis) % rank for axis in call.attrs.axis) != list(range(2, rank)):
            return False
        op, axes = getattr(self.relax.op, name.rsplit(".", 1)[1]), list(range(1, rank - 1))
        self.values[var] = {FIRST: self.builder.emit(op(self.get(call.args[0], LAST), axes, False))}
        return True

    def _product(self) -> str:
        """The name of the product of two activations that is at hand."""
        ops = {node.name: node.op_type for node in self.model.nodes}
        names = origins.named(self.builder.nodes, ops)
        return next((name for name in names if ops.get(name) in ("MatMul", "Gemm", "Conv")), "".join(names[:1]))

    def _kernel(self, var, found: match.Match, choice: Choice) -> None:
        """Emits a kernel call at the place of the last operator it has taken in."""
        if isinstance(choice.form, FewBit) and packing.key(choice.form) not in self.cache:
            choice = self._reading_floats(choice)
        form, family, plan = choice.form, choice.family, choice.schedule
        form = form if family is None else family.settle(form)
        spec = form.spec
        order = LAST if found.spatial else FIRST
        entry = {
            "node": self.imported.users.get(found.weight_var) or self._product(),
            "nodes": self.builder.nodes,
            **spec.figures(),
            **self.choose.said(spec),
            "kernel": plan.rule if plan else None,
            "schedule": plan.text() if plan else None,
            "cycles": family.cost(spec, plan, self.target) if family and plan else None,
            "function": None,
            "flash": 0,
            "refused": [{"rule": r.rule, "reason": r.reason} for r in choice.refusals],
        }
        self.report.append(entry)
        if family is None or plan is None:
            raise Unsupported(
                "no kernel takes it: " + "; ".join(f"{r.rule} {r.reason}" for r in choice.refusals), node=entry["node"]
            )
        args = self._source(form, found, order)
        args += self._weights(form, family, plan) if spec.weight_constant else [self.get(found.weight, FIRST)]
        for operand in family.operands(spec, plan, form.weight, list(form.operands)):
            args.append(self.constant(operand) if isinstance(operand, np.ndarray) else self.get(operand, order))
        results = [self.relax.TensorType(spec.y_shape, spec.output.kind)] if spec.output.kind != "bits" else []
        results += [] if spec.packed is None else [self.relax.TensorType(spec.packed.shape, "uint64")]
        given = [*args, *results]
        function = self._function(spec, "kernel", lambda name: kernel(self, family, spec, plan, given, name))
        entry["function"] = name_of(function)
        entry["flash"] = sum(self.stored[arg] for arg in args if arg in self.stored)
        entry["waits"] = flash_waits(spec, plan, self.target, entry["flash"], entry["cycles"])
        entry["cycles"] += entry["waits"]
        entry["grown"] = 0 if family.exact else self.stored[args[1]] - form.weight.nbytes
        made = self.builder.emit(self.relax.call_tir(function, args, results if len(results) > 1 else results[0]))
        if len(results) > 1:
            made, bits = (self.builder.emit(self.relax.TupleGetItem(made, i)) for i in range(2))
            self.cache[choice.packing] = bits
        elif spec.packed is not None:
            self.cache[choice.packing] = made
            self.packed_only.add(var)
            return
        self.values[var] = {order: made}

    def _fused(self, var, matches: match.Matches) -> Choice:
        """The kernel that ends in `var`, packing its own result where its reader wants that and the family can."""
        choice = self.chosen[var]
        if choice.family is None:
            return choice
        for form, key in packing.fused(var, matches, self.chosen, self.wanted):
            answer = choice.family.schedule(form.spec, self.target)
            if isinstance(answer, Schedule):
                return replace(choice, form=form, schedule=answer, packing=key)
            choice.refusals.append(answer)
        return choice

    def _reading_floats(self, choice: Choice) -> Choice:
        """A few-bit kernel whose input has yet to be packed: no more than it reads, and by itself if nothing else needs it."""
        if not isinstance(choice.form, FewBit) or choice.family is None:
            return choice
        form, key = choice.form.thinned(), packing.key(choice.form)
        forms = [form]
        readers = sum(packing.key(other) == key for _, other in self.wanted[form.quantised.source])
        if readers == 1 and form.quantised.pool is None and choice.family.takes_floats:
            forms.insert(0, replace(form, spec=replace(form.spec, source=form.packing())))
        for other in forms:
            answer = choice.family.schedule(other.spec, self.target)
            if isinstance(answer, Schedule):
                return replace(choice, form=other, schedule=answer)
            choice.refusals.append(answer)
        return choice

    def _choice(self, found: match.Match) -> Choice:
        """The form of a kernel that a family takes, few-bit before float."""
        refusals: list[Refusal] = []
        for form in (found.few_bit, found.weight_only, found):
            if form is not None:
                form = replace(form, spec=self._on_threads(form))
                whole = found.few_bit is not None  # integers in
                family, plan, declined = self.choose(form.spec, exact=whole)
                if family in layers.FAMILIES and plan and not layers.fits(form.spec, plan, form.weight, form.operands):
                    refusals.append(Refusal(family.name, "has a factor of a quarter or more"))
                    family, plan, declined = self.choose(form.spec, micro=False, exact=whole)
                refusals += declined
                few = isinstance(form, FewBit) and not self.target.micro  # flash counts more there
                if family is None or plan is None:
                    continue
                if few or form.spec.weight.kind in ("codes", *narrow.KINDS):
                    declined = slower(form, family, plan, found, self.target)
                    refusals += declined
                    if declined:
                        continue
                family, plan, declined = self.choose.settled(form.spec, family, plan, exact=whole)
                return Choice(form, family, plan, [*refusals, *declined])
        return Choice(found, None, None, refusals)

    def _on_threads(self, form):
        """The spec for as many threads as are worth their barrier."""
        spec = form.spec
        few = spec.activation.bits * spec.weight.bits / BITS_PER_FLOAT if isinstance(form, FewBit) else 1
        return replace(spec, threads=self.threads if spec.macs * few >= WORTH_SHARING else 1)

    def _source(self, form, found: match.Match, order: str) -> list:
        """The operands that a kernel reads first: its input as it wants it."""
        if not isinstance(form, FewBit):
            source = self.get(found.source, order)
            return [source if found.depth is None else self._planes(source, found.depth, found.spec.groups)]
        if form.spec.source is None:
            return [self._packed_source(form, order)]
        scale = form.quantised.scale
        return [self.get(form.quantised.source, order), *([] if scale is None else [self.constant(scale)])]

    def _planes(self, source, depth: match.Depth, groups: int):
        """(n, d, h, w, c) with the planes that each plane of the result reads as channels."""
        key = (source, depth, groups)
        if key not in self.cache:
            self.cache[key] = self.builder.emit(planes.gathered(self.builder, source, depth, groups))
        return self.cache[key]

    def _packed_source(self, form: FewBit, order: str):
        """What a few-bit kernel reads: the source quantised, packed and maybe pooled, once for all its readers."""
        spec, quantised = form.packing(), form.quantised
        key = packing.key(form)
        if key not in self.cache:
            emit = fewbit.emit_pack if self.target.micro else quantise.emit
            function = self._function(spec, "pack", lambda name: emit(spec, name))
            args = [self.get(quantised.source, order)]
            args += [] if quantised.scale is None else [self.constant(quantised.scale)]
            call = self.relax.call_tir(function, args, self.relax.TensorType(spec.shape, "uint64"))
            self.cache[key] = self.builder.emit(call)
        pooling = form.pooling()
        if pooling is None:
            return self.cache[key]
        if (key, pooling) not in self.cache:
            emit_pool = fewbit.emit_pool if self.target.micro else pool.emit
            function = self._function(pooling, "pool", lambda name: emit_pool(pooling, name))
            result = self.relax.TensorType(pooling.pack.shape, "uint64")
            self.cache[key, pooling] = self.builder.emit(self.relax.call_tir(function, [self.cache[key]], result))
        return self.cache[key, pooling]

    def _weights(self, form: match.Match | FewBit, family: Family, plan: Schedule) -> list:
        """The packed weights, and what else the family makes of them."""
        scale, told = (None, None) if isinstance(form, FewBit) else (form.scale, form.scale_key)
        key = ("packed", packing.memory(form.weight), told, family.name, family.pack_key(form.spec, plan))
        if key not in self.cache:
            self.cache[key] = self.constant(packing.packed(family, form.spec, plan, form.weight, scale))
        own = form.tables if isinstance(form, FewBit) else ()
        tables = own or family.tables(form.spec, plan, form.weight)
        return [self.cache[key], *(self.constant(array) for array in tables)]

    def _function(self, spec, stem: str, emit: Callable):
        """The function for a spec, emitted once."""
        if spec not in self.functions:
            name = f"{stem}{len(self.functions)}"
            self.functions[spec] = self.builder.add_func(emit(name), name)
        return self.functions[spec]
