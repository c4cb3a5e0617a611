"""Cheaper numbers in training: sparse and ternary gradients, short formats, and several processes that share batches."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest

from onnxc.passes.train.objective import Arithmetic
from tests.torch.test_training import fitted, told

torch = pytest.importorskip("torch")


def test_the_largest_entries_of_each_sample_go_further():
    from onnxc.torch.arithmetic import at_products, largest

    grad = torch.tensor([[1.0, -5.0, 2.0, 0.5], [0.1, 0.2, 0.4, -0.3]])
    assert largest(grad, 0.5).tolist() == [[0, -5, 2, 0], [0, 0, torch.tensor(0.4).item(), torch.tensor(-0.3).item()]]
    assert largest(grad, 0.25, "batch").tolist() == [[0, -5, 2, 0], [0, 0, 0, 0]]
    assert largest(grad, 0.5, "units").tolist() == (grad * torch.tensor([0, 1, 1, 0])).tolist()
    assert torch.equal(largest(grad.T[None], 0.5, "units", 1)[0].T, largest(grad, 0.5, "units"))
    x = torch.ones(2, 4, requires_grad=True)
    for last, kept in ((False, 1), (True, 4)):  # classes need the whole gradient
        x.grad = None
        y = at_products(Arithmetic(topk=0.25))(x, last, -1)
        y.backward(grad)
        assert torch.equal(y, x) and (x.grad != 0).sum(1).tolist() == [kept, kept]


def test_the_backward_pass_leaves_out_units_without_gradient_and_changes_nothing():
    from onnxc.torch.arithmetic import skipping

    torch.manual_seed(0)
    grad = torch.randn(5, 6) * torch.tensor([0, 1, 0, 0, 1, 0])
    given = [torch.randn(5, 7, requires_grad=True), torch.randn(7, 6, requires_grad=True)]
    ours = torch.autograd.grad(skipping(*given), given, grad)
    for a, b in zip(ours, torch.autograd.grad(torch.matmul(*given), given, grad)):
        torch.testing.assert_close(a, b)
    whole = torch.autograd.grad(skipping(*given), given, grad * 0)
    assert not whole[0].any() and not whole[1].any()


def test_fixed_point_rounds_at_random_and_right_in_the_mean():
    from onnxc.torch.arithmetic import fixed_point

    torch.manual_seed(0)
    y = fixed_point(torch.full((20000,), 0.3), 3)
    assert sorted(y.unique().tolist()) == [0.25, 0.375] and float(y.mean()) == pytest.approx(0.3, abs=2e-3)
    assert fixed_point(torch.tensor([1e6, -1e6]), 3).tolist() == [(2**15 - 1) / 8, -(2**15) / 8]


def test_products_in_bfloat16_learn_and_epochs_are_judged_in_float32(monkeypatch):
    from onnxc.torch.network import Network

    seen, call = set(), Network._call

    def watched(self, step, inputs, env):
        made = call(self, step, inputs, env)
        seen.add((self.training, step.op, made[0].dtype))
        return made

    monkeypatch.setattr(Network, "_call", watched)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    passes = "train.finetune(epochs=8,batch=16,rate=0.01{})"
    short, whole = (fitted(passes.format(p)) for p in (",precision=bfloat16", ""))
    made = {(training, dtype) for training, op, dtype in seen if op == "Conv"}
    assert made == {(True, torch.bfloat16), (True, torch.float32), (False, torch.float32)}
    (before, after), (start, end) = told(short), told(whole)
    assert before == start and after < 0.7 * before and after == pytest.approx(end, rel=0.1)
    assert "this processor has no bfloat16" in short.report.rows[-1].notes[0]
    w = short.model.constants()["w2"].values
    assert w.dtype == np.float32 and (torch.tensor(w).bfloat16().float().numpy() != w).any()


def test_a_tensor_shares_one_exponent():
    from onnxc.torch.arithmetic import shared_exponent

    x = torch.tensor([100.0, 1.0, 0.3, -0.01])
    y = shared_exponent(x, 8)  # unit 1: 127 steps hold 100
    assert y.tolist() == [100, 1, 0, 0]
    assert (shared_exponent(x, 16) - x).abs().max() <= 2**-9 and not shared_exponent(x * 0, 8).any()


def test_ternary_gradients_are_right_in_the_mean_and_fit_two_bits():
    from onnxc.torch.arithmetic import ternary
    from onnxc.torch.ranks import packed, unpacked

    g, rng = torch.tensor([0.5, -0.25, 0.0, 1.0, -1.0]), torch.Generator().manual_seed(0)
    draws = torch.stack([ternary(g, torch.tensor(1.0), rng) for _ in range(4000)]).float()
    torch.testing.assert_close(draws.mean(0), g, atol=0.03, rtol=0)
    codes = draws[0].to(torch.int8)
    assert packed(codes).numel() == 2 and torch.equal(unpacked(packed(codes), 5), draws[0])


@pytest.mark.parametrize(
    "option",
    [
        "topk_gradient=0.5",
        "topk_gradient=0.5,topk_over=units",
        "ternary_gradient=true",
        "shared_exponent=12",
        "fixed_point=10",
    ],
)
def test_networks_learn_in_cheaper_numbers(option):
    result = fitted(f"train.finetune(epochs=12,batch=16,rate=0.01,{option})")
    before, after = told(result)
    assert after < 0.85 * before
    if option == "fixed_point=10":
        w = result.model.constants()["w2"].values * 2**10
        assert np.array_equal(w, np.round(w))


SCRIPT = """
import sys
import numpy as np
from tests.torch.test_training import fitted
result = fitted(sys.argv[2])
np.savez(sys.argv[1], **{n: t.values for n, t in result.model.constants().items()})
print([n for n in result.report.rows[-1].notes if "sent" in n])
"""


def free_port() -> int:
    """A port that is free, below those that the system gives to whoever asks for any: tests beside this one do."""
    for port in random.sample(range(20_000, 32_000), 100):
        with suppress(OSError), socket.socket() as s:
            s.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def processes(count: int, passes: str, folder) -> tuple[list[dict[str, np.ndarray]], list[str]]:
    """What `count` processes, started as torchrun starts them, leave and say."""
    port = free_port()
    started = []
    for rank in range(count):
        env = {**os.environ, "WORLD_SIZE": str(count), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
               "MASTER_PORT": str(port)}  # fmt: skip
        command = [sys.executable, "-c", SCRIPT, str(folder / f"{rank}.npz"), passes]
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    said = [p.communicate(timeout=300)[0] for p in started]
    assert not any(p.returncode for p in started)
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(count)], said


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights_and_ternary_gradients_are_short(tmp_path):
    passes = "train.finetune(epochs=2,batch=16,rate=0.01{})"
    sent = []
    for option in ("", ",ternary_gradient=true"):
        (a, b), said = processes(2, passes.format(option), tmp_path)
        assert all(np.array_equal(a[n], b[n]) for n in a)
        sent.append(int(said[0].split("sent ")[1].split(" bytes")[0].replace(",", "")))
        if not option:  # the mean of two halves is the gradient of the whole, but for the statistics of each half
            alone = fitted(passes.format("")).model.constants()
            assert all(np.allclose(a[n], t.values, atol=0.05) for n, t in alone.items() if n in ("w1", "w2", "w3"))
    assert sent[1] * 12 < sent[0]
