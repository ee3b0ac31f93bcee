"""Small made folders in the layouts of the published data sets, for the tests of several of them."""

import shutil
from itertools import chain

import numpy as np
from PIL import Image

from hfseg.labels import default_palette

PARTS = ("train", "validation", "test")


def write(path, values):
    """Write a mask of these values or colours, six rows of each, or a grey image of the same size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if values is None:
        Image.new("RGB", (4, 6), (9, 9, 9)).save(path)
        return
    columns = np.resize(np.asarray(values, np.uint8), (4, 3) if isinstance(values[0], tuple) else (4,))
    Image.fromarray(np.repeat(columns[None], 6, axis=0)).save(path)


def zip_up(folder, archive):
    shutil.make_archive(str(archive.with_suffix("")), "zip", folder.parent, folder.name)
    shutil.rmtree(folder)


def ids(dataset):
    return [dataset[index].id for index in range(len(dataset))]


def write_pairs(images_dir, masks_dir, stems, *, values=(0, 1, 2), ending="", size=(6, 8), painted=False):
    """Write images, and masks in which each of `values` occurs."""
    images_dir.mkdir(parents=True, exist_ok=True)
    masks_dir.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        Image.new("RGB", size[::-1], (9, 9, 9)).save(images_dir / f"{stem}.jpg")
        mask = np.resize(np.asarray(values, np.uint8), (*size, 3) if painted else size)
        Image.fromarray(mask).save(masks_dir / f"{stem}{ending}.png")


def stems(prefix, count=4):
    return [f"{prefix}{number}" for number in range(count)]


CITY_FRAMES = {
    "train": [f"aachen_{n:06d}_000019" for n in range(4)] + [f"bochum_000000_{n:06d}" for n in (313, 600)],
    "val": ["frankfurt_000000_000294", "munster_000001_000019"],
    "test": ["berlin_000000_000019"],
}


def made_cityscapes(root, *, zips=(), ending="labelIds"):
    for part, frames in CITY_FRAMES.items():
        for frame in frames:
            city = frame.split("_")[0]
            write(root / "leftImg8bit" / part / city / f"{frame}_leftImg8bit.png", None)
            for kind, values in ((ending, (7, 26, 0, 29)), ("instanceIds", (7,)), ("color", (9,))):
                write(root / "gtFine" / part / city / f"{frame}_gtFine_{kind}.png", values)
    for kind in zips:
        zip_up(root / kind, root / f"{kind}_trainvaltest.zip")
    return root


CAM_FRAMES = {
    "train": ["0001TP_006690", "0006R0_f00930", "0016E5_08190"],
    "val": ["0016E5_07959", "0016E5_08159"],
    "test": ["0001TP_008550", "Seq05VD_f00000"],
}
CAM_COLORS = [(128, 128, 128), (192, 0, 128), (0, 0, 0), (0, 128, 192)]  # Sky, Archway, Void, Bicyclist


def made_camvid(root, images, masks, *, values=(0, 1, 11, 10)):
    for part, frames in CAM_FRAMES.items():
        for frame in frames:
            write(root / images.format(part) / f"{frame}.png", None)
            write(root / masks.format(part) / f"{frame}.png", values)
    return root


def painted_camvid(root, *, zipped=False):
    for frame in chain(*CAM_FRAMES.values()):
        write(root / "701_StillsRaw_full" / f"{frame}.png", None)
        write(root / "LabeledApproved_full" / f"{frame}_L.png", CAM_COLORS)
    if zipped:
        zip_up(root / "701_StillsRaw_full", root / "701_StillsRaw_full.zip")
        shutil.make_archive(str(root / "LabeledApproved_full"), "zip", root / "LabeledApproved_full")
        shutil.rmtree(root / "LabeledApproved_full")
    return root


def made_voc(root, *, augmented=False):
    base = root / "VOCdevkit" / "VOC2012"
    parts = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"], "trainaug": ["2008_000008"]}
    for stem in chain(*parts.values()):
        write(base / "JPEGImages" / f"{stem}.jpg", None)
        write(base / "SegmentationClassAug" / f"{stem}.png", (0, 15, 20, 255))
    (base / "ImageSets" / "Segmentation").mkdir(parents=True)
    lines = {part: "".join(f"{stem}\n" for stem in stems) for part, stems in parts.items()}
    lines["trainaug"] = "".join(
        f"/JPEGImages/{stem}.jpg /SegmentationClassAug/{stem}.png\n" for stem in (*parts["train"], *parts["trainaug"])
    )
    for part, text in lines.items():
        (base / "ImageSets" / "Segmentation" / f"{part}.txt").write_text(text)
    (base / "SegmentationClass").mkdir()
    for stem in (*parts["train"], *parts["val"]):
        mask = Image.open(base / "SegmentationClassAug" / f"{stem}.png").convert("P")
        mask.putpalette(list(chain(*default_palette(["background"] * 256))))
        mask.save(base / "SegmentationClass" / f"{stem}.png")
    if not augmented:
        shutil.rmtree(base / "SegmentationClassAug")
    return base


def made_coco(root, images="images", maps="annotations"):
    for part, count in (("train2017", 3), ("val2017", 2)):
        for number in range(count):
            write(root / images / part / f"{number:012d}.jpg", None)
            write(root / maps / part / f"{number:012d}.png", (0, 91, 181, 255))
            write(root / maps / part / f"{number:012d}_labelTrainIds.png", (0,))
    return root
