"""After `import hfseg`, plain Transformers opens what this package saved, in whichever order things are imported."""

import subprocess
import sys
from pathlib import Path

import pytest
from alone import run_alone

from hfseg.on_import import after_import

ORDERS = [
    "import hfseg; from transformers import UperNetForSemanticSegmentation",
    "from transformers import UperNetForSemanticSegmentation; import hfseg",
    "import hfseg; from transformers import AutoConfig",
    "import hfseg; from transformers import pipeline",
    "import hfseg; from transformers import Swinv2Backbone",
    "import hfseg; from transformers.models.upernet import modeling_upernet",
    "import hfseg.recipes.finetune",
]


KNOWS_THEM = """
from transformers import AutoBackbone, AutoConfig
config = AutoConfig.for_model('nat', embed_dim=8, num_heads=[1, 1, 1, 1])
assert type(AutoBackbone.from_config(config)).__module__ == 'hfseg.models.backbones.dinat'
"""


@pytest.mark.slow
def test_the_auto_classes_know_our_encoders_after_any_order_of_imports():
    run_alone(*(first + KNOWS_THEM for first in ORDERS))


@pytest.mark.slow
def test_the_auto_classes_know_our_encoders_where_torch_comes_with_transformers():
    done = subprocess.run([sys.executable, "-c", ORDERS[0] + KNOWS_THEM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_alone_imports_nothing_heavy():
    code = "import sys, hfseg; assert not {'torch', 'transformers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_follower_waits_for_the_outermost_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "outer_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "trigger.py").write_text("")
    (package / "outermost.py").write_text("import outer_package.trigger\nvalue = 1\n")
    (tmp_path / "follower_module.py").write_text("from outer_package.outermost import value\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    finders = list(sys.meta_path)
    after_import("outer_package.trigger", "follower_module")
    assert "follower_module" not in sys.modules
    import outer_package.outermost  # noqa: F401

    assert sys.modules["follower_module"].value == 1
    assert sys.meta_path == finders
