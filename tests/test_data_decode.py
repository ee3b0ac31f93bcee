import io

import numpy as np
import pytest
from PIL import Image

from hfseg.data.decode import count_values, mask_array, open_mask, open_picture, read_size
from hfseg.data.record import Record, count_labels, read_image_size, read_sample
from hfseg.errors import DataError
from hfseg.labels import LabelSpace

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
LARGE = np.kron(RGB, np.ones((20, 20, 1), np.uint8))
SPACE = LabelSpace.from_names(["a", "b", "c"])
ORIENTATION = 0x0112


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data):
    return np.asarray(open_picture(data, name="x").decode()[0])


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


IMAGES = {
    "rgb": (encoded(Image.fromarray(RGB)), RGB),
    "grey becomes three equal channels": (encoded(Image.fromarray(GREY)), np.repeat(GREY[..., None], 3, 2)),
    "one bit": (encoded(Image.fromarray(GREY > 99)), np.repeat(((GREY > 99) * 255)[..., None], 3, 2)),
    "alpha is dropped and colours stay": (encoded(Image.fromarray(np.dstack([RGB, GREY]))), RGB),
    "grey with alpha": (encoded(Image.fromarray(np.dstack([GREY, GREY]))), np.repeat(GREY[..., None], 3, 2)),
    "16 bit": (encoded(Image.fromarray(GREY.astype(np.uint16) * 257)), np.repeat(GREY[..., None], 3, 2)),
    "16 bit, rounded": (encoded(Image.fromarray(np.full((1, 1), 385, np.uint16))), np.full((1, 1, 3), 1)),
    "32-bit integers within 16 bits": (
        encoded(Image.fromarray(GREY.astype(np.int32) * 257), "TIFF"),
        np.repeat(GREY[..., None], 3, 2),
    ),
}


@pytest.mark.parametrize("case", IMAGES)
def test_images_of_every_mode_become_rgb(case):
    data, expected = IMAGES[case]
    assert np.array_equal(decoded(data), expected)


def test_a_palette_image_becomes_its_colours_with_and_without_transparency():
    image = Image.fromarray(GREY % 4)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    colors = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]])[GREY % 4]
    assert np.array_equal(decoded(encoded(image)), colors)
    assert np.array_equal(decoded(encoded(image, transparency=bytes([0, 128, 255, 255]))), colors)


def test_cmyk_becomes_rgb():
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(decoded(encoded(image, "JPEG", quality=100)).astype(int) - [255, 0, 0]).max() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_orientation_is_undone(orientation, kind):
    upright = Image.fromarray(np.kron(RGB, np.ones((8, 8, 1), np.uint8)))
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the turn that a camera held so has applied
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(turns[orientation]))
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = encoded(stored, kind, exif=exif(orientation), **options)
    assert read_size(io.BytesIO(data), name="x") == (48, 72)
    assert np.abs(decoded(data).astype(int) - np.asarray(upright)).mean() < 2


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(("shrink", "factor"), [(1.9, 1), (2.0, 2), (5.0, 4), (100.0, 8)])
def test_jpegs_to_be_shrunk_are_decoded_at_a_fraction(shrink, factor, orientation):
    smooth = Image.fromarray(RGB).resize((160, 96), Image.Resampling.BICUBIC)
    data = encoded(smooth, "JPEG", quality=95, exif=exif(orientation))
    image, found = open_picture(data, name="x").decode(shrink=shrink)
    assert found == factor
    whole = open_picture(data, name="x").decode()[0]
    small = np.asarray(whole.resize((whole.width // factor, whole.height // factor), Image.Resampling.BOX)).astype(int)
    assert np.abs(np.asarray(image) - small).mean() < 3


def test_a_turned_jpeg_with_broken_pixels_at_its_edge_is_decoded_whole():
    data = encoded(Image.fromarray(RGB).resize((61, 40)), "JPEG", exif=exif(3))
    assert open_picture(data, name="x").decode(shrink=2.0)[1] == 1


def test_png_is_never_decoded_at_a_fraction():
    assert open_picture(IMAGES["rgb"][0], name="x").decode(shrink=8.0)[1] == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "`a.jpg` is empty"),
        (b"hello", "`a.jpg` is not an image that can be read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "`a.jpg` is a Git LFS pointer"),
        (encoded(Image.fromarray(LARGE), "JPEG")[:600], "`a.jpg` is truncated"),
        (encoded(Image.fromarray(LARGE))[:-90], "`a.jpg` is truncated or broken"),
        (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "`a.jpg` holds floating-point values"),
        (encoded(Image.fromarray(GREY.astype(np.int32) * 70000), "TIFF"), "`a.jpg` has the value"),
    ],
)
def test_what_is_no_image_is_named(data, message):
    with pytest.raises(DataError, match=message):
        open_picture(data, name="a.jpg").decode()


def raw(data, colored=False):
    return mask_array(open_mask(data, name="m.png", colored=colored))


def test_masks_hold_indices_whatever_paints_them():
    ids = GREY % 4
    palette = Image.fromarray(ids)
    palette.putpalette(list(range(12)))
    grey_alpha = Image.fromarray(np.dstack([ids, GREY]))
    for image in (Image.fromarray(ids), palette, Image.fromarray(np.dstack([ids] * 3)), grey_alpha):
        assert np.array_equal(raw(encoded(image)), ids)
    assert np.array_equal(raw(encoded(palette, bits=2)), ids)
    assert np.array_equal(raw(encoded(Image.fromarray(ids.astype(np.uint16) * 300))), ids.astype(int) * 300)
    assert np.array_equal(raw(encoded(Image.fromarray(ids.astype(np.int32) * 70000), "TIFF")), ids.astype(int) * 70000)
    assert np.array_equal(raw(encoded(Image.fromarray(ids > 1))), ids > 1)


def test_a_painted_mask_keeps_its_colours_and_loses_its_alpha():
    assert np.array_equal(raw(encoded(Image.fromarray(RGB)), colored=True), RGB)
    assert np.array_equal(raw(encoded(Image.fromarray(np.dstack([RGB, GREY]))), colored=True), RGB)


def test_a_mask_is_turned_only_by_its_own_tag():
    ids = Image.fromarray(GREY % 3)
    assert raw(encoded(ids, exif=exif(6))).shape == (9, 6)
    assert raw(encoded(ids)).shape == (6, 9)


def test_lossy_and_odd_masks_are_refused():
    with pytest.raises(DataError, match=r"mask `m.png` is a JPEG: expected a lossless format") as caught:
        raw(encoded(Image.fromarray(GREY), "JPEG"))
    assert "threshold" in caught.value.hint
    with pytest.raises(DataError, match=r"mask `m.png` has the mode CMYK"):
        raw(encoded(Image.new("CMYK", (4, 4)), "TIFF"))


def record(image, mask, **names):
    return Record({"bytes": image, "path": "i.png"}, {"bytes": mask, "path": "m.png"}, "i")


def test_a_sample_can_be_written_to_and_counted():
    sample = read_sample(record(IMAGES["rgb"][0], encoded(Image.fromarray(GREY % 3))), SPACE)
    assert sample.image.flags.writeable
    assert sample.labels.flags.writeable
    assert np.array_equal(sample.labels, GREY % 3)
    size, counts = count_labels(record(IMAGES["rgb"][0], encoded(Image.fromarray(GREY % 3))), SPACE)
    assert (size, counts) == ((6, 9), {i: int((i == GREY % 3).sum()) for i in range(3)})
    assert read_image_size(record(IMAGES["rgb"][0], b"")) == (6, 9)
    assert count_values(Image.fromarray(GREY % 3)) == counts


def test_a_mask_of_another_size_is_named_with_both_sizes():
    with pytest.raises(DataError, match=r"`i.png` is 9 x 6, `m.png` is 6 x 9") as caught:
        read_sample(record(IMAGES["rgb"][0], encoded(Image.fromarray((GREY % 3).T.copy()))), SPACE)
    assert "EXIF orientation" in caught.value.hint
    with pytest.raises(DataError, match=r"`i.png` is 9 x 6, `m.png` is 9 x 5"):
        read_sample(record(IMAGES["rgb"][0], encoded(Image.fromarray(GREY[:5] % 3))), SPACE)


@pytest.mark.parametrize("read", [read_sample, count_labels])
def test_an_unknown_value_is_named_with_its_count(read):
    ids = GREY % 3
    ids[0, :4] = 77
    with pytest.raises(DataError, match=r"`m.png`: mask has the value 77 in 4 pixels: expected 0 to 2, 255"):
        read(record(IMAGES["rgb"][0], encoded(Image.fromarray(ids))), SPACE)
    ids[ids == 77] = 3
    with pytest.raises(DataError, match="value 3 in 4") as caught:
        read(record(IMAGES["rgb"][0], encoded(Image.fromarray(ids))), SPACE)
    assert "data.first_value=1" in caught.value.hint


def test_colours_without_a_table_and_indices_with_one_are_refused():
    with pytest.raises(DataError, match=r"`m.png`: mask is an RGB image"):
        read_sample(record(IMAGES["rgb"][0], encoded(Image.fromarray(RGB))), SPACE)
    painted = LabelSpace(("a",), ((9, 9, 9),), {0: 0}, colors={(9, 9, 9): 0})
    with pytest.raises(DataError, match=r"`m.png` holds index values"):
        read_sample(record(IMAGES["rgb"][0], encoded(Image.fromarray(GREY))), painted)


def test_a_missing_file_is_named(tmp_path):
    gone = Record({"path": str(tmp_path / "gone.png")}, {"path": "m.png"}, "gone")
    with pytest.raises(DataError, match=r"gone.png` cannot be read: No such file"):
        read_sample(gone, SPACE)
    with pytest.raises(DataError, match=r"`image of x` is empty"):
        read_sample(Record({"path": None, "bytes": None}, {}, "x"), SPACE)


def test_labels_below_zero_stand_for_ignored_pixels_too():
    space = LabelSpace.from_names(["a", "b"], ignored=(2,), ignore_index=-1)
    sample = read_sample(record(IMAGES["rgb"][0], encoded(Image.fromarray(GREY % 3))), space)
    assert np.array_equal(sample.labels, np.where(GREY % 3 == 2, -1, (GREY % 3).astype(int)))
