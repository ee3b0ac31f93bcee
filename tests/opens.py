"""Run as a program: opens a model folder in a pipeline of plain Transformers, and looks at what it finds in an image."""

import sys

from transformers import pipeline

import hfseg

assert hfseg.__version__
found = pipeline("image-segmentation", sys.argv[1])(sys.argv[2])
assert {each["label"] for each in found} <= {"background", "coin"}
assert found[0]["mask"].size == (77, 50)
