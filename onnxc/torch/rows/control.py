"""If, Loop and Scan: the body runs in torch, so that gradients pass through as many turns as were taken."""

from __future__ import annotations

import torch

from ..table import Call, ints, row


@row("If")
def if_(call: Call, condition):
    chosen = call.get("then_branch") if bool(condition.reshape(-1)[0]) else call.get("else_branch")
    return tuple(call.run(chosen, []))


@row("Loop")
def loop(call: Call, trips=None, condition=None, *first):
    body = call.get("body")
    limit = ints(trips)[0] if trips is not None else None
    going = condition is None or bool(condition.reshape(-1)[0])
    state, collected, turn = list(first), [], 0
    n = len(state)
    while going and (limit is None or turn < limit):
        out = call.run(body, [torch.tensor(turn), torch.tensor(True), *state])
        going, state = bool(out[0].reshape(-1)[0]), list(out[1 : 1 + n])
        collected.append(out[1 + n :])
        turn += 1
    extra = len(body.output) - 1 - n
    if extra and not collected:
        raise call.refuse("a loop of no turn with outputs of each turn")
    return (*state, *(torch.stack([c[i] for c in collected]) for i in range(extra)))


@row("Scan")
def scan(call: Call, *x):
    body, m = call.get("body"), call.get("num_scan_inputs")
    if call.opset < 9:
        raise call.refuse("a scan with a batch axis", found=f"opset {call.opset}")
    state = list(x[:-m])
    n, k = len(state), len(body.output) - len(state)
    axes = call.get("scan_input_axes") or [0] * m
    reverse = call.get("scan_input_directions") or [0] * m
    streams = [s.flip(a) if r else s for s, a, r in zip(x[-m:], axes, reverse)]
    collected = []
    for t in range(streams[0].shape[axes[0]]):
        out = call.run(body, [*state, *(s.select(a, t) for s, a in zip(streams, axes))])
        state = list(out[:n])
        collected.append(out[n:])
    out_axes = call.get("scan_output_axes") or [0] * k
    back = call.get("scan_output_directions") or [0] * k
    made = [torch.stack([c[i] for c in collected], out_axes[i]) for i in range(k)]
    return (*state, *(y.flip(a) if r else y for y, a, r in zip(made, out_axes, back)))
