"""What is said about a machine: on this one, and on ones that lack something."""

import http.server
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from commands import HFSEG
from packaging.requirements import Requirement

from hfseg.engine.machine import Fact, cpu, room, threads
from hfseg.models.ops import Case, choose
from hfseg.recipes.doctor import attention, hub, is_healthy, library, to_json, to_text, way


def doctor(*arguments: str, code: int = 0, **environ: str) -> str:
    done = subprocess.run(
        [HFSEG, "doctor", *arguments], capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def answering():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200 if self.path == "/" else 503)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_this_machine_is_described_and_healthy():
    found = json.loads(doctor("--json", HF_HUB_OFFLINE="1"))
    assert found["healthy"]
    facts = {fact["name"]: fact for fact in found["facts"]}
    assert {"python", "torch", "transformers", "torchvision", "torch build", "device cpu", "natten"} <= facts.keys()
    assert {"triton", "timm", "torch_xla", "hub", "cache", "working folder", "memory", "threads"} <= facts.keys()
    assert all(fact["hint"] for fact in found["facts"] if fact["status"] != "ok")
    assert facts["hub"]["value"] == "offline by HF_HUB_OFFLINE: what is in the cache can be used"


def broken_torchvision(folder: Path) -> str:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    return str(folder)


@pytest.mark.slow
def test_a_broken_torchvision_is_a_line_with_a_remedy_and_exit_code_1(tmp_path):
    said = doctor(code=1, PYTHONPATH=broken_torchvision(tmp_path))
    (line,) = [line for line in said.splitlines() if line.startswith("broken")]
    assert "torchvision" in line
    assert "RuntimeError: operator torchvision::nms does not exist" in line
    assert "hint: `pip uninstall torchvision`, or install the one that was built for torch 2." in said


@pytest.mark.slow
def test_a_command_that_a_broken_torchvision_stops_says_so(tmp_path):
    environment = {**os.environ, "PYTHONPATH": broken_torchvision(tmp_path)}
    (tmp_path / "torchvision-0.1.dist-info").mkdir()
    (tmp_path / "torchvision-0.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n"
    )
    command = [HFSEG, "finetune", "--output", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "operator torchvision::nms does not exist" in done.stderr
    assert "hint: torchvision is installed and does not fit torch" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_library_is_held_against_its_range():
    numpy = library(Requirement("numpy>=2"))
    assert (numpy.name, numpy.status) == ("numpy", "ok")
    old = library(Requirement("numpy>=1,<2"))
    assert old.status == "broken"
    assert old.value.endswith(", needed <2,>=1")
    assert old.hint == "pip install 'numpy<2,>=1'"
    absent = library(Requirement("no-such-library>=3"))
    assert (absent.status, absent.value) == ("broken", "not installed, needed >=3")
    assert not is_healthy([numpy, absent])


def test_the_hub_is_asked_once_and_any_answer_counts(answering):
    assert hub({}, answering) == Fact("hub", f"{answering} answers")
    assert hub({}, f"{answering}/busy") == Fact("hub", f"{answering}/busy answers with 503")


def test_a_hub_that_does_not_answer_is_a_warning_with_the_way_around():
    fact = hub({}, "http://127.0.0.1:9")
    assert fact.status == "warning"
    assert "http://127.0.0.1:9 cannot be reached: [Errno" in fact.value
    assert "hf download" in str(fact.hint)


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_is_no_warning_and_asks_nobody(name):
    assert hub({name: "true"}, "http://127.0.0.1:9").status == "ok"
    assert name in hub({name: "1"}, "http://127.0.0.1:9").value
    assert hub({name: "0"}, "http://127.0.0.1:9").status == "warning"


def test_bf16_is_called_fast_only_with_the_flags_for_it():
    assert "bf16 is emulated" in cpu(frozenset({"avx2", "avx512f"}), "AVX512").value
    assert "bf16 by amx_bf16, avx512_bf16" in cpu(frozenset({"avx512_bf16", "amx_bf16"}), "AVX512").value


def test_the_ways_of_attention_are_those_that_are_chosen():
    facts = {fact.name: fact for fact in attention()}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for side, dilations in {128: (1, 16), 64: (1, 4, 8), 32: (1, 2, 3, 4), 16: (1, 2)}.items():
        ways = [choose(Case(device, torch.float32, side, side, 32, 7, dilation, True)) for dilation in dilations]
        said = ", ".join(f"dilation {dilation} {found}" for dilation, found in zip(dilations, ways, strict=True))
        assert facts[f"attention {side}x{side}"].value.startswith(f"{said} (dinat-mini, crop 512, on ")
    assert all(fact.status == "ok" for fact in facts.values())
    assert {"triton", "natten"} <= facts.keys()


def test_an_optional_way_is_never_missed_and_says_what_it_lacks():
    assert way("natten", None, "it is not installed").value == "not installed: not needed"
    assert way("natten", "0.21.7", "it has no table").value == "0.21.7: not used, not needed (it has no table)"
    assert way("triton", "3.9.0", None).value == "3.9.0: with model.attention_impl=triton"


def test_room_is_that_of_the_next_folder_that_is_there(tmp_path):
    free = room("cache", tmp_path / "not" / "there", "elsewhere", least_gib=0.0)
    assert free.status == "ok"
    assert free.value.startswith(str(tmp_path / "not" / "there"))
    assert room("cache", tmp_path, "elsewhere", least_gib=1e9).hint == "elsewhere"


def test_more_threads_than_cores_are_a_warning():
    assert threads({}).status == "ok"
    crowded = threads({"WORLD_SIZE": "4096", "OMP_NUM_THREADS": "1"})
    assert (crowded.status, crowded.hint) == ("warning", "set OMP_NUM_THREADS=1")
    assert "OMP_NUM_THREADS=1" in crowded.value


def test_the_table_and_the_json_say_the_same():
    facts = [Fact("one", "fine"), Fact("another", "low", "warning", "get more")]
    assert to_text(facts).splitlines() == [
        "ok       one      fine",
        "warning  another  low",
        "                  hint: get more",
    ]
    assert to_json(facts)["facts"][1] == {"name": "another", "value": "low", "status": "warning", "hint": "get more"}
