"""Images a second of explanation: maps of a classifier, zoom's box, SpineNet's evidence hotspots; beside captum.

    python tests/benchmarks/bench_explain.py

captum is called for one image at a time, on the same network with the same random weights, in a process of its own with
as many threads; ours has BatchNorm folded into convolutions and keeps its memory, as `mskray explain` does (without the
latter: 0.7 to 1 times as fast). What both give is checked to
be the same in float64: in float32 a sum in another order opens or closes a ReLU now and then, where a map then jumps by
a thousandth of its largest value. Work:

- guided backprop of a resnet18 and saliency of a mobilenet_v2, 224 px, of each image's predicted class: captum is told
  the class, which takes a pass forward;
- zoom: look at 448 px through 224 px, guided backprop, entropy, box, look again; the prototype's way ("the time per
  batch is very high, since the prototype uses a lot of computation on the host", ZHAW, section IV-B3) with captum,
  numpy and OpenCV;
- hotspots of a SpineNet of full width (9 × 112 × 224), for one task and for all: the mean over augmented copies that
  are mapped back. captum gets the copies that ours makes, one by one, for one task after the other. With "one branch"
  its network runs no other task's branch, which ours never does; without, it is called as it is.

Ours takes images in batches as `mskray explain` and `mskray predict` do.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import Case, Found, Reach, alternate, apart, main, rate, tell

OURS, CAPTUM, ONE_BRANCH = "mskray", "captum, image by image", "captum, image by image, one branch"
GOAL = 5.0
BATCH, SIZE, CANVAS = 16, 224, 448
DISCS, SHAPE, CONTEXT = 8, (9, 112, 224), (11, 128, 256)
"""Discs that `mskray explain` takes at once; slices, rows and columns of the network's input, and of the canvas."""
FEW = BATCH + 2
"""Images whose maps are compared."""
MAPS = (("guided_backprop", "resnet18"), ("saliency", "mobilenet_v2"))


def cases(options: argparse.Namespace) -> Iterator[Found]:
    images, copies, width = (4, 2, 0.1) if options.small else (32, 16, 1.0)
    for method, backbone in MAPS:
        what = f"{method} of {backbone} at {SIZE} px, {images} images"
        yield from _case(options, what, "images/s", "maps", {"method": method, "backbone": backbone, "images": images})
    what = f"zoom of resnet18, {CANVAS} to {SIZE} px, {images // 2} images"
    yield from _case(options, what, "images/s", "zoom", {"images": images // 2})
    for every in (False, True):
        what = f"hotspots of {'all tasks' if every else 'one task'} of a SpineNet, {copies} copies of each disc"
        given = {"every": every, "copies": copies, "width": width}
        yield from _case(options, what, "discs/s", "spots", given, (OURS, CAPTUM, ONE_BRANCH))


def _case(
    options: argparse.Namespace,
    what: str,
    unit: str,
    function: str,
    given: dict[str, Any],
    subjects: tuple[str, ...] = (OURS, CAPTUM),
) -> Iterator[Case]:
    if options.only not in what:
        return
    with tempfile.TemporaryDirectory() as folder:
        runs = alternate(
            {name: partial(apart, __file__, function, subject=name, folder=folder, **given) for name in subjects},
            options.rounds,
        )
        found = {name: np.load(Path(folder, f"{name}.npy")) for name in subjects}
    for name in subjects[1:]:
        peer = found[name]
        if function == "zoom":
            same = float((np.abs(found[OURS][: len(peer)] - peer).max(axis=1) < 1).mean())
            tell(f"same boxes: {same:.0%}")
            if same < 0.9:
                raise RuntimeError(f"{what}: {same:.0%} of the boxes are those of {name}")
        else:
            np.testing.assert_allclose(found[OURS][: len(peer)], peer, rtol=1e-6, atol=1e-9 * np.abs(peer).max())
    yield Case(what, unit, OURS, runs, [Reach(name, GOAL) for name in subjects[1:]])


def maps(subject: str, folder: str, method: str, backbone: str, images: int) -> float:
    import torch
    from captum.attr import GuidedBackprop, Saliency

    from mskray.explain.methods import METHODS
    from mskray.models.backbones import Backbone

    _begin(subject)
    network: Any = Backbone(backbone, 2).double().eval()
    if subject == OURS:
        network.fold()
    network.to(memory_format=torch.channels_last)
    pictures = _pictures(images, SIZE)

    def ours(given: Any) -> Any:
        return torch.cat([METHODS[method](network, part, None) for part in given.split(BATCH)])

    explainer: Any = (GuidedBackprop if method == "guided_backprop" else Saliency)(network)

    def peer(given: Any) -> Any:
        found = []
        for image in given.split(1):
            with torch.no_grad():
                target = network(image).argmax(dim=1)
            found.append(explainer.attribute(image.clone().requires_grad_(), target=target).squeeze(1))
        return torch.cat(found).detach()

    work = ours if subject == OURS else peer
    np.save(Path(folder, f"{subject}.npy"), work(pictures[:FEW].double()).numpy())
    network.float()
    work(pictures[:BATCH])
    return rate(images, partial(work, pictures))


def zoom(subject: str, folder: str, images: int) -> float:
    import torch
    from zoom_prototype import one_image

    from mskray.families.zoom import LookingConfig, ZoomRecipe

    _begin(subject)
    config = {"data": {"image_size": CANVAS}, "zoom": {"bundle": "none"}, "network": {"backbone": "resnet18"}}
    recipe = ZoomRecipe(LookingConfig.model_validate({**config, "input_size": SIZE}), 2)
    network = recipe.build().eval()
    if subject == OURS:
        network.fold()
    network.to(memory_format=torch.channels_last)
    given = _pictures(images, CANVAS)

    @torch.inference_mode()
    def ours() -> Any:
        return torch.cat([recipe.answer(network, {"image": part}).boxes["zoom"] for part in given.split(BATCH)])

    def peer() -> Any:
        return torch.from_numpy(np.stack([one_image(network, image, recipe) for image in given]))

    work = ours if subject == OURS else peer
    np.save(Path(folder, f"{subject}.npy"), work().numpy())
    return rate(images, work)


def spots(subject: str, folder: str, every: bool, copies: int, width: float) -> float:
    import torch

    from mskray.explain.hotspots import Copies, task_hotspots
    from mskray.imaging.spine import SPINE_TASKS
    from mskray.models.vgg_m import SpineNet

    _begin(subject)
    tasks = {name: len(classes) for name, classes in SPINE_TASKS.items()}
    network: Any = SpineNet(tasks, *SHAPE, width=width).to(memory_format=torch.channels_last).eval()
    asked = list(tasks) if every else [next(reversed(tasks))]
    many = Copies(copies)
    # An image at a time takes as long for the first disc as for any other.
    discs = torch.rand(DISCS, *CONTEXT)[: DISCS if subject == OURS else 1 if every else 2]

    def ours(given: Any) -> Any:
        targets = {task: torch.ones(len(given), dtype=torch.long) for task in asked}
        found = task_hotspots(partial(network, tasks=asked), given, targets, shape=SHAPE, copies=many)
        return torch.stack([found[task] for task in asked], dim=1)

    def peer(given: Any) -> Any:
        return torch.stack([_spots_singly(network, disc, asked, many, subject == ONE_BRANCH) for disc in given])

    work = ours if subject == OURS else peer
    network.double()
    np.save(Path(folder, f"{subject}.npy"), work(discs[:2].double()).numpy())
    network.float()
    work(discs[:1])
    return rate(len(discs), partial(work, discs))


def _spots_singly(network: Any, disc: Any, asked: list[str], many: Any, one_branch: bool) -> Any:
    """Hotspots of one disc (tasks, slices, rows, columns): captum's saliency of each copy, task by task."""
    import torch
    from captum.attr import Saliency

    from mskray.explain.hotspots import _copied, _drawn
    from mskray.models.sampling import warp

    slices, rows, columns = SHAPE
    plan, found = _drawn(many, disc[None], SHAPE), []
    for task in asked:
        explainer = Saliency(partial(_logits, network, task, one_branch))
        total, coverage = disc.new_zeros(2, len(disc), rows, columns)
        for number in range(many.number):
            one = plan.part(number, number + 1)
            copy, seen = _copied(disc[None], one, SHAPE).requires_grad_(), one.views.slices[0]
            slope = explainer.attribute(copy, target=1)
            total.index_add_(0, seen, warp(slope, one.back, rows, columns, "zeros")[0])
            shown = warp(disc.new_ones(1, slices, rows, columns), one.back, rows, columns, "zeros")[0]
            coverage.index_add_(0, seen, shown)
        first = (len(disc) - slices) // 2
        found.append((total / coverage.clamp(min=1e-6))[first : first + slices])
    return torch.stack(found)


def _logits(network: Any, task: str, one_branch: bool, volumes: Any) -> Any:
    return network(volumes, tasks={task} if one_branch else None)[task]


def _begin(subject: str) -> None:
    """All cores, and the same draws for every subject; ours keeps its memory, as `mskray explain` does."""
    import warnings

    import torch

    from mskray.training.memory import keep_memory

    if subject == OURS:
        keep_memory()

    warnings.simplefilter("ignore")  # captum says each time that it sets hooks
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)


def _pictures(count: int, side: int) -> Any:
    import torch

    from mskray.imaging.phantoms import PhantomSpec, render

    spec = PhantomSpec(patients=count, image_size=side)
    pictures = np.zeros((count, 1, side, side), np.float32)
    for number, picture in enumerate(pictures[:, 0]):
        pixels = render(spec, number, 0).pixels[:side, :side]
        picture[: len(pixels), : pixels.shape[1]] = pixels / 255.0
    return torch.from_numpy(pictures)


if __name__ == "__main__":
    main(cases, maps, zoom, spots)
