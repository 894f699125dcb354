"""Forms of the product: all give the product; the check finds forms whose rows depend on their number, and says so."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from weft.compute.ops import Numerics, Ops, make_ops
from weft.compute.ops.reference import linear
from weft.compute.ops.reference.linear import Direct, Form, Padded, PerShape, Tiled, choose_for_each, choose_form
from weft.compute.ops.reference.torch_ops import TorchOps
from weft.compute.ops.weights import Use

CPU = torch.device("cpu")


class OddBeyondFours(Form):
    """Like a library that treats the rows after the last whole block of four apart."""

    name = "odd beyond fours"

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = F.linear(x, weight, bias)
        out[x.shape[0] // 4 * 4 :] *= 1 + 2**-20
        return out


class OddAt(Form):
    """Depends on where a row stands, and only for one shape."""

    name = "odd at place 3"

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = Padded(4)(x, weight, bias)
        if weight.shape[0] == 48:
            out[3:4] *= 1 + 2**-20
        return out


WEIGHTS = [torch.randn(n, 32) for n in (16, 48, 96, 48)]


@pytest.mark.parametrize("form", [Direct(), Padded(4), Padded(16), Tiled(64), Tiled(8)], ids=lambda form: form.name)
@pytest.mark.parametrize("rows", [0, 1, 3, 8, 65, 200])
def test_every_form_gives_the_product(form: Form, rows: int, dtype: torch.dtype) -> None:
    x, weight, bias = torch.randn(rows, 31).to(dtype), torch.randn(17, 31).to(dtype), torch.randn(17).to(dtype)
    out = form(x, weight, bias)
    assert out.shape == (rows, 17) and out.dtype == dtype
    wanted = F.linear(x.double(), weight.double(), bias.double())
    assert torch.allclose(out.double(), wanted, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=5e-2)


def test_a_form_that_holds_is_kept() -> None:
    form, report = choose_form((Padded(4), Tiled()), WEIGHTS, 60)
    assert isinstance(form, Padded) and report.holds and report.checked == 3 and not report.broken
    assert "padded to 4 rows: 3 shapes" in str(report)


@pytest.mark.parametrize("odd", [OddBeyondFours(), OddAt()], ids=lambda form: form.name)
def test_a_form_that_breaks_makes_room_and_is_named(odd: Form) -> None:
    form, report = choose_form((odd, Padded(4)), WEIGHTS, 60)
    assert isinstance(form, Padded) and report.holds and report.checked == 3
    assert [name for name, _ in report.broken] == [odd.name]
    assert odd.name in str(report)


def test_a_shape_that_needs_another_form_slows_no_other() -> None:
    form, report = choose_for_each((OddAt(), Padded(4)), WEIGHTS, 60)
    assert report.holds and report.checked == 3 and report.broken == (("odd at place 3", (48, 32)),)
    assert report.form == form.name == "odd at place 3, padded to 4 rows at 48x32"
    x = torch.randn(7, 32)
    for weight in WEIGHTS:
        wanted = Padded(4) if weight.shape[0] == 48 else OddAt()
        assert torch.equal(form(x, weight, None), wanted(x, weight, None))
    assert isinstance(form, PerShape)


def test_shapes_that_came_too_late_are_named_for_each() -> None:
    ticks = iter(range(0, 10000, 100))
    form, report = choose_for_each((Padded(4),), WEIGHTS, 1, clock=lambda: float(next(ticks)))
    assert report.checked == 1 and report.unchecked == ((48, 32), (96, 32)) and report.holds
    assert form.name == "padded to 4 rows"


class OddWithABias(Form):
    """Like a library that adds a bias to few rows in another kernel."""

    name = "odd with a bias"

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = Tiled()(x, weight, bias)
        return out if bias is None or len(x) > 8 else out * (1 + 2**-20)


class OddFrom(Form):
    """Like a library that takes another kernel from so many rows on."""

    name = "odd from some rows on"

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return Tiled()(x, weight, bias) * (1 + 2**-20 * (len(x) >= self.rows))


@pytest.mark.parametrize("odd", [OddWithABias(), *map(OddFrom, (1, 101, 400, 1100, 2048))])
def test_what_a_device_is_tried_with(odd: Form) -> None:
    x, weight = torch.randn(2048, 32), torch.randn(48, 32)
    holds = isinstance(odd, OddFrom) and odd.rows == 1  # all rows are alike then
    assert linear._holds_on_device(odd, x, weight, odd(x, weight, None)) == holds


def test_where_no_form_holds_for_each_the_report_says_so() -> None:
    _, report = choose_for_each((OddAt(),), WEIGHTS, 60)
    assert not report.holds and "48x32" in str(report)


def test_where_no_form_holds_the_report_says_so() -> None:
    form, report = choose_form((OddAt(), OddBeyondFours()), WEIGHTS, 60)
    assert isinstance(form, OddBeyondFours) and not report.holds
    assert "may depend on the batch" in str(report) and "48x32" in str(report)


def test_shapes_that_the_time_does_not_suffice_for_are_named() -> None:
    ticks = iter(range(100))
    _, report = choose_form((Padded(4),), WEIGHTS, 2.5, clock=lambda: float(next(ticks)))
    assert 1 <= report.checked < 3 and (96, 32) in report.unchecked and "96x32" in str(report)


def test_there_may_be_nothing_to_check() -> None:
    _, report = choose_form((Padded(4),), [torch.empty(0, 4), torch.ones(3)], 1)
    assert report.holds and report.checked == 0


def test_operations_use_the_form_that_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "weft.compute.ops.reference.torch_ops.forms", lambda dtype, device: (OddBeyondFours(), Tiled(8))
    )
    ops = TorchOps(Numerics(torch.float32), CPU)
    report = ops.check_batch_invariance(WEIGHTS, seconds=60)
    assert report.form == "tiles of 8 rows" and "tiles of 8 rows" in ops.describe()


@pytest.mark.parametrize(
    "shape",
    [
        *((192, 576), (101, 64), (33, 50), (1, 7), (576, 1536)),
        *(pytest.param(shape, marks=pytest.mark.long) for shape in ((576, 576), (576, 192), (864, 576))),
    ],
)
def test_this_machine_holds_the_rule(ops: Ops, dtype: torch.dtype, shape: tuple[int, int], two_threads: None) -> None:
    """Every number of rows to 70 and some larger, each at another place of its batch, and many rows alone: oneDNN gives
    a few of these another last bit in bf16 where the depth is large."""
    weight, x = (torch.randn(shape) / shape[1] ** 0.5).to(dtype), torch.randn(520, shape[1]).to(dtype)
    packed = ops.prepare(weight, Use.LINEAR)
    whole = ops.linear(x, packed, None)
    for count in (*range(1, 71), 96, 127, 129, 200, 255, 257, 384, 511, 513):
        rows = slice(13 * count % (520 - count), 13 * count % (520 - count) + count)
        assert torch.equal(ops.linear(x[rows], packed, None), whole[rows]), count
    for row in range(0, 520, 5):
        assert torch.equal(ops.linear(x[row : row + 1], packed, None), whole[row : row + 1]), row


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_logits_are_not_rounded_to_the_weights_dtype(dtype: torch.dtype) -> None:
    """Rounded to bf16, the largest logits of a vocabulary become equal, and the lowest id would win."""
    torch.manual_seed(1)
    x, weight = torch.randn(5, 96).to(dtype), torch.randn(333, 96).to(dtype)
    wanted = x.double() @ weight.double().T
    for ops in (make_ops(Numerics(dtype), "cpu"), TorchOps(Numerics(dtype), torch.device("cpu"))):
        head = ops.prepare(weight, Use.HEAD)
        found = ops.logits(x, head)
        assert found.dtype == torch.promote_types(dtype, torch.float32)
        torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-5)
        assert torch.equal(ops.logits(x[:1], head), found[:1])
