"""A run folder that no run has made: made-up numbers, for what reads such folders."""

import json
from pathlib import Path

import numpy as np

from hfseg.labels import LabelSpace
from hfseg.viz import side_by_side

SPACE = LabelSpace.from_names(["sky", "<script>alert(1)</script>", "fence & gate", "train"])


def write_run(run_dir: Path) -> Path:
    """Write a run folder of made-up numbers: 60 steps, 5 validations, scores, two sample predictions."""
    rng = np.random.default_rng(0)
    (run_dir / "predictions").mkdir(parents=True)
    (run_dir / "config.yaml").write_text("model:\n  kind: segformer\n  backbone: mit-b0\ndata:\n  kind: folder\n")
    (run_dir / "env.json").write_text(json.dumps({"torch": "2.13.0", "device": "<cpu>"}))
    parameters = [
        {"module": "backbone", "total": 900, "trainable": 0},
        {"module": "head", "total": 100} | {"trainable": 100},
    ]
    (run_dir / "parameters.json").write_text(json.dumps(parameters))
    (run_dir / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log_of(rng)) + '{"event": "tr')
    matrix = np.array([[900, 60, 0, 0], [100, 500, 0, 0], [40, 10, 0, 0], [0, 0, 0, 0]])
    (run_dir / "metrics.json").write_text(json.dumps(metrics_of(matrix)))
    for index in range(2):
        image = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        pred, labels = (rng.integers(0, 3, (48, 64)).astype(np.uint8) for _ in range(2))
        side_by_side(image, pred, labels, SPACE).save(run_dir / "predictions" / f"street-{index}-side.jpg")
    return run_dir


def log_of(rng):
    for step in range(1, 61):
        loss = 2 / step + rng.random() * 0.1
        speed = {"images_per_s": 8.1, "data_wait": 0.01, "seconds": step * 0.5}
        yield {"event": "train", "step": step, "epoch": step / 12, "lr": 6e-5, "loss": loss, "ce": loss, **speed}
        if step % 12 == 0:
            scores = {"mean_iou": 0.4 - 0.01 * abs(48 - step), "mean_accuracy": 0.5, "overall_accuracy": 0.83}
            yield {"event": "validation", "step": step, "epoch": step / 12, "loss": 1 / step, **scores}


def metrics_of(matrix):
    label_pixels, predicted, right = matrix.sum(1), matrix.sum(0), np.diag(matrix)
    states = ["ok", "ok", "never predicted", "absent"]
    classes = [
        {
            "id": i,
            "name": SPACE.names[i],
            "color": list(SPACE.palette[i]),
            "label_pixels": int(label_pixels[i]),
            "predicted_pixels": int(predicted[i]),
            "iou": float(right[i] / (label_pixels[i] + predicted[i] - right[i])) if label_pixels[i] else None,
            "accuracy": float(right[i] / label_pixels[i]) if label_pixels[i] else None,
            "state": states[i],
        }
        for i in range(4)
    ]
    return {
        "model": "best-miou",
        "dataset": {"kind": "folder", "split": "validation", "images": 2},
        "protocol": {"mode": "whole", "short_side": None},
        "mean_iou": 0.51236,
        "mean_accuracy": 0.6,
        "overall_accuracy": 0.87,
        "baseline": {"class": "sky", "mean_iou": 0.1987, "overall_accuracy": 0.596},
        "classes": classes,
        "confusion": matrix.tolist(),
    }
