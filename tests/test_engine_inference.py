"""Protocols against each other and against full canvases made with plain loops."""

import random
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from hfseg import logits as logits_module
from hfseg.config import Config
from hfseg.engine.inference import ProtocolConfig, SlideConfig, SquashConfig, WholeConfig, resize_pixels
from hfseg.engine.windows import window_starts
from hfseg.errors import ConfigError
from hfseg.models import Segmenter
from hfseg.models.pixels import Pixels
from hfseg.sizes import scaled_size
from hfseg.values import SegOutput

SIZE = (50, 61)
"""Labels' size: not the images', which are 40 x 56."""


class Strided(nn.Module):
    """Logits at a quarter of the size, from neighbourhoods of pixels, in float64."""

    def __init__(self, num_labels=5):
        super().__init__()
        self.conv = nn.Conv2d(3, num_labels, 7, 4, 3, dtype=torch.float64)

    def forward(self, pixel_values):
        scaled = pixel_values if pixel_values.is_floating_point() else pixel_values / 255
        return SegOutput(20 * self.conv(scaled.double()))


class Pointwise(nn.Module):
    """Logits of each pixel from that pixel alone, so that it does not matter which window it is seen in."""

    def forward(self, pixel_values):
        scaled = (pixel_values if pixel_values.is_floating_point() else pixel_values / 255).double()
        return SegOutput(torch.cat([scaled, scaled.flip(1).square()], 1))


def segformer():
    """SegFormer with random weights, and a classifier that makes its classes differ."""
    config = SegformerConfig(
        num_labels=6, depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2],
        sr_ratios=[2, 2, 1, 1], decoder_hidden_size=16,
    )  # fmt: skip
    found = Segmenter(SegformerForSemanticSegmentation(config), Pixels()).eval()
    found.hf.decode_head.classifier.weight.data.mul_(30)
    return found


MODELS = {"strided": Strided, "segformer": segformer}
VIEWS = [{}, {"scales": (0.5, 1.0, 1.75)}, {"flip": True}, {"scales": (0.75, 1.25), "flip": True}]


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]()


@pytest.fixture
def images():
    return torch.randint(0, 256, (2, 3, 40, 56), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def scores(protocol, model, images, size=SIZE):
    """Probabilities at `size`, the strips joined."""
    return torch.cat([part for _, part in protocol.views(model, images).probabilities(size)], 2)


def agree(protocol, other, model, images):
    """Whether two protocols give equal probabilities."""
    torch.testing.assert_close(scores(protocol, model, images), scores(other, model, images), rtol=0, atol=1e-5)


@torch.no_grad()
def oracle(model, pixels, protocol, size, seed):
    """Slide, scales and flip with full canvases in float64, as mmsegmentation has it, windows in any order."""
    (crop_h, crop_w), (step_h, step_w), total = protocol.crop, protocol.steps, 0
    for scale, mirrored in product(protocol.scales, (False, True)[: 1 + protocol.flip]):
        factor = scale * (protocol.short_side or 40) / 40
        h, w = round(40 * factor), round(56 * factor)
        x = F.interpolate(pixels, (h, w), mode="bilinear", antialias=True) if (h, w) != (40, 56) else pixels
        x = x.flip(-1) if mirrored else x
        rows, columns = (max(s - c + t - 1, 0) // t + 1 for s, c, t in ((h, crop_h, step_h), (w, crop_w, step_w)))
        canvas, count = 0, torch.zeros(h, w)
        for i, j in random.Random(seed).sample([*product(range(rows), range(columns))], rows * columns):
            bottom, right = min(i * step_h + crop_h, h), min(j * step_w + crop_w, w)
            top, left = max(bottom - crop_h, 0), max(right - crop_w, 0)
            said = model(x[:, :, top:bottom, left:right]).logits
            said = F.interpolate(said, (bottom - top, right - left), mode="bilinear") if rows * columns > 1 else said
            if rows * columns > 1:
                canvas = canvas + F.pad(said, (left, w - right, top, h - bottom))
                count[top:bottom, left:right] += 1
            else:
                canvas, count = said, torch.ones(())
        canvas = (canvas / count).flip(-1) if mirrored else canvas / count
        total = total + F.interpolate(canvas, size, mode="bilinear").softmax(1)
    return total / (len(protocol.scales) * (1 + protocol.flip))


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize(("crop", "stride"), [((16, 24), (10, 24)), ((24, 64), (24, 7)), ((100, 30), (1, 20))])
@pytest.mark.parametrize("short_side", [None, 32])
@pytest.mark.parametrize("seed", [0, 1])
def test_sliding_over_scales_and_mirror_images_equals_full_canvases(images, views, crop, stride, short_side, seed):
    protocol = SlideConfig(crop_size=crop, stride=stride, short_side=short_side, **views)
    model = Strided()
    pixels = images.double() / 255
    expected = oracle(model, pixels, protocol, SIZE, seed)
    torch.testing.assert_close(scores(protocol, model, pixels), expected, rtol=0, atol=1e-12)
    assert torch.equal(protocol.predict(model, pixels, SIZE), expected.argmax(1).int())


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("short_side", [None, 32])
def test_slide_equals_whole_when_the_window_covers_the_image(model, images, views, short_side):
    whole = WholeConfig(short_side=short_side, **views)
    slide = SlideConfig(short_side=short_side, crop_size=(70, 98), stride=20, **views)
    assert torch.equal(scores(slide, model, images), scores(whole, model, images))
    assert torch.equal(slide.predict(model, images, SIZE), whole.predict(model, images, SIZE))


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize(("crop", "stride"), [((16, 16), None), ((9, 30), (4, 29)), ((40, 20), (40, 20))])
def test_slide_equals_whole_when_a_pixel_needs_no_neighbours(images, views, crop, stride):
    slide = SlideConfig(crop_size=crop, stride=stride, **views)
    agree(slide, WholeConfig(**views), Pointwise(), images)


@pytest.mark.parametrize("window_batch", [1, 3, 100])
def test_windows_may_be_batched_in_any_way(model, images, window_batch):
    slide = SlideConfig(crop_size=24, stride=13)
    agree(slide.model_copy(update={"window_batch": window_batch}), slide, model, images)


@pytest.mark.parametrize("protocol", [WholeConfig(), SlideConfig(crop_size=24), SquashConfig(size=32, flip=True)])
def test_images_of_a_batch_do_not_see_each_other(model, images, protocol):
    alone = torch.cat([scores(protocol, model, image[None]) for image in images])
    torch.testing.assert_close(scores(protocol, model, images), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("protocol", [WholeConfig(flip=True), SlideConfig(crop_size=24, stride=16, flip=True)])
def test_the_prediction_of_a_mirror_image_is_the_mirrored_prediction(model, images, protocol):
    mirrored = scores(protocol, model, images.flip(-1)).flip(-1)
    torch.testing.assert_close(mirrored, scores(protocol, model, images), rtol=0, atol=1e-5)


def test_the_mirror_image_is_half_of_the_mean(model, images):
    plain, mirrored = scores(WholeConfig(), model, images), scores(WholeConfig(), model, images.flip(-1)).flip(-1)
    expected = (plain + mirrored) / 2
    torch.testing.assert_close(scores(WholeConfig(flip=True), model, images), expected, rtol=0, atol=1e-5)
    assert (plain - expected).abs().max() > 1e-3


@pytest.mark.many
@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("kind", [WholeConfig, SlideConfig, SquashConfig])
@pytest.mark.parametrize("size", [SIZE, (40, 56), (7, 200)])
def test_strips_equal_no_strips(images, views, kind, size, monkeypatch):
    model = Strided()
    protocol = kind(**views, **{SlideConfig: {"crop_size": 24}, SquashConfig: {"size": 32}}.get(kind, {}))
    monkeypatch.setattr(logits_module, "CACHED_ELEMENTS", 1 << 40)
    full, pred = scores(protocol, model, images, size), protocol.predict(model, images, size)
    for elements in (1, 5000):
        monkeypatch.setattr(logits_module, "CACHED_ELEMENTS", elements)
        torch.testing.assert_close(scores(protocol, model, images, size), full, rtol=0, atol=1e-6)
        assert torch.equal(protocol.predict(model, images, size), pred)
    assert len([*protocol.views(model, images).probabilities(size)]) > 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_single_view_is_the_argmax_of_the_resized_logits(model, images, dtype):
    pixels = images if dtype == torch.uint8 else images / 255
    with torch.no_grad():
        expected = F.interpolate(model(images).logits, SIZE, mode="bilinear").argmax(1).int()
    assert torch.equal(WholeConfig(scales=(1.0,), flip=False).predict(model, pixels, SIZE), expected)
    several = WholeConfig(scales=(1.0, 1.0))
    torch.testing.assert_close(scores(several, model, pixels), scores(WholeConfig(), model, pixels), rtol=0, atol=1e-6)


def test_squash_equals_resize_forward_resize(model, images):
    with torch.no_grad():
        squashed = F.interpolate(images / 255, (32, 24), mode="bilinear", antialias=True)
        expected = F.interpolate(model(squashed).logits, SIZE, mode="bilinear")
    protocol = SquashConfig(size=(32, 24))
    torch.testing.assert_close(scores(protocol, model, images), expected.softmax(1), rtol=0, atol=1e-5)
    assert torch.equal(protocol.predict(model, images, SIZE), expected.argmax(1).int())


@pytest.mark.parametrize("protocol", [WholeConfig(scales=(1.0, 2.0)), SlideConfig(crop_size=16), SquashConfig(size=9)])
def test_classes_are_those_of_the_largest_probabilities(images, protocol):
    model = Strided()
    found = scores(protocol, model, images)
    torch.testing.assert_close(found.sum(1), torch.ones(2, *SIZE, dtype=torch.float64))
    assert torch.equal(protocol.predict(model, images, SIZE), found.argmax(1).int())


@pytest.mark.parametrize(
    ("protocol", "seen"),
    [
        (WholeConfig(), True),
        (WholeConfig(short_side=32), True),
        (SquashConfig(size=32), True),
        (SlideConfig(crop_size=64), True),
        (SlideConfig(crop_size=24), False),
        (WholeConfig(flip=True), False),
        (WholeConfig(scales=(0.5, 1.0)), False),
    ],
)
def test_what_the_model_said_is_there_when_it_saw_the_whole_image_once(images, protocol, seen):
    model = Strided()
    output = protocol.views(model, images).output
    assert (output is not None) == seen
    if protocol == WholeConfig():
        assert torch.equal(output.logits, model(images).logits)


@pytest.mark.parametrize(
    ("length", "crop", "stride", "starts"),
    [
        (512, 512, 341, (0,)),
        (300, 512, 341, (0,)),
        (683, 512, 341, (0, 171)),
        (853, 512, 341, (0, 341)),
        (854, 512, 341, (0, 341, 342)),
        (10, 4, 4, (0, 4, 6)),
        (6, 4, 1, (0, 1, 2)),
    ],
)
def test_the_last_window_is_shifted_into_the_image(length, crop, stride, starts):
    assert window_starts(length, crop, stride) == starts


def test_every_pixel_is_in_a_window():
    for length, crop, stride in product(range(1, 30), range(1, 12), range(1, 12)):
        if stride <= crop:
            starts = window_starts(length, crop, stride)
            assert {p for s in starts for p in range(s, min(s + crop, length))} == set(range(length))
            assert len(set(starts)) == len(starts)


def photograph(height, width):
    """Smooth shapes with edges and some noise, as bytes."""
    y, x = np.mgrid[:height, :width]
    waves = 120 + 60 * np.sin(x / 9) * np.cos(y / 13) + 60 * ((x // 17 + y // 23) % 2)
    noise = np.random.default_rng(0).normal(0, 8, (height, width, 3))
    return (waves[..., None] + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(45, 60), (100, 133), (90, 121), (180, 260), (31, 200)])
def test_images_are_resized_on_the_device_as_pillow_does(size):
    image = photograph(90, 121)
    pillow = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    ours = resize_pixels(torch.from_numpy(image).permute(2, 0, 1)[None], size)
    levels = ours[0].permute(1, 2, 0).numpy() * (1 if ours.dtype == torch.uint8 else 255)
    assert np.abs(levels - pillow).max() <= 1.01
    assert np.abs(levels - pillow).mean() <= 0.4


@pytest.mark.parametrize("short_side", [None, 7, 64])
def test_the_device_resizes_to_the_size_that_a_loader_would(short_side):
    for height, width, scale in product((40, 61, 85), (56, 80, 113), (0.5, 1.0, 1.75)):
        protocol = WholeConfig(short_side=short_side, scales=(scale,))
        output = protocol.views(Pointwise(), torch.zeros(1, 3, height, width)).output
        assert output.logits.shape[-2:] == scaled_size((height, width), short_side=short_side, scale=scale)


def test_a_loader_resizes_only_where_each_image_is_seen_at_one_size():
    assert WholeConfig(short_side=512).loader_short_side == 512
    assert SlideConfig(short_side=512, flip=True).loader_short_side == 512
    assert WholeConfig(short_side=512, scales=(0.5, 1.0)).loader_short_side is None
    assert WholeConfig(short_side=512, scales=(0.5,)).loader_short_side is None
    assert WholeConfig().loader_short_side is None
    assert SquashConfig().loader_short_side is None


SIX = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@pytest.mark.parametrize(
    ("protocol", "text"),
    [
        (WholeConfig(short_side=512), "whole image, short side 512"),
        (WholeConfig(flip=True), "whole image, native size, flip"),
        (WholeConfig(scales=(0.5,)), "whole image, native size, scale 0.5"),
        (SquashConfig(size=(512, 1024)), "squashed to 512 x 1024"),
        (SlideConfig(), "slide 512 x 512, stride 341 x 341, native size"),
        (SlideConfig(crop_size=640, short_side=640), "slide 640 x 640, stride 426 x 426, short side 640"),
        (
            SlideConfig(short_side=512, scales=SIX, flip=True),
            "slide 512 x 512, stride 341 x 341, short side 512, scales 0.5 0.75 1 1.25 1.5 1.75, flip",
        ),
    ],
)
def test_a_protocol_is_named_in_a_few_words(protocol, text):
    assert protocol.to_text() == text


def test_protocols_of_other_scales_have_other_names():
    assert len({WholeConfig(scales=scales).to_text() for scales in ((0.5, 1.5), (0.5, 1.0, 1.5), (0.5, 0.9, 1.5))}) == 3
    assert WholeConfig(scales=(1.5, 0.5)).to_text() == WholeConfig(scales=(0.5, 1.5)).to_text()


class Holder(Config):
    protocol: ProtocolConfig = WholeConfig()


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["protocol.kind=slide", "protocol.stride=600"], "`stride` leaves gaps between windows: got 600 x 600"),
        (["protocol.scales=[]"], "at least 1 item"),
        (["protocol.scales=[0.5,0]"], "greater than 0"),
        (["protocol.scales=[.inf]"], "finite number"),
        (["protocol.kind=squash", "protocol.short_side=512"], "`protocol.short_side` is not a known key"),
        (["protocol.kind=slice"], "has no such kind"),
    ],
)
def test_a_protocol_that_cannot_be_is_an_error(sets, message):
    with pytest.raises(ConfigError, match=message):
        Holder.load(sets=sets)


def test_a_protocol_is_read_by_its_kind():
    found = Holder.load(sets=["protocol.kind=slide", "protocol.crop_size=[360, 480]", "protocol.scales=[0.5,1]"])
    assert found.protocol == SlideConfig(crop_size=(360, 480), scales=(0.5, 1.0))
    assert Holder.model_validate(found.model_dump(mode="json")) == found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("protocol", [WholeConfig(), SlideConfig(crop_size=24, scales=(0.5, 1.0), flip=True)])
def test_a_gpu_predicts_what_the_cpu_does(images, protocol):
    model = Strided()
    expected = protocol.predict(model, images, SIZE)
    assert torch.equal(protocol.predict(model.cuda(), images.cuda(), SIZE).cpu(), expected)


class FromFrame(nn.Module):
    """A model of clips that looks at one of their frames only."""

    def __init__(self, place):
        super().__init__()
        torch.manual_seed(0)
        self.place, self.image_model = place, Strided()

    def forward(self, pixel_values):
        assert pixel_values.dim() == 5
        return self.image_model(pixel_values[:, self.place])


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize(
    "protocol", [WholeConfig(short_side=24), SquashConfig(size=(30, 44)), SlideConfig(crop_size=24)]
)
@pytest.mark.parametrize("place", [0, -1])
def test_every_protocol_shows_all_frames_of_a_clip_as_it_shows_images(protocol, views, place):
    shown, model = protocol.model_copy(update=views), FromFrame(place)
    clips = torch.randint(256, (2, 3, 3, 40, 56), dtype=torch.uint8)
    found = shown.predict(model, clips, SIZE)
    assert torch.equal(found, shown.predict(model.image_model, clips[:, place], SIZE))
    assert not torch.equal(found, shown.predict(model.image_model, clips[:, 1], SIZE))
