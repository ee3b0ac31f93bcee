"""Every attention block gives what the original modules gave, with their weights: outputs, inner results, gradients."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from hfseg.models.attention import Features
from hfseg.models.attention.asymmetric import AsymmetricAttention
from hfseg.models.attention.dual import ChannelAttention, Dual, PositionAttention
from hfseg.models.attention.lines import CrissCross
from hfseg.models.attention.non_local import NonLocal
from hfseg.models.attention.psp import Psp
from hfseg.models.attention.residual_non_local import ResidualAttention

DATA = Path(__file__).parent / "data" / "attention"
Inputs = dict[str, Tensor]


class Original(NamedTuple):
    """One of our modules in the place of an original."""

    build: Callable[[dict[str, Any]], nn.Module]
    run: Callable[[Any, Inputs, dict[str, Any]], Tensor]
    names: tuple[tuple[str, str], ...] = ()
    """Patterns of original names of weights, and ours."""
    taps: tuple[tuple[str, str], ...] = ()
    """Names of inner results, and of our modules that give them; with `<` before it, that take them."""
    unused: str = "nothing"
    """Pattern of weights that have no part in the output."""


class Head(nn.Module):
    """A block under a classifier."""

    def __init__(self, block: nn.Module, settings: dict[str, Any]) -> None:
        super().__init__()
        self.block = block
        self.classifier = nn.Conv2d(
            settings.get("channels", settings.get("inter_channels")), settings["num_classes"], 1
        )

    def forward(self, query: Tensor, memory: Tensor | None = None) -> Tensor:
        return self.classifier(self.block(Features(query), None if memory is None else Features(memory)))


def asymmetric(settings: dict[str, Any], *, own_query: bool) -> AsymmetricAttention:
    assert settings["out_channels"] == settings.get("in_channels", settings.get("high_channels"))
    return AsymmetricAttention(
        settings.get("low_channels", settings.get("in_channels")), settings["out_channels"],
        key_channels=settings["key_channels"], value_channels=settings["value_channels"],
        grids=settings["pool_sizes"], own_query=own_query, relu=settings["final_relu"],
    )  # fmt: skip


def non_local(settings: dict[str, Any], **others: Any) -> NonLocal:
    return NonLocal(
        settings.get("in_channels", 4), settings.get("channels", 4),
        key_channels=settings["key_channels"], value_channels=settings["value_channels"], **others,
    )  # fmt: skip


def memory_read(block: NonLocal, inputs: Inputs, _: dict[str, Any]) -> Tensor:
    read = block.read_values(inputs["query_key"], inputs["memory_key"], inputs["memory_value"])
    return torch.cat([inputs["query_value"], read], dim=1)


def apnb(block: AsymmetricAttention, inputs: Inputs, _: dict[str, Any]) -> Tensor:
    return block.alone(inputs["x"], inputs["x"])


def afnb(block: AsymmetricAttention, inputs: Inputs, _: dict[str, Any]) -> Tensor:
    return block.alone(inputs["high"], inputs["low"])


def criss_cross(block: CrissCross, inputs: Inputs, settings: dict[str, Any]) -> Tensor:
    x = inputs["x"]
    maps = x if x.ndim == 5 else x[:, :, None]
    for _ in range(settings["recurrence"]):
        maps = block(maps)
    return maps.view_as(x)


def own_frame(block: PositionAttention | ResidualAttention, inputs: Inputs, _: dict[str, Any]) -> Tensor:
    x = inputs["x"]
    return block(x, block.key(x)[:, None], block.value(x)[:, None])


def channel(block: ChannelAttention, inputs: Inputs, _: dict[str, Any]) -> Tensor:
    return block(inputs["x"], block.likeness(inputs["x"])[:, None])


def feature(head: Head, inputs: Inputs, _: dict[str, Any]) -> Tensor:
    result: list[Tensor] = []
    handle = head.block.register_forward_hook(lambda _module, _args, output: result.append(output))
    head(inputs["x"])
    handle.remove()
    return result[0]


ASYMMETRIC = (
    (r"stages\.0\.f_(key|query)\.0", r"\1.0"), (r"stages\.0\.f_(key|query)\.1\.0", r"\1.1"),
    (r"stages\.0\.f_value", "value"), (r"stages\.0\.W", "context"),
    (r"conv_bn_dropout\.0", "fuse.0"), (r"conv_bn_dropout\.1(\.0)?", "fuse.1"),
)  # fmt: skip
ASYMMETRIC_MM = (
    (r"stages\.0\.(key|query)_project\.conv", r"\1.0"), (r"stages\.0\.(key|query)_project\.bn", r"\1.1"),
    (r"stages\.0\.value_project", "value"), (r"stages\.0\.out_project", "context"),
    (r"bottleneck\.conv", "fuse.0"), (r"bottleneck\.bn", "fuse.1"),
)  # fmt: skip
PROJECTIONS = ((r"(query|key|value)_(conv|project)", r"\1"), (r"gamma(\.scale)?", "gamma"))
SCENES: dict[str, Original] = {
    "tma_memory": Original(
        lambda settings: non_local(settings, scaled=settings["scaled"]), memory_read, taps=(("read", "<read"),)
    ),
    "tma_head": Original(
        lambda settings: Head(non_local(settings, slots=settings["t"]), settings),
        lambda head, inputs, _: head(inputs["query"], inputs["memory"]),
        (
            (r"query_(key|value)_conv\.(\d)\.conv", r"block.query.\1.\2.0"),
            (r"query_(key|value)_conv\.(\d)\.bn", r"block.query.\1.\2.1"),
            (r"memory_(key|value)_conv\.(\d)\.(\d)\.conv", r"block.memory.encoders.\3.\1.\2.0"),
            (r"memory_(key|value)_conv\.(\d)\.(\d)\.bn", r"block.memory.encoders.\3.\1.\2.1"),
            (r"bottleneck\.conv", "block.bottleneck.0"), (r"bottleneck\.bn", "block.bottleneck.1"),
            ("conv_seg", "classifier"),
        ),
        (("concat", "<block.bottleneck"), ("fused", "block.bottleneck")),
    ),
    "apnb": Original(
        lambda settings: asymmetric(settings, own_query=False), apnb, ASYMMETRIC, (("context", "context"),),
        unused=r".*f_query.*",
    ),
    "apnb_mmseg": Original(
        lambda settings: asymmetric(settings, own_query=False), apnb, ASYMMETRIC_MM, unused=r".*query_project.*"
    ),
    "afnb": Original(lambda settings: asymmetric(settings, own_query=True), afnb, ASYMMETRIC, (("context", "context"),)),
    "afnb_mmseg": Original(lambda settings: asymmetric(settings, own_query=True), afnb, ASYMMETRIC_MM),
    "criss_cross": Original(lambda settings: CrissCross(settings["in_channels"]), criss_cross, PROJECTIONS),
    "criss_cross_3d": Original(lambda settings: CrissCross(settings["in_channels"]), criss_cross, PROJECTIONS),
    "danet_pam": Original(lambda settings: PositionAttention(settings["in_channels"]), own_frame, PROJECTIONS),
    "danet_pam_mmseg": Original(
        lambda settings: PositionAttention(settings["in_channels"], key_channels=settings["key_channels"]),
        own_frame, PROJECTIONS,
    ),
    "danet_cam": Original(lambda _: ChannelAttention(), channel, PROJECTIONS),
    "danet_head": Original(
        lambda settings: Head(Dual(settings["in_channels"], settings["inter_channels"], narrow_kernel=3), settings),
        lambda head, inputs, _: head(inputs["x"]),
        (
            (r"conv5a\.(\d)", r"block.enter_position.\1"), (r"conv5c\.(\d)", r"block.enter_channel.\1"),
            (r"conv51\.(\d)", r"block.leave_position.\1"), (r"conv52\.(\d)", r"block.leave_channel.\1"),
            (r"sa\.(\w+)_conv", r"block.position.\1"), (r"sa\.gamma", "block.position.gamma"),
            (r"sc\.gamma", "block.channel.gamma"), (r"conv8\.1", "classifier"),
        ),
        (
            ("position_feature", "block.leave_position"), ("channel_feature", "block.leave_channel"),
            ("feat_sum", "<classifier"),
        ),
    ),
    "psp": Original(
        lambda settings: Head(
            Psp(
                settings["in_channels"], settings["channels"], grids=settings["pool_sizes"],
                align_corners=settings["align_corners"],
            ),
            settings,
        ),
        feature,
        (
            (r"psp_modules\.(\d)\.1\.conv", r"block.narrow.\1.0"), (r"psp_modules\.(\d)\.1\.bn", r"block.narrow.\1.1"),
            (r"bottleneck\.conv", "block.bottleneck.0"), (r"bottleneck\.bn", "block.bottleneck.1"),
            ("conv_seg", "classifier"),
        ),
        (("logits", "classifier"),),
    ),
    "nonlocal2d": Original(
        lambda settings: ResidualAttention(
            settings["in_channels"], settings["inter_channels"], scaled=settings["use_scale"],
            softmax=settings["mode"] == "embedded_gaussian",
        ),
        own_frame,
        (
            (r"theta\.conv", "query"), (r"phi\.conv", "key"), (r"g\.conv", "value"),
            (r"conv_out\.conv", "project"), (r"conv_out\.bn", "norm"),
        ),
    ),
}  # fmt: skip
"""The blocks by the names of the files."""


def cases() -> Iterator[tuple[str, str]]:
    for name in SCENES:
        with safe_open(DATA / f"{name}.safetensors", "pt") as file:
            yield from ((name, case) for case in json.loads(file.metadata()["cases"]))


CASES = [*cases()]


class Reference(NamedTuple):
    settings: dict[str, Any]
    tensors: dict[str, Tensor]

    def group(self, kind: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{kind}/"): each for key, each in self.tensors.items() if key.startswith(f"{kind}/")}


def load(name: str, case: str) -> Reference:
    with safe_open(DATA / f"{name}.safetensors", "pt") as file:
        settings = json.loads(file.metadata()["cases"])[case]
        names = [key for key in file.keys() if key.startswith(f"{case}/")]  # noqa: SIM118  # a file, not a mapping
        return Reference(settings, {key.removeprefix(f"{case}/"): file.get_tensor(key) for key in names})


def our_name(original: Original, name: str) -> str:
    """Translate the name of a weight; the last part (weight, bias, running_mean ...) stays."""
    for pattern, ours in original.names:
        found = re.fullmatch(rf"{pattern}(\.weight|\.bias|\.running_mean|\.running_var)?", name)
        if found:
            return re.sub(pattern, ours, name, count=1)
    raise AssertionError(f"no name for {name}")


def trained(original: Original, reference: Reference, dtype: torch.dtype) -> nn.Module:
    module = original.build(reference.settings).to(dtype).eval()
    weights = {
        our_name(original, name): each
        for name, each in reference.group("weight").items()
        if not re.fullmatch(original.unused, name)
    }
    own = module.state_dict()
    absent = {key for key in own if key not in weights and weights and not key.endswith("num_batches_tracked")}
    assert all(key.endswith(("key.0.bias", "query.0.bias", "fuse.0.bias")) for key in absent), absent
    for key in absent:  # biases before a batch norm, which some versions of the blocks do not have
        weights[key] = torch.zeros_like(own[key])
    if weights:
        module.load_state_dict({key: each.view_as(own[key]).to(dtype) for key, each in weights.items()}, strict=False)
        assert set(weights) <= set(own)
    return module


def outcome(name: str, case: str, dtype: torch.dtype) -> tuple[Reference, nn.Module, Inputs, Tensor, dict[str, Tensor]]:
    """Run one of our modules as the original was run; give its output and inner results too."""
    reference, original = load(name, case), SCENES[name]
    module = trained(original, reference, dtype)
    inputs = {key: each.to(dtype).requires_grad_() for key, each in reference.group("input").items()}
    inner: dict[str, Tensor] = {}
    for tap, path in original.taps:
        if path.removeprefix("<") in dict(module.named_modules()):
            place = module.get_submodule(path.removeprefix("<"))
            taken = path.startswith("<")
            place.register_forward_hook(
                lambda _, args, result, tap=tap, taken=taken: inner.update({tap: args[0] if taken else result})
            )
    output = original.run(module, inputs, reference.settings)
    if name == "tma_memory":
        inner["read"] = output[:, inputs["query_value"].shape[1] :]
    return reference, module, inputs, output, inner


@pytest.mark.parametrize(("name", "case"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_outputs_are_those_of_the_original(name: str, case: str, dtype: torch.dtype, tolerance: float):
    reference, _, _, output, inner = outcome(name, case, dtype)
    expected = {"output": reference.tensors["output"], **reference.group("tap")}
    found = {"output": output, **inner}
    for tap, wanted in expected.items():
        scale = 1.0 if dtype == torch.float64 else float(wanted.abs().max())
        assert float((found[tap].detach().double() - wanted).abs().max()) <= tolerance * scale, tap


@pytest.mark.parametrize(("name", "case"), CASES)
def test_gradients_are_those_of_the_original(name: str, case: str):
    reference, module, inputs, output, _ = outcome(name, case, torch.float64)
    loss = output.square().mean()
    assert float((loss.detach() - reference.tensors["loss"]).abs()) <= 1e-10
    loss.backward()
    parameters = dict(module.named_parameters())
    norms = {key: float(each) for key, each in reference.group("grad_norm").items()}
    assert any(norm > 1e-6 for norm in norms.values())
    for key, norm in norms.items():
        if re.fullmatch(SCENES[name].unused, key):
            continue
        is_input = key.startswith("input.")
        of = inputs[key.removeprefix("input.")] if is_input else parameters[our_name(SCENES[name], key)]
        if norm == -1:
            assert of.grad is None, key
        else:
            assert of.grad is not None
            assert abs(float(of.grad.norm()) - norm) <= 1e-9 + 1e-9 * norm, key
