"""Recovery without labels: what the layers behind a cut can do so that the outputs stay as they were.

    none    nothing
    bias    the mean of what a removed channel gave its readers goes into their biases          (`recover_bias`)
    bn      batch normalisations are estimated anew; without them, outputs get back their mean and variance (`recover_bn`)
    lstsq   the readers' weights are solved by least squares on calibration activations         (`recover_lstsq`)
    all     one after the other: bias, lstsq, bn

All of it reads activations of the original and of the pruned model on the same samples. Labels are never read.
"""

from __future__ import annotations

from ...ir.model import Model
from ..base import Report
from ..layers.layout import has_few_values
from .recover_bn import renormalise
from .recover_lstsq import find_tasks, solve_layers
from .uncut import Uncut

RECOVER = ("none", "bias", "bn", "lstsq", "all")


def recover(model: Model, uncut: Uncut, how: str, report: Report, apart: bool = False) -> None:
    """Repair `model`, which has been cut (its biases already took over means, where `how` says so). apart: weights that
    several layers read may be stored for each."""
    if how in ("lstsq", "all"):
        solved = [t.layer for t in find_tasks(model, uncut) if apart or not t.layer.is_shared]
        few = [layer.node.name for layer in solved if has_few_values(layer.layout.matrix(layer.weight))]
        if few:
            report.note(
                f"weights of {', '.join(few[:3])} were trained to few bits, and are floats now: recover=bn lets them stay, "
                "and repairs less"
            )
        solve_layers(model, uncut, report, apart)
    if how in ("bn", "all"):
        renormalise(model, uncut, report, apart)
