"""Every test runs offline and on one thread: small maps are quicker so, and sums come out the same everywhere."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

gc.disable()  # until everything is imported, which makes millions of objects and hardly any garbage

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which any model may do


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the first case of a test with `many` in the everyday subset, and call the others slow."""
    seen = set()
    for item in items:
        if item.get_closest_marker("many"):
            test = (item.path, item.originalname)
            item.add_marker("slow") if test in seen else seen.add(test)


def pytest_collection_finish() -> None:
    """Leave what was imported out of every later search for garbage: it is most of what there is, and it stays."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """Let everything be found again at the end, or extensions tell of leaks."""
    gc.unfreeze()
