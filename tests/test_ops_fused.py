"""The fused ways of neighborhood attention against a plain loop in float64.

Without a GPU, Triton's interpreter runs the kernels on small maps, and its compiler builds them for GPUs.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

if not torch.cuda.is_available() and "triton" not in sys.modules:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported

from hfseg.models.ops import fused_natten, fused_triton

pytestmark = pytest.mark.slow

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}  # of the largest number
TRITON_RUNS = find_spec("triton") and (DEVICE == "cuda" or os.environ.get("TRITON_INTERPRET") == "1")
needs_triton = pytest.mark.skipif(not TRITON_RUNS, reason="needs triton, and a CUDA device or TRITON_INTERPRET=1")
needs_natten = pytest.mark.skipif(not fused_natten.available(), reason="natten 0.20 or later is not installed")
slow = pytest.mark.slow


def axis(length, kernel_size, dilation):
    """Per place: the keys of its window, and their table indices."""
    for place in range(length):
        group, inner = place % dilation, place // dilation
        members = len(range(group, length, dilation))
        start = min(max(inner - kernel_size // 2, 0), members - kernel_size)
        keys = range(start, start + kernel_size)
        yield [key * dilation + group for key in keys], [key - inner + kernel_size - 1 for key in keys]


def loop(query, key, value, rpb, *, kernel_size, dilation):
    """Attend one query at a time, as the definition says."""
    out = torch.empty_like(query)
    for y, (rows, table_rows) in enumerate(axis(query.shape[2], kernel_size, dilation)):
        for x, (cols, table_cols) in enumerate(axis(query.shape[3], kernel_size, dilation)):
            keys, values = (t[:, :, rows][:, :, :, cols].flatten(2, 3) for t in (key, value))
            scores = (keys @ query[:, :, y, x, :, None])[..., 0] / query.shape[-1] ** 0.5
            if rpb is not None:
                scores = scores + rpb[:, table_rows][:, :, table_cols].flatten(1)
            out[:, :, y, x] = (scores.softmax(-1)[..., None, :] @ values)[..., 0, :]
    return out


def amid_nan(tensor):
    """Lay a tensor between two blocks of NaN, which show when a kernel reads past its ends."""
    return torch.stack([torch.full_like(tensor, torch.nan), tensor, torch.full_like(tensor, torch.nan)])[1]


def inputs(batch, heads, height, width, head_dim, *, kernel_size, table, dtype=torch.float32):
    """A "b h w 3 heads d" tensor, as a block makes it, and a table in float32."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch, height, width, 3, heads, head_dim, generator=generator)
    rpb = torch.randn(heads, 2 * kernel_size - 1, 2 * kernel_size - 1, generator=generator)
    return amid_nan(qkv.to(DEVICE, dtype)), amid_nan(rpb.to(DEVICE)) if table else None


def with_gradients(attend, qkv, rpb):
    """Outputs, and the gradients of a fixed sum of them by qkv and table."""
    leaves = [leaf.detach().requires_grad_() for leaf in (qkv, rpb) if leaf is not None]
    query, key, value = leaves[0].permute(3, 0, 4, 1, 2, 5)
    out = attend(query, key, value, leaves[1] if rpb is not None else None)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out, *torch.autograd.grad(out, leaves, weights)]


def assert_equals_loop(qkv, rpb, *, kernel_size, dilation):
    def fused(query, key, value, rpb):
        return fused_triton.attend(query, key, value, rpb=rpb, kernel_size=kernel_size, dilation=dilation)

    def plain(query, key, value, rpb):
        return loop(query, key, value, rpb, kernel_size=kernel_size, dilation=dilation)

    expected = with_gradients(plain, qkv.double(), None if rpb is None else rpb.double())
    for name, ours, theirs in zip(("output", "qkv", "rpb"), with_gradients(fused, qkv, rpb), expected, strict=False):
        error = (ours.double() - theirs).abs().max() / theirs.abs().max()
        assert error < TOLERANCE[qkv.dtype], f"{name}: {error:.1e}"


@needs_triton
@pytest.mark.parametrize(
    ("shape", "kernel_size", "dilation", "table"),
    [
        pytest.param((2, 1, 5, 4, 4), 3, 1, True, id="less-than-a-tile"),
        pytest.param((1, 2, 9, 11, 20), 3, 2, False, id="no-table"),
        pytest.param((1, 1, 7, 9, 20), 3, 2, True, id="groups-of-two-lengths"),
        pytest.param((1, 2, 6, 19, 8), 5, 1, True, id="wide", marks=slow),
        pytest.param((1, 1, 11, 10, 16), 5, 2, True, id="dilated-edges-only", marks=slow),
        pytest.param((1, 2, 25, 9, 32), 7, 1, False, id="tall", marks=slow),
        pytest.param((1, 1, 7, 18, 33), 7, 1, True, id="head-dim-past-a-power-of-two", marks=slow),
        pytest.param((1, 1, 14, 13, 8), 13, 1, True, id="widest-kernel", marks=slow),
        pytest.param((1, 1, 13, 30, 72), 13, 1, False, id="widest-kernel-small-tiles", marks=slow),
    ],
)
def test_triton_equals_the_loop_in_output_and_gradients(shape, kernel_size, dilation, table):
    qkv, rpb = inputs(*shape, kernel_size=kernel_size, table=table)
    assert_equals_loop(qkv, rpb, kernel_size=kernel_size, dilation=dilation)


@needs_triton
@pytest.mark.parametrize("kernel_size", [3, pytest.param(11, marks=slow)])
def test_triton_equals_the_loop_in_half_precision_with_a_float32_table(kernel_size):
    qkv, rpb = inputs(1, 1, kernel_size, kernel_size + 2, 16, kernel_size=kernel_size, table=True, dtype=torch.float16)
    assert_equals_loop(qkv, rpb, kernel_size=kernel_size, dilation=1)


@pytest.mark.gpu
@needs_triton
@pytest.mark.skipif(DEVICE != "cuda", reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("shape", "kernel_size", "dilation"),
    [
        ((2, 2, 40, 52, 32), 7, 1),
        ((1, 4, 57, 60, 32), 7, 8),
        ((1, 2, 33, 45, 20), 3, 5),
        ((1, 2, 31, 36, 64), 9, 2),
        ((1, 2, 41, 29, 48), 13, 2),
        ((1, 1, 27, 35, 128), 11, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("table", [True, False], ids=["table", "no-table"])
def test_triton_equals_the_loop_on_a_gpu(shape, kernel_size, dilation, dtype, table):
    qkv, rpb = inputs(*shape, kernel_size=kernel_size, table=table, dtype=dtype)
    assert_equals_loop(qkv, rpb, kernel_size=kernel_size, dilation=dilation)


@pytest.mark.gpu
@needs_triton
@pytest.mark.skipif(DEVICE != "cuda", reason="needs a CUDA device")
def test_triton_gradients_repeat_bit_for_bit():
    qkv, rpb = inputs(2, 4, 64, 64, 32, kernel_size=7, table=True, dtype=torch.bfloat16)

    def fused(query, key, value, rpb):
        return fused_triton.attend(query, key, value, rpb=rpb, kernel_size=7, dilation=2)

    first, second = with_gradients(fused, qkv, rpb), with_gradients(fused, qkv, rpb)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@needs_triton
def test_triton_output_lies_in_memory_as_a_block_goes_on_with_it():
    qkv, _ = inputs(1, 2, 3, 4, 8, kernel_size=3, table=False)
    query, key, value = qkv.permute(3, 0, 4, 1, 2, 5)
    out = fused_triton.attend(query, key, value, kernel_size=3, dilation=1)
    assert out.permute(0, 2, 3, 1, 4).is_contiguous()


COMPILE = """
import json, sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver
from hfseg.models.ops.fused_triton import _Attend

class Driver:  # of a GPU that is not there: compiles for it, launches nothing
    get_current_target = lambda self: GPUTarget("cuda", capability, 32)
    get_current_device = lambda self: capability  # what was compiled is kept by device
    get_current_stream = lambda self, device: 0

shared = {}
def build(kernel, grid):
    def compile_only(*args, **options):
        shared[kernel.fn.__name__] = kernel.warmup(*args, grid=grid, **options).metadata.shared
    return compile_only

driver.set_active(Driver())
JITFunction.__getitem__ = build
for capability, head_dim, kernel_size, dtype in json.loads(sys.argv[1]):
    leaves = [torch.zeros(1, 2, 32, 32, head_dim, dtype=getattr(torch, dtype), requires_grad=True) for _ in range(3)]
    table = torch.zeros(2, 2 * kernel_size - 1, 2 * kernel_size - 1, requires_grad=True)
    _Attend.apply(*leaves, table, kernel_size, 1).sum().backward()
    print(json.dumps(shared))
    shared.clear()
"""
COMPILED = [(90, 32, 7, "bfloat16"), (80, 20, 3, "float32"), (90, 128, 11, "bfloat16"), (80, 64, 13, "float16")]


@pytest.mark.skipif(not find_spec("triton"), reason="triton is not installed")
@slow
def test_triton_kernels_compile_for_a_gpu(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", COMPILE, json.dumps(COMPILED)],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for case, said in zip(COMPILED, run.stdout.splitlines(), strict=True):
        shared = json.loads(said)
        assert shared.keys() == {"attend", "query_gradient", "key_value_gradient", "table_gradient"}, case
        assert max(shared.values()) <= 99 * 1024, f"{case} does not fit the shared memory of sm_86 and sm_89"


@needs_triton
@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (dict(device="mps"), "triton needs a `cuda` device, got `mps`"),
        (dict(dtype=torch.float64), "got `torch.float64`"),
        (dict(head_dim=129), "head dims up to 128, got `129`"),
        (dict(kernel_size=15), "odd kernel sizes from 3 to 13, got `15`"),
        (
            dict(device="cpu", dtype=torch.bfloat16),
            "needs a `cuda` device" if DEVICE == "cuda" else "interpreter multiplies bfloat16 wrongly",
        ),
    ],
)
def test_triton_says_what_it_does_not_take(facts, reason):
    fine = dict(device=DEVICE, dtype=torch.float32, head_dim=32, kernel_size=7)
    assert fused_triton.supports(**fine)
    assert reason in fused_triton.refusal(**{**fine, **facts})
    assert not fused_triton.supports(**{**fine, **facts})


@pytest.mark.skipif(find_spec("triton") is not None, reason="triton is installed")
def test_triton_that_is_not_installed_is_refused():
    ones = torch.ones(1, 1, 3, 3, 8)
    with pytest.raises(ValueError, match="triton is not installed"):
        fused_triton.attend(ones, ones, ones, kernel_size=3, dilation=1)


@needs_natten
@pytest.mark.filterwarnings("ignore")  # of FlexAttention, NATTEN's way on a CPU
@pytest.mark.parametrize(
    ("height", "width", "kernel_size", "dilation"),
    [(5, 4, 3, 1), (9, 11, 3, 2), (17, 10, 5, 2), (7, 7, 7, 1), (15, 23, 7, 2), (14, 16, 13, 1)],
)
def test_natten_equals_the_loop(height, width, kernel_size, dilation):
    qkv, _ = inputs(2, 2, height, width, 32, kernel_size=kernel_size, table=False)
    query, key, value = qkv.permute(3, 0, 4, 1, 2, 5)
    ours = fused_natten.attend(query, key, value, kernel_size=kernel_size, dilation=dilation)
    expected = loop(query.double(), key.double(), value.double(), None, kernel_size=kernel_size, dilation=dilation)
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=0)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package of a name and version before all others; nothing of it is imported."""

    def write(name, version):
        metadata = tmp_path / f"{name}-{version}.dist-info"
        for folder in (tmp_path / name, metadata):
            folder.mkdir()
        (tmp_path / name / "__init__.py").touch()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (metadata / "top_level.txt").write_text(f"{name}\n")
        monkeypatch.syspath_prepend(tmp_path)
        forget()

    def forget():
        fused_natten.installed_version.cache_clear()
        fused_triton.installed_version.cache_clear()

    yield write
    monkeypatch.undo()
    forget()


def test_old_triton_is_refused(install):
    install("triton", "3.2.0")
    ones = torch.ones(1, 1, 3, 3, 8)
    assert not fused_triton.available()
    with pytest.raises(ValueError, match=r"triton 3\.2\.0 is installed, 3\.3 or later is needed: `pip install"):
        fused_triton.attend(ones, ones, ones, kernel_size=3, dilation=1)


@pytest.mark.parametrize("version", ["0.17.5", "0.14.6+torch200cu118"])
def test_old_natten_is_refused(install, version):
    install("natten", version)
    ones = torch.ones(1, 1, 3, 3, 32)
    assert not fused_natten.available()
    with pytest.raises(ValueError, match=r"natten 0\.1.* is installed, 0\.20 or later is needed: `pip install"):
        fused_natten.attend(ones, ones, ones, kernel_size=3, dilation=1)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (dict(has_table=True), "natten has no position table"),
        (dict(needs_grad=True), "natten has no gradients on `cpu`"),
        (dict(device="mps"), "got `mps`"),
        (dict(dtype=torch.float64), "got `torch.float64`"),
        (dict(head_dim=24), "got `24`"),
        (dict(device="cuda", head_dim=20), "multiples of 8, got `20`"),
    ],
)
def test_natten_says_what_it_does_not_take(install, facts, reason):
    install("natten", "0.21.7")
    fine = dict(device="cpu", dtype=torch.float32, head_dim=32, has_table=False, needs_grad=False)
    assert fused_natten.supports(**fine)
    assert reason in fused_natten.refusal(**{**fine, **facts})
    assert not fused_natten.supports(**{**fine, **facts})
