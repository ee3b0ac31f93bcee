"""Clips: frames in from files and image sequences, H.264 out, and the threads in between; knows no model."""

from hfseg.video.clip import Clip, Frame, FramePredictor
from hfseg.video.cuts import CutDetector
from hfseg.video.images import ImageSequence
from hfseg.video.pipeline import read_ahead, write_behind
from hfseg.video.reader import VIDEO_SUFFIXES, VideoFile, require_av
from hfseg.video.writer import VideoWriter

__all__ = [
    "VIDEO_SUFFIXES",
    "Clip",
    "CutDetector",
    "Frame",
    "FramePredictor",
    "ImageSequence",
    "VideoFile",
    "VideoWriter",
    "read_ahead",
    "require_av",
    "write_behind",
]
