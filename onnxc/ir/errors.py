"""The errors that users meet. Each prints as one line: where, what was expected, what was found, what to do."""

from __future__ import annotations

from collections.abc import Sequence

from .escape import line, terminal


class OnnxcError(Exception):
    """Base of every error that onnxc raises on purpose.

    Parts that are given appear in the message in this order: pass, node, tensor[axis], what went wrong,
    expected, found, remedy. `exit_status` is what the command line returns.
    """

    exit_status = 1

    def __init__(
        self,
        what: str,
        *,
        pass_name: str | None = None,
        node: str | None = None,
        tensor: str | None = None,
        axis: int | None = None,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ):
        super().__init__(what)
        self.what = what
        self.pass_name = pass_name
        self.node = node
        self.tensor = tensor
        self.axis = axis
        self.expected = expected
        self.found = found
        self.remedy = remedy

    def __str__(self) -> str:
        place = []
        if self.pass_name:
            place.append(f"pass {self.pass_name}")
        if self.node:
            place.append(f"node {terminal(self.node)}")
        if self.tensor is not None:
            name = terminal(self.tensor)
            place.append(name if self.axis is None else f"{name}[{self.axis}]")
        text = ": ".join([", ".join(place), self.what] if place else [self.what])
        if self.expected is not None:
            text += f", expected {self.expected}"
        if self.found is not None:
            text += f", found {self.found}"
        if self.remedy:
            text += f"; {self.remedy}"
        return line(text)


class BadModel(OnnxcError):
    """The input is not a model that can be read: truncated, not ONNX, cyclic, dangling, or unsafe."""

    exit_status = 2


class BadOption(OnnxcError):
    """An option, pass name, recipe or argument that makes no sense."""

    exit_status = 2


class BadData(OnnxcError):
    """Calibration or input data that do not fit the model's inputs."""

    exit_status = 2


class MissingTool(OnnxcError):
    """A compiler, emulator or Python package that the request needs is not installed."""

    exit_status = 2


class DimensionError(OnnxcError):
    """Two uses of a tensor disagree about an extent."""


class VerificationError(OnnxcError):
    """A model fails the checker, strict shape inference or the interface check."""


class NotTaken(VerificationError):
    """ONNX Runtime opens no session on a model, whatever its inputs."""


class InferenceObjects(VerificationError, DimensionError):
    """ONNX's own inference, not the operator table, refuses the model or has another shape."""


class ClaimError(OnnxcError):
    """A pass changed the outputs by more than its claim allows."""


class Unsupported(OnnxcError):
    """A request that onnxc understands but does not do, with the reason; `nodes` are those that it is of, where they are several."""

    nodes: Sequence[str] = ()
