"""Is a map to be believed? Removing pixels in its order, and drawing the weights of the model anew."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hfseg.engine.checkpoint import write_file
from hfseg.explain import Similarity, measure_faithfulness, randomization_check
from hfseg.models import anatomy
from hfseg.recipes.explain.activation import CamConfig, Explained, Explainer
from hfseg.recipes.explain.clips import Pixels
from hfseg.recipes.explain.opened import Line, Opened, list_pictures
from hfseg.viz import check_figure, check_title, write_png


def check_explanation(
    config: CamConfig, opened: Opened, explainer: Explainer, pixels: Pixels, explained: Explained, stem: Path
) -> list[Path]:
    """Measure whether a map is faithful and rests on the weights; write `STEM.png` and `STEM.json`."""
    if explained.heat is None:
        raise ValueError("there is no map to check")
    measured = measure_faithfulness(
        opened.segmenter,
        opened.see(pixels),
        explained.heat,
        explained.region,
        explained.class_id,
        steps=config.check_steps,
        seeds=range(config.check_orders),
        fill=config.fill,
    )
    facts = {
        "image": stem.name,
        "class": opened.space.names[explained.class_id],
        "layer": explainer.layer_name,
        "method": config.method,
        "region": config.region,
        "fill": config.fill,
        **measured.to_json(),
        "randomization": [asdict(step) for step in _randomized(opened, explainer, pixels, explained)],
    }
    picture, numbers = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.json")
    write_png(check_figure(facts), picture)
    write_file(numbers, json.dumps(facts, indent=2))
    line = Line(str(picture.relative_to(opened.output)), "faithfulness", check_title(facts), _caption(facts))
    list_pictures(opened.output, [line])
    opened.progress(f"{picture}: {check_title(facts)}")
    return [picture, numbers]


def _randomized(opened: Opened, explainer: Explainer, pixels: Pixels, explained: Explained) -> list[Similarity]:
    """Compare the map with those of models whose weights are drawn anew, from the heads down to the stem."""
    hf = opened.segmenter.hf
    heads = [name for name in anatomy.head_names(hf) if "auxiliary" not in name]
    modules = [*reversed(heads), *reversed(anatomy.stages(hf)), *reversed(anatomy.stem(hf))]
    trained = [name for name in modules if any(True for _ in hf.get_submodule(name).parameters())]

    def explain() -> Float[Tensor, "h w"]:
        return explainer.heat_of(pixels, explained)

    steps = randomization_check(opened.segmenter, [f"hf.{name}" for name in trained], explain)
    return [Similarity(name, step.spearman, step.ssim) for name, step in zip(trained, steps, strict=True)]


def _caption(facts: dict[str, Any]) -> str:
    removed = {"blur": "blurred", "mean": "of its mean colour"}[facts["fill"]]
    return (
        f"mean probability of `{facts['class']}` over the explained region while pixels are removed (and "
        f"{removed}) or given back: by the map, at random, and by the map moved around the edges; how alike the map "
        "stays while weights are drawn anew from the head down"
    )
