"""TMANet: its head against the original, clips and images, every block, encoders, weights, folders and settings."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_members import MEMBERS, randomize
from huggingface_hub.errors import StrictDataclassFieldValidationError
from test_attention_blocks_reference import SCENES, load, our_name
from test_models_backbones import TINY
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSemanticSegmentation, ResNetConfig, SwinConfig

from hfseg.cli.flags import FLAG_NAMES, training_flags
from hfseg.cli.options import DataOptions, RunOptions, TrainingOptions
from hfseg.errors import ConfigError, ModelError
from hfseg.labels import LabelSpace
from hfseg.models import (
    CheckpointModelConfig,
    FusionModelConfig,
    Segmenter,
    TmanetModelConfig,
    freeze,
    open_model,
    parameter_table,
    save_model,
)
from hfseg.models.attention import Features
from hfseg.models.backbones.plan import plan
from hfseg.models.tmanet import MemoryHead, TmanetConfig, TmanetForSemanticSegmentation
from hfseg.recipes.run import FinetuneConfig

LABELS = LabelSpace.from_names(["road", "car", "sky"])
SIZE = (64, 96)
APNB = {"kind": "apnb", "channels": 16, "key_channels": 4, "value_channels": 8}
NONLOCAL = {"kind": "nonlocal", "channels": 16, "key_channels": 4, "value_channels": 8}
SLOTS = "nonlocal, slots"


def tiny(backbone: str = "resnet", **others: Any) -> TmanetModelConfig:
    options = {"backbone": backbone, "pretrained": "none", "overrides": TINY[backbone], "auxiliary_channels": 8}
    return TmanetModelConfig(**{**options, "attention": APNB, "memory_frames": 2, **others})


def clips(frames: int, count: int = 2) -> Tensor:
    shape = (count, frames, 3, *SIZE)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def of_member(name: str) -> Segmenter:
    """A model around a block whose gates are open."""
    torch.manual_seed(0)
    model = tiny(attention=MEMBERS[name], memory_frames=5 if name == SLOTS else 2).build(LABELS)
    randomize(model.hf.decode_head.block)
    return model


def test_the_head_gives_what_the_original_gave():
    original = SCENES["tma_head"]
    for case in ("t2", "t4"):
        reference = load("tma_head", case)
        inputs, expected = reference.group("input"), reference.tensors["output"]
        settings = reference.settings
        widths = {key: settings[key] for key in ("key_channels", "value_channels", "channels")}
        config = TmanetConfig(
            attention={"kind": "nonlocal", **widths, "slots": settings["t"]}, num_labels=settings["num_classes"]
        )
        head = MemoryHead(config, [1, inputs["query"].shape[1]]).double().eval()
        weights = {our_name(original, name): each.double() for name, each in reference.group("weight").items()}
        absent = head.load_state_dict(weights, strict=False)
        assert not absent.unexpected_keys
        assert all(name.endswith("num_batches_tracked") for name in absent.missing_keys)
        logits = head(Features(inputs["query"].double()), Features(inputs["memory"].double()))
        torch.testing.assert_close(logits, expected.double(), rtol=0, atol=1e-10)


def test_the_original_head_has_the_published_number_of_parameters():
    for frames, classes, millions in ((2, 19, 6.22), (4, 12, 8.78)):
        config = TmanetConfig(attention={"kind": "nonlocal", "slots": frames}, num_labels=classes)
        count = sum(each.numel() for each in MemoryHead(config, [1024, 2048]).parameters())
        assert round(count / 1e6, 2) == millions


def test_logits_are_at_the_encoders_stride_and_auxiliary_ones_come_in_training_only():
    model = tiny().build(LABELS)
    logits, aux_logits = model(clips(3))
    assert logits.shape == (2, 3, SIZE[0] // 8, SIZE[1] // 8)
    assert aux_logits is not None
    assert aux_logits.shape == logits.shape
    model.eval()
    assert model(clips(3)).aux_logits is None
    assert tiny(auxiliary=False, auxiliary_channels=None).build(LABELS)(clips(3)).aux_logits is None


def test_auxiliary_logits_are_of_stage_three_of_the_current_frame():
    model = tiny().build(LABELS)
    model.hf.eval()  # the Segmenter itself stays in training, and asks for them
    frames = clips(3)
    head = model.hf.auxiliary_head
    stage = model.hf.backbone(model.normalize(frames[:, -1])).feature_maps[2]
    expected = head.classifier(F.relu(head.convolution[1](head.convolution[0](stage))))
    torch.testing.assert_close(model(frames).aux_logits, expected)


@pytest.mark.parametrize("name", MEMBERS)
def test_gradients_reach_every_parameter_and_the_frames_in_memory(name: str):
    model = of_member(name)
    frames = (clips(model.memory_frames + 1) / 255).requires_grad_()
    logits, aux_logits = model(frames)
    (logits.square().mean() + aux_logits.square().mean()).backward()
    lacking = [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]
    assert not lacking
    assert not [name for name, each in model.hf.decode_head.named_parameters() if not each.requires_grad]
    felt = frames.grad.abs().amax((0, 2, 3, 4)) > 0
    assert felt.tolist() == [model.hf.decode_head.block.reads_memory] * (len(felt) - 1) + [True]


@pytest.mark.many
@pytest.mark.parametrize("name", MEMBERS)
def test_an_image_is_a_clip_of_one_frame(name: str):
    model = of_member(name).eval()
    frames = clips(1)
    assert torch.equal(model(frames).logits, model(frames[:, 0]).logits)


def test_memory_has_any_length_but_with_slots_no_more_than_there_are():
    model = tiny(attention=NONLOCAL).build(LABELS).eval()
    assert {model(clips(frames)).logits.shape for frames in (1, 2, 6)} == {(2, 3, 8, 12)}
    slotted = tiny(attention={**NONLOCAL, "slots": 2}).build(LABELS).eval()
    assert slotted(clips(2)).logits.shape == (2, 3, 8, 12)
    with pytest.raises(ModelError, match="weights for 2 frames before the current one, one set for each: got 3"):
        slotted(clips(4))
    with pytest.raises(ValueError, match="3 frames for 2 memory slots"):
        slotted.hf(slotted.normalize(clips(4)))
    with_current = tiny(attention={**NONLOCAL, "slots": 3, "include_current": True}).build(LABELS).eval()
    assert with_current(clips(3)).logits.shape == (2, 3, 8, 12)
    with pytest.raises(ModelError, match="weights for 2 frames before the current one"):
        with_current(clips(4))


def test_the_frames_of_a_clip_are_normalized_as_one_batch_and_counted_once():
    model = tiny(attention=NONLOCAL).build(LABELS)
    frames = clips(3)
    norm = next(each for each in model.hf.backbone.modules() if isinstance(each, nn.BatchNorm2d))
    conv = model.hf.backbone.embedder.embedder.convolution
    expected = 0.1 * conv(model.normalize(frames).flatten(0, 1)).mean((0, 2, 3)) + 0.9 * norm.running_mean
    model(frames)
    assert int(norm.num_batches_tracked) == 1
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-4, atol=1e-6)


def test_weights_start_as_the_block_and_the_paper_say():
    torch.manual_seed(0)
    hf = tiny(attention={**APNB, "channels": 512}, auxiliary_channels=256).build(LABELS).hf
    for head in (hf.decode_head, hf.auxiliary_head):
        assert 0.008 < head.classifier.weight.std() < 0.012
        assert not head.classifier.bias.any()
        assert head.dropout.p == 0.1
    assert not hf.decode_head.block.attention.context.weight.any(), "what is read comes in from nothing"
    bound = hf.auxiliary_head.convolution[0].weight[0].numel() ** -0.5
    assert 0.9 * bound < hf.auxiliary_head.convolution[0].weight.abs().max() <= bound, "as PyTorch starts it"


@pytest.mark.many
@pytest.mark.parametrize("backbone", ["convnextv2", "swin", "dinov2", "pvt_v2", "mobilenet_v2_backbone", "fastervit"])
def test_any_encoder_carries_it(backbone: str):
    model = tiny(backbone).build(LABELS)
    stride = model.hf.config.output_stride
    assert stride == (8 if backbone in ("convnextv2", "mobilenet_v2_backbone") else 32)
    logits, aux_logits = model(clips(3))
    assert logits.shape == (2, 3, SIZE[0] // stride, SIZE[1] // stride)
    (logits.square().mean() + aux_logits.square().mean()).backward()
    assert not [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]


def test_a_stride_that_an_encoder_cannot_have_is_refused():
    with pytest.raises(ModelError, match="`swin` keeps the stride of its maps: `output_stride` is 8"):
        tiny("swin", output_stride=8).build(LABELS)


def test_a_config_of_an_encoder_alone_gives_the_finest_stride_it_can_have():
    sizes = {"depths": [1, 1, 1, 1], "out_features": ["stage3", "stage4"]}
    swin = SwinConfig(embed_dim=8, num_heads=[1, 1, 1, 1], **sizes)
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], **sizes)
    assert [TmanetConfig(backbone_config=each).output_stride for each in (swin, resnet)] == [32, 8]
    hf = TmanetForSemanticSegmentation(TmanetConfig(backbone_config=swin, attention=APNB, num_labels=3)).eval()
    assert hf(torch.randn(1, 2, 3, 64, 64)).logits.shape == (1, 3, 2, 2)
    with pytest.raises(StrictDataclassFieldValidationError, match="expected one of .8, 16, 32., got 12"):
        TmanetConfig(backbone_config=resnet, output_stride=12)


def test_an_encoder_of_one_map_carries_what_reads_one():
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])
    assert len(resnet.out_features) == 1
    with pytest.raises(ModelError, match="the auxiliary head reads the second last map: got one"):
        TmanetForSemanticSegmentation(TmanetConfig(backbone_config=resnet, attention=APNB))
    alone = {"backbone_config": resnet, "use_auxiliary_head": False}
    with pytest.raises(ModelError, match="attention `afnb` fuses the encoder's last two stages: got an encoder of one"):
        TmanetForSemanticSegmentation(TmanetConfig(attention={"kind": "afnb"}, **alone))
    hf = TmanetForSemanticSegmentation(TmanetConfig(attention=APNB, num_labels=3, **alone)).eval()
    frames = torch.randn(1, 2, 3, 64, 64)
    assert hf(frames).logits.shape == (1, 3, 8, 8)
    assert hf.encode(frames[0]).high.shape == (2, 8, 8, 8)


def test_models_of_images_refuse_clips():
    model = FusionModelConfig(
        backbone="resnet", pretrained="none", overrides=TINY["resnet"], hidden_size=32
    ).build(LABELS)  # fmt: skip
    assert model.memory_frames is None
    with pytest.raises(ModelError, match="`FusionForSemanticSegmentation` takes images: got clips of 3 frames"):
        model(clips(3))


@pytest.mark.many
@pytest.mark.parametrize("backbone", ["resnet", "convnext", "mobilenet_v2_backbone", "swin"])
def test_a_saved_model_opens_equal_in_plain_transformers_and_here(backbone: str, tmp_path: Path):
    model = tiny(backbone, dropout=0.3).build(LABELS)
    randomize(model.hf.decode_head.block)
    save_model(model.eval(), LABELS, tmp_path / "model")
    again, labels = open_model(tmp_path / "model")
    plain = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "model")
    assert type(plain) is TmanetForSemanticSegmentation
    assert labels == LABELS
    assert again.memory_frames == 2
    assert plain.decode_head.dropout.p == 0.3
    with torch.no_grad():
        expected = model(clips(3)).logits
        assert torch.equal(again(clips(3)).logits, expected)
        assert torch.equal(plain(model.normalize(clips(3))).logits, expected)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["attention"]["kind"] == "apnb"


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("output_stride", 12, "got 12"),
        ("attention", {"kind": "none"}, "Input tag 'none'"),
        ("memory_frames", "4", "str"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_folder(setting: str, value: Any, message: str, tmp_path: Path):
    save_model(tiny().build(LABELS), LABELS, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), setting: value}))
    with pytest.raises(ModelError, match=f"config.json of `{path.parent}` cannot be.*{message}"):
        open_model(path.parent)


@pytest.mark.parametrize("kind", ["dual", "criss_cross", "apnb", "nonlocal_residual"])
def test_what_no_file_holds_starts_as_in_a_new_model(kind: str):
    hf = tiny(attention={"kind": kind, "channels": 16}).build(LABELS).hf
    randomize(hf.decode_head.block)
    at_zero = ("gamma", "current", "attention.norm.weight", "context.weight", "context.bias")
    kept = {name: each for name, each in hf.state_dict().items() if not name.endswith(at_zero)}
    again = TmanetForSemanticSegmentation.from_pretrained(None, config=hf.config, state_dict=kept)
    found = again.state_dict()
    assert kept.keys() < found.keys()
    assert all(torch.equal(found[name], each) for name, each in kept.items())
    assert not any(found[name].any() for name in found.keys() - kept.keys())


def test_tuples_are_given_where_the_call_or_the_config_asks_for_them():
    hf, clips = tiny().build(LABELS).hf.eval(), torch.randn(1, 2, 3, 64, 64)
    logits = hf(clips).logits
    assert torch.equal(hf(clips, return_dict=False)[0], logits)
    hf.config.return_dict = False
    assert torch.equal(hf(clips)[0], logits)
    assert torch.equal(hf(clips, return_dict=True).logits, logits)


@pytest.mark.slow
def test_a_saved_model_is_trained_on_with_other_classes(tmp_path: Path):
    save_model(tiny().build(LABELS), LABELS, tmp_path / "model")
    other = LabelSpace.from_names(["a", "b", "c", "d"])
    model = CheckpointModelConfig(checkpoint=str(tmp_path / "model")).build(other)
    assert {name.split(".")[0] for name in model.new_parameters} == {"decode_head", "auxiliary_head"}
    logits, aux_logits = model(clips(3))
    assert logits.shape[1] == aux_logits.shape[1] == 4


def test_loss_is_the_cross_entropy_of_both_heads_in_training_and_of_one_otherwise():
    hf = tiny(dropout=0).build(LABELS).hf
    normalized, labels = torch.randn(2, 3, 3, *SIZE), torch.randint(0, 3, (2, *SIZE))
    labels[:, :20] = 255
    training = hf(normalized, labels=labels).loss
    hf.config.auxiliary_loss_weight = 0.0
    alone = hf(normalized, labels=labels).loss
    assert training > alone
    output = hf.eval()(normalized, labels=labels)
    resized = F.interpolate(output.logits, SIZE, mode="bilinear")
    torch.testing.assert_close(output.loss, F.cross_entropy(resized, labels, ignore_index=255))


def test_parts_are_frozen_counted_and_told_apart_by_depth():
    model = tiny().build(LABELS)
    freeze(model, ["backbone.stages.0-1", "decode_head.block"])
    rows = {str(row["module"]): row for row in parameter_table(model)}
    assert rows["backbone.encoder.stages.1"]["trainable"] == 0
    assert rows["backbone.encoder.stages.2"]["trainable"] == rows["backbone.encoder.stages.2"]["total"]
    assert rows["decode_head"]["trainable"] == 16 * 3 + 3
    before = {name: each.clone() for name, each in model.hf.decode_head.block.named_buffers()}
    model(clips(3))
    assert all(torch.equal(each, before[name]) for name, each in model.hf.decode_head.block.named_buffers())
    depths = model.depths(by="stage")
    assert depths["hf.backbone.encoder.stages.3.layers.0.shortcut.convolution.weight"] == 4
    assert depths["hf.decode_head.classifier.weight"] == depths["hf.auxiliary_head.classifier.bias"] == 5


@pytest.mark.slow
def test_pyramid_pooling_asks_for_batches_of_two():
    assert tiny(attention={"kind": "psp", "channels": 8}).build(LABELS).minimum_train_batch == 2
    assert tiny().build(LABELS).minimum_train_batch == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": {**NONLOCAL, "slots": 4}}, "got 4 slots and 2 memory_frames"),
        ({"attention": {**NONLOCAL, "slots": 2, "include_current": True}}, "2 memory_frames, the current one beside"),
        ({"auxiliary": False}, "`auxiliary_channels` has no effect"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        tiny(**settings)


def parsed(options: TrainingOptions, *sets: str) -> FinetuneConfig:
    flags = training_flags(options, DataOptions(), RunOptions())
    return FinetuneConfig.load(flags=flags, sets=sets, flag_names=FLAG_NAMES)


@pytest.mark.slow
def test_flags_pick_the_block_and_settings_its_widths():
    options = TrainingOptions(decoder="tmanet", backbone="resnet18", attention="apnb", pretrained="none")
    narrow = "model.overrides={hidden_sizes: [8, 8, 8, 8], embedding_size: 8}"
    config = parsed(options, "model.memory_frames=3", "model.attention.key_channels=32", narrow)
    assert isinstance(config.model, TmanetModelConfig)
    assert config.model.attention.kind == "apnb"
    model = config.model.build(LABELS)
    assert model.memory_frames == 3
    assert model.hf.backbone.config.layer_type == "basic"
    assert model.hf.decode_head.block.attention.key[0].out_channels == 32


def test_attention_alone_asks_for_a_decoder_with_memory():
    assert parsed(TrainingOptions(backbone="resnet-18", attention="dual")).model.kind == "tmanet"
    with pytest.raises(ConfigError, match="--model is a whole model: got --attention as well"):
        parsed(TrainingOptions(model="runs/mine", attention="dual"))
    with pytest.raises(ConfigError, match=r"`model.attention` is not a known key \(--attention\)"):
        parsed(TrainingOptions(decoder="upernet", backbone="resnet-18", attention="dual"))
    with pytest.raises(ConfigError, match=r"`model.attention.kind` has no such kind \(--attention\): got 'apnp'"):
        parsed(TrainingOptions(decoder="tmanet", backbone="resnet-18", attention="apnp"))


class Published(nn.Module):
    """A ResNet written after torchvision's description, with its names."""

    def __init__(self, widths: list[int], depths: list[int], *, expansion: int) -> None:
        super().__init__()
        self.expansion, self.depths = expansion, depths
        parts = {"conv1": nn.Conv2d(3, 8, 7, 2, 3, bias=False), "bn1": nn.BatchNorm2d(8)}
        entering = 8
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
            inner, blocks = width // expansion, []
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                shapes = [(entering, inner, 3, stride), (inner, width, 3, 1)]
                if expansion > 1:
                    shapes = [(entering, inner, 1, 1), (inner, inner, 3, stride), (inner, width, 1, 1)]
                block = {}
                for number, (a, b, size, step) in enumerate(shapes, start=1):
                    block[f"conv{number}"] = nn.Conv2d(a, b, size, step, size // 2, bias=False)
                    block[f"bn{number}"] = nn.BatchNorm2d(b)
                if stride > 1 or entering != width:
                    short = nn.Conv2d(entering, width, 1, stride, bias=False), nn.BatchNorm2d(width)
                    block["downsample"] = nn.Sequential(*short)
                blocks.append(nn.ModuleDict(block))
                entering = width
            parts[f"layer{stage}"] = nn.Sequential(*blocks)
        parts["fc"] = nn.Linear(entering, 10)
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.max_pool2d(self.bn1(self.conv1(images)).relu(), 3, 2, 1)
        maps = []
        for stage in range(1, 5):
            for block in getattr(self, f"layer{stage}"):
                shortcut = block["downsample"](x) if "downsample" in block else x
                convs = [number for number in (1, 2, 3) if f"conv{number}" in block]
                for number in convs:
                    x = block[f"bn{number}"](block[f"conv{number}"](x))
                    x = (x + shortcut if number == convs[-1] else x).relu()
            maps.append(x)
        return maps


@pytest.mark.many
@pytest.mark.parametrize("expansion", [1, 4])
@pytest.mark.parametrize("wrapped", [False, True])
def test_checkpoints_in_torchvisions_format_load(expansion: int, wrapped: bool, tmp_path: Path):
    torch.manual_seed(0)
    widths, depths = [8, 16, 24, 32], [2, 1, 2, 1]
    published = Published(widths, depths, expansion=expansion).eval()
    for value in published.state_dict().values():
        if value.ndim == 1:
            value.uniform_(0.5, 1.5)
    state: dict[str, Any] = published.state_dict()
    torch.save({"state_dict": {f"module.{key}": state[key] for key in state}} if wrapped else state, tmp_path / "r.pth")
    layer_type = "basic" if expansion == 1 else "bottleneck"
    overrides = {"hidden_sizes": widths, "depths": depths, "embedding_size": 8, "layer_type": layer_type}
    model = tiny(overrides=overrides, pretrained=str(tmp_path / "r.pth"), output_stride=32).build(LABELS).eval()
    assert all(name.split(".")[0] in ("decode_head", "auxiliary_head") for name in model.new_parameters)
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        for ours, theirs in zip(model.hf.backbone(images).feature_maps, published(images), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_a_stem_of_three_convolutions_is_refused_by_name(tmp_path: Path):
    state = {**Published([8, 16, 24, 32], [1, 1, 1, 1], expansion=1).state_dict()}
    state = {name: value for name, value in state.items() if not name.startswith(("conv1", "bn1"))}
    torch.save({**state, "stem.0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "v1c.pth")
    overrides = {**TINY["resnet"], "layer_type": "basic"}
    with pytest.raises(ModelError, match=r"lacks 5 parameters of encoder `resnet`: `embedder.embedder.convolution"):
        tiny(overrides=overrides, pretrained=str(tmp_path / "v1c.pth")).build(LABELS)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_resnets_are_known_by_torchvisions_names(name: str):
    planned = plan(name, "none", overrides={}).config
    assert sum(planned.depths) == {"18": 8, "34": 16, "50": 16, "101": 33}[name.removeprefix("resnet")]
    assert planned.layer_type == ("basic" if name in ("resnet18", "resnet34") else "bottleneck")
    described = TmanetModelConfig(backbone=name, pretrained="none").described(planned, LABELS)
    assert described.output_stride == 8


RECIPES = Path(__file__).parents[1] / "hfseg" / "configs"


@pytest.mark.parametrize("recipe", ["tmanet-r50-camvid", "tmanet-r50-cityscapes", "tmanet-r18-camvid"])
def test_recipes_have_the_published_head(recipe: str):
    config = FinetuneConfig.load(yaml_path=RECIPES / f"{recipe}.yaml")
    model = config.model
    assert (model.kind, model.attention.kind, model.attention.key_channels, model.attention.value_channels) == (
        "tmanet", "nonlocal", 64, 256,
    )  # fmt: skip
    assert model.memory_frames == (2 if "cityscapes" in recipe else 4)
    assert config.loader.batch_size == 8
