"""Files from strangers: none of them is run, leaves its folder, or fills the memory."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from test_data_shards import made, written
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from hfseg.config import Config
from hfseg.data import ShardsConfig, check_checksums
from hfseg.data.classes import read_classes
from hfseg.data.decode import open_picture
from hfseg.data.load import load_splits
from hfseg.data.manifest import MANIFEST, read_manifest
from hfseg.data.merging import merged
from hfseg.data.source import open_source, read_bytes, zip_path
from hfseg.data.tree import open_tree
from hfseg.errors import ConfigError, DataError, HfsegError, ModelError
from hfseg.labels import LabelSpace
from hfseg.losses.class_weights import read_weights
from hfseg.models import CheckpointModelConfig, SegformerModelConfig, UperNetModelConfig, open_model
from hfseg.models.backbones.weights import read

LABELS = LabelSpace.from_names(["road", "sky"])


class Trap:
    """Whatever unpickles this leaves a file behind."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self):
        return os.mkdir, (str(self.sprung),)


@pytest.fixture
def sprung(tmp_path):
    """The file that code would leave which must not run."""
    path = tmp_path / "sprung"
    yield path
    assert not path.exists()


def model_folder(path: Path, **config) -> Path:
    """Write a small model as Transformers does."""
    tiny = SegformerConfig(num_encoder_blocks=2, depths=[1, 1], sr_ratios=[8, 4], hidden_sizes=[8, 16],
                           num_attention_heads=[1, 2], patch_sizes=[7, 3], strides=[4, 2], mlp_ratios=[2, 2],
                           decoder_hidden_size=8, num_labels=2)  # fmt: skip
    SegformerForSemanticSegmentation(tiny).save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    tree = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(tree | config))
    return path


# Models


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_among_the_weights_of_a_model_folder_is_refused(name, tmp_path, sprung):
    folder = model_folder(tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**state, "hook": Trap(sprung)}, folder / name)
    with pytest.raises(ModelError, match="cannot be read"):
        open_model(folder)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_as_a_weights_file_is_refused(protocol, tmp_path, sprung):
    (tmp_path / "weights.pth").write_bytes(pickle.dumps({"state_dict": Trap(sprung)}, protocol=protocol))
    with pytest.raises(ModelError, match=r"weights.pth` cannot be read as weights"):
        read(tmp_path / "weights.pth")


AUTO_MAP = {"AutoModelForSemanticSegmentation": "modeling.Model", "AutoConfig": "modeling.Config"}


@pytest.mark.parametrize(
    ("model_type", "hint"),
    [("theirs", "whose class is part of Transformers"), ("segformer", "take `auto_map` out of a copy of the folder")],
)
def test_a_model_that_asks_for_code_of_its_own_is_refused(model_type, hint, tmp_path, sprung):
    folder = model_folder(tmp_path / "model", model_type=model_type, auto_map=AUTO_MAP)
    (folder / "modeling.py").write_text(f"import os\nos.mkdir({str(sprung)!r})\n")
    for opened in (
        lambda: open_model(folder),
        lambda: CheckpointModelConfig(checkpoint=str(folder)).build(LABELS),
        lambda: SegformerModelConfig(backbone=str(folder)).build(LABELS),
        lambda: UperNetModelConfig(backbone="convnext-tiny", pretrained=str(folder)).build(LABELS),
    ):
        with pytest.raises(
            ModelError, match=r"of its own \(`auto_map` in config.json\): such code is never run"
        ) as told:
            opened()
        assert hint in told.value.hint


def test_a_preprocessor_that_asks_for_code_of_its_own_is_refused(tmp_path):
    folder = model_folder(tmp_path / "model")
    path = folder / "preprocessor_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoImageProcessor": "theirs.Processor"}})
    )
    with pytest.raises(ModelError, match=r"\(`auto_map` in preprocessor_config.json\)"):
        open_model(folder)


# Archives


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("member", ["../../evil.png", "images/../../evil.png", "/etc/evil.png"])
def test_an_archive_with_members_outside_of_it_is_refused(member, tmp_path):
    archive(tmp_path / "data.zip", **{"images/a.png": b"", member: b"content"})
    with pytest.raises(DataError, match=rf"data.zip` holds `{member}`, which lies outside of it"):
        open_tree(tmp_path / "data.zip", "images", archive="data.zip")


def test_reading_a_member_never_leaves_the_archive(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    path = archive(tmp_path / "data.zip", **{"../secret.png": b"inside"})
    assert read_bytes({"path": zip_path("../secret.png", path)}, name="x") == b"inside"
    for outside in ("../../secret.png", str(tmp_path / "secret.png"), "secret.png"):
        with pytest.raises(DataError, match="`x` is not in the archive any more"):
            read_bytes({"path": zip_path(outside, path)}, name="x")


def test_a_member_that_unpacks_to_more_than_an_image_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("hfseg.data.source.MAX_MEMBER_BYTES", 1 << 20)
    path = archive(tmp_path / "data.zip", **{"a.png": bytes(1 << 21)})
    assert path.stat().st_size < 4096
    with pytest.raises(DataError, match=r"data.zip/a.png` unpacks to 2,097,152 bytes: expected an image of at most"):
        open_source({"path": zip_path("a.png", path)}, name="x")


# Images


def claiming(width: int, height: int) -> bytes:
    """Write a PNG of a few bytes that claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")
    )


def test_an_image_that_claims_too_many_pixels_is_refused_before_it_is_decoded():
    assert len(claiming(60_000, 60_000)) < 100
    with pytest.raises(DataError, match=r"`a.png` claims to hold 3,600,000,000 pixels: expected at most 178,956,970"):
        open_picture(claiming(60_000, 60_000), name="a.png")


def test_text_in_an_image_that_unpacks_to_megabytes_is_refused():
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    content = b"key\0\0" + zlib.compress(bytes(1 << 26))
    chunk = struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))
    data = picture.getvalue()
    with pytest.raises(DataError, match=r"`a.png` is truncated or broken: .*too large"):
        open_picture(data[:33] + chunk + data[33:], name="a.png").decode()


# Settings

TAG = "!!python/object/apply:os.mkdir ['{}']"


@pytest.mark.parametrize(
    ("read_yaml", "text"),
    [
        (lambda path: Config.load(yaml_path=path), "data: {tag}"),
        (read_classes, "names: {tag}"),
        (lambda path: merged(LabelSpace.from_names(["road"]), str(path)), "merge: {tag}"),
        (lambda path: read_weights(path, ["road"]), "road: {tag}"),
    ],
)
def test_a_yaml_tag_that_asks_for_an_object_is_refused(read_yaml, text, tmp_path, sprung):
    path = tmp_path / "file.yaml"
    path.write_text(text.replace("{tag}", TAG.format(sprung)))
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(path.read_text())
    with pytest.raises(HfsegError, match=r"file.yaml` .*could not determine a constructor for the tag"):
        read_yaml(path)


def test_a_tag_on_the_command_line_is_refused(sprung):
    with pytest.raises(ConfigError, match="the value is not YAML"):
        Config.load(sets=[f"data={TAG.format(sprung)}"])


# Data sets


@pytest.mark.parametrize("file", ["../train-00000.parquet", "/etc/passwd", "a/b.parquet", "..parquet", "a.parquet\n"])
def test_a_manifest_that_names_files_elsewhere_is_refused(file, tmp_path):
    folder = tmp_path / "shards"
    written(folder, made(6))
    tree = json.loads((folder / MANIFEST).read_text())
    tree["parts"]["train"][0]["file"] = file
    (folder / MANIFEST).write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"is damaged: `parts.train.0.file`"):
        read_manifest(folder)


@pytest.mark.parametrize("name", ["train.pkl", "train.npz", "train.pickle", "data.py"])
def test_a_folder_of_pickles_or_code_is_no_data_set(name, tmp_path, sprung):
    (tmp_path / "data").mkdir()
    content = f"import os; os.mkdir({str(sprung)!r})".encode() if name.endswith("py") else pickle.dumps(Trap(sprung))
    (tmp_path / "data" / name).write_bytes(content)
    with pytest.raises(DataError, match=r"data` (cannot be opened|needs a loading script)"):
        load_splits(str(tmp_path / "data"))


def test_a_shard_may_lie_elsewhere_behind_a_link_but_must_hold_what_was_written(tmp_path):
    folder, elsewhere = tmp_path / "shards", tmp_path / "elsewhere.parquet"
    written(folder, made(6))
    shard = next(folder.glob("*.parquet"))
    shard.rename(elsewhere)
    shard.symlink_to(elsewhere)
    table = ShardsConfig(data_dir=folder).open("train").table
    check_checksums(table, workers=1)
    content = bytearray(elsewhere.read_bytes())
    content[len(content) // 2] ^= 1
    elsewhere.write_bytes(content)
    with pytest.raises(DataError, match="are not as they were written"):
        check_checksums(table, workers=1)
