"""hfseg: from images and masks to a fine-tuned, measured, explained segmentation model on Hugging Face Transformers.

After `import hfseg`, the Auto classes of Transformers know the encoders and decoders of this package, so that whatever
it saved opens in plain Transformers. Neither torch nor Transformers is imported before somebody needs them.
"""

from hfseg.on_import import after_import

__version__ = "0.1.0"

after_import("transformers.models.auto.configuration_auto", "hfseg.models")
