"""hfseg: from images and masks to a fine-tuned, measured, explained segmentation model on Hugging Face Transformers."""

__version__ = "0.1.0"
