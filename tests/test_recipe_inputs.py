"""What is made of inputs is called so that nothing replaces anything else, and lies below the output."""

from pathlib import Path

import pytest
from PIL import Image

from hfseg.recipes.inputs import find_inputs


def drawn(*paths: str) -> None:
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)


@pytest.mark.parametrize(
    ("paths", "inputs", "names"),
    [
        (["a/1.png", "b/2.png"], ["a", "b"], ["1", "2"]),
        (["a/1.png", "b/1.png"], ["a", "b"], ["a/1_png", "b/1_png"]),
        (["a/images/1.png", "b/images/1.png"], ["a", "b"], ["a/images/1_png", "b/images/1_png"]),
        (["c/a/1.png", "c/b/1.png"], ["c/b/../a", "c/b"], ["a/1_png", "b/1_png"]),
        (["1.png", "1.jpg"], ["1.png", "1.jpg"], ["1_png", "1_jpg"]),
    ],
)
def test_equal_names_are_told_apart_by_their_folders(tmp_path, monkeypatch, paths, inputs, names):
    monkeypatch.chdir(tmp_path)
    drawn(*paths)
    assert [str(name) for name in find_inputs(tuple(inputs)).names().values()] == names
