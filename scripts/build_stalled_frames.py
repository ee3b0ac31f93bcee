"""Give every labelled frame of a video of moving things a twin in which nothing moves.

    python scripts/build_stalled_frames.py highway highway-stalled --moving moving_vehicle --static static

Where everything that looks like a vehicle moves, one frame is enough to find what moves. A twin is the same frame as a
sequence of its own: it is its whole past, so whatever it shows stands still, and its mask says so. Which of the two is
seen cannot be told from the frame, only from the frames before it. Parts are those of the video; a twin is in the part
of its frame.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from hfseg.data import FramesConfig, TableDataset
from hfseg.labels import LabelSpace

LISTS = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}
WHOLE = "whole"
"""The folder of the video's own frames."""


def build(source: Path, target: Path, *, moving: str, static: str) -> dict[str, int]:
    """Write the video, its twins, and lists of the parts; give the number of labelled frames in each part.

    Raises:
        FileExistsError: the target is there.
        HfsegError: the source is no folder of frames.
    """
    data = FramesConfig(data_dir=source)
    labels = data.labels()
    target.mkdir(parents=True)
    shutil.copytree(source / "images", target / "images" / WHOLE)
    counts = {}
    for part, name in LISTS.items():
        dataset = data.open(part)  # type: ignore[arg-type]
        names = [entry for row in range(len(dataset)) for entry in _write(dataset, row, target, labels, moving, static)]
        (target / name).write_text("\n".join(sorted(names)) + "\n", encoding="utf-8")
        counts[part] = len(names)
    info = {"names": list(labels.names), "palette": [list(color) for color in labels.palette]}
    (target / "info.json").write_text(json.dumps(info, indent=1), encoding="utf-8")
    return counts


def _write(
    dataset: TableDataset, row: int, target: Path, labels: LabelSpace, moving: str, static: str
) -> tuple[str, str]:
    """Write the mask of a frame, and its twin; give the names of both."""
    sample = dataset[row]
    stalled = np.where(sample.labels == labels.names.index(moving), labels.names.index(static), sample.labels)
    frame = sample.id.rpartition("_")[2]
    own, twin = f"{WHOLE}/{frame}", f"stalled-{frame}/1"
    for name, mask in ((own, sample.labels), (twin, stalled)):
        path = target / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8)).save(path)
    image = next((target / "images" / WHOLE).glob(f"{frame}.*"))
    path = target / "images" / f"{twin}{image.suffix}"
    path.parent.mkdir(parents=True)
    shutil.copy2(image, path)
    return own, twin


def main() -> None:
    """Build the folder and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="`images` and `masks` of one sequence, as the data set `frames`")
    parser.add_argument("target", type=Path)
    parser.add_argument("--moving", required=True, help="class that a twin has none of")
    parser.add_argument("--static", required=True, help="class that it has instead")
    arguments = parser.parse_args()
    print(build(arguments.source, arguments.target, moving=arguments.moving, static=arguments.static))


if __name__ == "__main__":
    main()
