"""Checks of explanations: faithful maps fall first, weights matter, receptive fields are as wide as they must be."""

import math

import pytest
import torch
from test_models_backbones import NAT
from test_models_segmenter import LABELS
from torch import Tensor, nn

from hfseg.explain import (
    PredictedPixels,
    area,
    find_layer,
    measure_faithfulness,
    observing,
    randomization_check,
    receptive_field,
)
from hfseg.explain.faithfulness import filling
from hfseg.explain.receptive import ReceptiveField
from hfseg.explain.sanity import randomize, spearman, ssim
from hfseg.models import UperNetModelConfig
from hfseg.values import SegOutput


class Blobs(nn.Module):
    """A small segmentation model: strided convolutions, and logits at a quarter of the image's size."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(
                nn.Conv2d(3, 16, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.ReLU(),
            ),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
        )
        self.head = nn.Conv2d(32, 2, 1)

    def forward(self, pixel_values: Tensor) -> SegOutput:
        return SegOutput(self.head(self.body(pixel_values)))


def scene(seed: int) -> tuple[Tensor, Tensor]:
    """A grey, noisy image with a striped square, and the cells of the square."""
    generator = torch.Generator().manual_seed(seed)
    image = 0.5 + 0.1 * torch.randn(3, 64, 64, generator=generator)
    top, left = torch.randint(0, 9, (2,), generator=generator).tolist()
    cells = torch.zeros(16, 16, dtype=torch.long)
    cells[top : top + 7, left : left + 7] = 1
    stripes = 0.5 + 0.4 * torch.sin(torch.arange(64) * math.pi / 2)
    pixels = cells.repeat_interleave(4, 0).repeat_interleave(4, 1).bool()
    return torch.where(pixels, stripes.expand(3, 64, 64), image).clamp(0, 1), cells


@pytest.fixture(scope="module")
def trained() -> Blobs:
    torch.manual_seed(0)
    model = Blobs()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(60):
        scenes = [scene(8 * step + number) for number in range(8)]
        images, labels = torch.stack([image for image, _ in scenes]), torch.stack([cells for _, cells in scenes])
        loss = nn.functional.cross_entropy(model(images).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2
    return model.eval()


def explained(model: Blobs, image: Tensor, method: str = "gradcam") -> tuple[Tensor, Tensor]:
    layer = find_layer(model, "body", image[None])
    with observing(model, layer, image[None]) as seen:
        region = PredictedPixels().mask(seen.logits, 1)
        return seen.explain(1, region, method), region


@pytest.mark.many
@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "layercam", "hirescam"])
def test_removing_what_a_map_highlights_lowers_the_class_faster_than_random_pixels(trained: Blobs, method: str):
    image, cells = scene(10_000)
    heat, region = explained(trained, image, method)
    inside = cells.bool()
    assert heat[inside].mean() > heat[~inside].mean()
    found = measure_faithfulness(trained, image[None], heat, region, 1, steps=8, fill="blur")
    deletion, insertion = found.deletion, found.insertion
    assert deletion.map[0] == insertion.map[-1] == deletion.random[2][0] == insertion.moved[1][-1] > 0.9
    assert deletion.map[-1] == insertion.map[0] == deletion.moved[0][-1] < 0.5
    facts = found.to_json()
    assert facts["beats"]["deletion"] == {"random": True, "moved": True}
    assert facts["beats"]["insertion"]["moved"]
    assert facts["deletion"]["area"] < min(facts["deletion"]["random_areas"]) - 0.1


def test_a_map_that_points_elsewhere_is_not_called_faithful(trained: Blobs):
    image, _ = scene(10_000)
    heat, region = explained(trained, image)
    found = measure_faithfulness(trained, image[None], -heat, region, 1, steps=8, fill="mean")
    facts = found.to_json()
    assert facts["beats"]["deletion"] == {"random": False, "moved": False}
    assert facts["deletion"]["area"] > max(facts["deletion"]["random_areas"])


def test_filling_keeps_what_it_is_named_after():
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(filling(image, "mean").mean((2, 3)), image.mean((2, 3)))
    blurred = filling(image, "blur")
    assert blurred.shape == image.shape
    assert blurred.std() < 0.1 * image.std()


def test_the_area_of_a_curve_is_its_mean_height():
    assert area((0.0, 0.5, 1.0), (1.0, 1.0, 0.0)) == 0.75


def test_maps_change_as_weights_are_drawn_anew_and_the_model_is_put_back(trained: Blobs):
    image, _ = scene(10_000)
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    layer = find_layer(trained, "body", image[None])
    _, region = explained(trained, image)

    def explain() -> Tensor:
        with observing(trained, layer, image[None]) as seen:
            return seen.explain(1, region, "gradcam")

    steps = randomization_check(trained, ["head", "body.4", "body.2", "body.0"], explain)
    assert [step.module for step in steps] == ["head", "body.4", "body.2", "body.0"]
    assert all(abs(step.spearman) < 0.9 for step in steps[1:])
    assert steps[-1].ssim < 0.9
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    (same,) = randomization_check(trained, ["body.1"], explain)
    assert same.spearman == pytest.approx(1)
    assert same.ssim == pytest.approx(1)


def test_weights_that_are_drawn_anew_keep_their_mean_and_deviation():
    layer = nn.Linear(200, 200)
    old = layer.weight.detach().clone()
    randomize(layer, torch.Generator().manual_seed(0))
    new = layer.weight.detach()
    assert float(new.mean()) == pytest.approx(float(old.mean()), abs=1e-3)
    assert float(new.std()) == pytest.approx(float(old.std()), rel=0.02)
    assert abs(float(torch.corrcoef(torch.stack([new.flatten(), old.flatten()]))[0, 1])) < 0.02


def test_rank_correlation_is_that_of_scipy_with_ties():
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(3)
    one, other = torch.randint(0, 6, (2, 9, 7), generator=generator).double()
    assert spearman(one, other) == pytest.approx(stats.spearmanr(one.flatten(), other.flatten()).statistic, abs=1e-12)
    assert spearman(one, torch.zeros_like(one)) == 0.0


def naive_ssim(one: Tensor, other: Tensor) -> float:
    """Wang et al. 2004, one window at a time."""
    bell = [math.exp(-((place - 5) ** 2) / (2 * 1.5**2)) for place in range(11)]
    weights = torch.tensor([[a * b for a in bell] for b in bell], dtype=torch.float64) / sum(bell) ** 2
    values = []
    for row in range(one.shape[0] - 10):
        for column in range(one.shape[1] - 10):
            x, y = (each[row : row + 11, column : column + 11] for each in (one, other))
            mx, my = (weights * x).sum(), (weights * y).sum()
            vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
            cov = (weights * (x - mx) * (y - my)).sum()
            values.append(
                (2 * mx * my + 0.01**2) * (2 * cov + 0.03**2) / ((mx**2 + my**2 + 0.01**2) * (vx + vy + 0.03**2))
            )
    return float(torch.stack(values).mean())


def test_structural_similarity_is_that_of_its_paper():
    one, other = torch.rand(2, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    mixed = 0.7 * one + 0.3 * other
    assert ssim(one, mixed) == pytest.approx(naive_ssim(one, mixed), abs=1e-9)
    assert ssim(one, one) == pytest.approx(1)


class Stack(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(3 if number == 0 else 8, 8, 3, padding=1) for number in range(depth)]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixel_values: Tensor) -> SegOutput:
        return SegOutput(self.layers(pixel_values))


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_the_field_of_a_stack_of_convolutions_lies_inside_its_theoretical_one_and_is_narrower(depth: int):
    torch.manual_seed(0)
    model = Stack(depth)
    images = [torch.rand(1, 3, 31, 31) for _ in range(2)]
    field = receptive_field(model, find_layer(model, "layers", images[0]), images)
    inside = torch.zeros(31, 31, dtype=torch.bool)
    inside[15 - depth : 16 + depth, 15 - depth : 16 + depth] = True
    assert field.influence[inside].sum() == pytest.approx(1)
    assert (field.influence[~inside] == 0).all()
    assert (field.influence[inside] > 0).all()
    assert field.radius(1.0) <= depth + 1
    assert field.radius(0.5) <= field.radius(0.95) <= depth + 1
    if depth == 6:
        assert field.radius(0.95) < depth


def test_the_radius_is_half_the_side_of_the_square_that_holds_the_share():
    influence = torch.zeros(11, 11)
    influence[5, 5], influence[3:8, 3:8] = 0.0, 0.5 / 24
    influence[5, 5] = 0.5
    field = ReceptiveField(influence)
    assert field.centre == pytest.approx((5.5, 5.5))
    assert field.radius(0.4) == 0.5
    assert field.radius(0.95) == 2.5


def test_dilated_neighbourhoods_reach_further_than_plain_ones_of_the_same_size():
    torch.manual_seed(0)
    images = [torch.rand(1, 3, 96, 96)]
    radii = {}
    for family, others in (("nat", {}), ("dinat", {"dilations": [[8], [1], [1], [1]]})):
        config = UperNetModelConfig(
            backbone=family, pretrained="none", overrides={**NAT, **others}, hidden_size=16, auxiliary_channels=8
        )
        model = config.build(LABELS).eval()
        with torch.no_grad():  # at their first values, attention adds next to nothing to what it stands beside
            for name, parameter in model.named_parameters():
                parameter.mul_(10 if "levels" in name and parameter.ndim == 2 else 1)
        layer = find_layer(model, "hf.backbone.encoder.levels.0", images[0])
        radii[family] = receptive_field(model, layer, images).radius(0.95)
    assert radii["dinat"] > 2 * radii["nat"]


class Centred(nn.Module):
    """What layer norms begin with, at each place: the channels add up to nothing afterwards."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps - maps.mean(1, keepdim=True)


def test_a_norm_over_the_channels_does_not_hide_what_a_unit_sees():
    torch.manual_seed(0)
    model = Stack(2)
    model.layers.append(Centred())
    images = [torch.rand(1, 3, 31, 31)]
    field = receptive_field(model, find_layer(model, "layers", images[0]), images)
    assert (field.influence > 1e-5).sum() == 25


def test_a_receptive_field_needs_images():
    model = Stack(1)
    with pytest.raises(ValueError, match="averaged over images: got none"):
        receptive_field(model, find_layer(model, "layers", torch.rand(1, 3, 8, 8)), [])
