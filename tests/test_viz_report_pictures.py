"""Pictures inside the page: as small as they must be, and taken apart where they were put together."""

import base64
import io

import numpy as np
import pytest
from made_run import SPACE
from PIL import Image

from hfseg.viz import side_by_side, worst_heading, worst_picture
from hfseg.viz.pictures import embed


def test_pictures_share_the_room_there_is(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{index}-side.jpg" for index in range(3)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (400, 1200, 3), dtype=np.uint8)).save(path, quality=95)
    samples, unreadable = embed(paths, max_bytes=300_000)
    assert unreadable == []
    assert [sample.name for sample in samples] == ["0", "1", "2"]
    pictures = [picture for sample in samples for picture in sample.panels]
    assert sum(len(picture.uri) for picture in pictures) <= 300_000
    assert all(picture.width / picture.height == pytest.approx(3, rel=0.02) for picture in pictures)


def test_a_picture_of_panels_comes_apart_where_they_were_put_together(tmp_path):
    image, ids = np.full((40, 60, 3), 200, dtype=np.uint8), np.zeros((40, 60), dtype=np.uint8)
    ids[:, 30:] = 3
    side_by_side(image, ids, 0 * ids, SPACE).save(tmp_path / "a-side.jpg", quality=95)
    (sample,), _ = embed([tmp_path / "a-side.jpg"], max_bytes=10**6)
    assert [panel.name for panel in sample.panels] == ["image", "labels", "prediction", "error"]
    assert sample.found == ["error 50.0 %"]
    assert [entry.text for entry in sample.legend][:2] == ["sky  50.0 / 100.0 %", "train  50.0 / 0.0 %"]
    shown = decoded(sample.panels[2])
    assert shown.shape[:2] == (200, 300)
    np.testing.assert_allclose(shown[100, [50, 250]], [SPACE.palette[0], SPACE.palette[3]], atol=12)


def test_the_worst_images_come_apart_below_their_headings(tmp_path):
    image, ids = np.full((40, 60, 3), 200, dtype=np.uint8), np.zeros((40, 60), dtype=np.uint8)
    heading = worst_heading("a", 0.25, rank=1, num_images=9, protocol="whole")
    worst_picture(image, ids, ids, SPACE, heading=heading).save(tmp_path / "01-a.jpg", quality=95)
    (sample,), _ = embed([tmp_path / "01-a.jpg"], max_bytes=10**6)
    assert sample.lines == heading
    inside = decoded(sample.panels[2])[16:-16, 16:-16]  # JPEG mixes colours of neighbours
    np.testing.assert_allclose(inside, np.broadcast_to(SPACE.palette[0], inside.shape), atol=3)


@pytest.mark.parametrize(
    "comment", [b"made by hand", b'{"panels": [{"name": "a", "caption": "a", "box": [0, 0, 99, 9]}]}', b"[]"]
)
def test_a_picture_with_another_comment_is_shown_as_it_is(tmp_path, comment):
    Image.new("RGB", (60, 40)).save(tmp_path / "a-side.jpg", comment=comment)
    (sample,), unreadable = embed([tmp_path / "a-side.jpg"], max_bytes=10**6)
    assert ([panel.name for panel in sample.panels], unreadable) == (["a"], [])


def decoded(picture):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))))
