"""The log of a run as the page reads it."""

import pytest

from hfseg.errors import CheckpointError
from hfseg.viz.run import best_validation, one_timeline, parse_log


def test_only_the_last_line_of_a_log_may_be_cut_off(tmp_path):
    whole, cut = '{"event": "train", "step": 1}\n', '{"event": "tra'
    assert parse_log(whole + cut, tmp_path) == [{"event": "train", "step": 1}]
    with pytest.raises(CheckpointError, match="is damaged in line 1: expected a JSON object"):
        parse_log(f"{cut}\n{whole}", tmp_path)
    with pytest.raises(CheckpointError, match="line 1: expected an object with `event`: got '3'"):
        parse_log("3\n", tmp_path)


def test_steps_that_a_resumed_run_did_again_are_there_once():
    before = [{"event": "train", "step": step, "loss": 9} for step in (1, 2, 3)]
    after = [{"event": "train", "step": step, "loss": 1} for step in (3, 4)]
    timeline = one_timeline([*before, {"event": "resume", "step": 2}, *after])
    assert [(record["step"], record.get("loss")) for record in timeline] == [(1, 9), (2, 9), (2, None), (3, 1), (4, 1)]


def test_the_best_validation_is_the_first_of_equals_and_never_one_without_a_score():
    records = [{"step": step, "mean_iou": iou} for step, iou in ((1, None), (2, 0.5), (3, 0.5))]
    assert best_validation(records)["step"] == 2
