"""Training: the loss by hand, augmentation by enumeration, and two whole recipes on few images."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from search.data import fashion
from search.data.batches import batch_that_fits, normalized_batches
from search.data.imagefolder import ImageFolderDataset
from search.models.card import Architecture, InputSpec
from search.models.checkpoint import build_backbone, load_checkpoint
from search.models.early_exit import EarlyExitModel
from search.tasks.torch_half import resolve_torch_task
from search.training.data import ArrayData
from search.training.loop import EpochReport, exit_loss, train
from search.training.plan import TrainRecipe
from search.training.recipes import Request, train_recipe


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(0)) * 2


TASK = resolve_torch_task("classification")
TARGETS = torch.tensor([0, 4, 2, 2, 1, 3])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("distillation", "heat"), [(0.0, 2.0), (0.5, 2.0), (2.0, 1.0)])
def test_exit_loss_by_hand(logits: Tensor, smoothing: float, distillation: float, heat: float):
    recipe = TrainRecipe(label_smoothing=smoothing, distillation=distillation, temperature=heat)
    values = logits.double().numpy()
    total = 0.0
    for sample, target in enumerate(TARGETS.tolist()):
        wanted = np.full(5, smoothing / 5)
        wanted[target] += 1 - smoothing
        for exit_index, weight in enumerate((1 / 4, 1 / 4, 2 / 4)):
            total -= weight * wanted @ log_softmax(values[sample, exit_index]) / 6
        teacher = log_softmax(values[sample, 2] / heat)
        for exit_index in (0, 1):
            student = log_softmax(values[sample, exit_index] / heat)
            divergence = np.exp(teacher) @ (teacher - student)
            total += distillation * heat**2 * divergence / (6 * 2)
    assert exit_loss(TASK, logits, TARGETS, recipe).item() == pytest.approx(total, rel=1e-5)


def test_exits_that_agree_are_not_pulled_and_the_last_is_never_pulled(logits: Tensor):
    none, full = TrainRecipe(distillation=0), TrainRecipe(distillation=5)
    agreed = logits[:, :1].expand(-1, 3, -1)
    assert exit_loss(TASK, agreed, TARGETS, full).item() == pytest.approx(
        exit_loss(TASK, agreed, TARGETS, none).item()
    )
    gradients = []
    for recipe in (none, full):
        leaf = logits.clone().requires_grad_()
        exit_loss(TASK, leaf, TARGETS, recipe).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0][:, -1], gradients[1][:, -1])
    assert not torch.allclose(gradients[0][:, :-1], gradients[1][:, :-1])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0), ("exit_epochs", -1), ("exit_epochs", 0.5), ("batch_size", 1),
        ("learning_rate", 0.0), ("learning_rate", 1.0),
        ("learning_rate", float("nan")), ("weight_decay", -0.1), ("weight_decay", 1.0),
        ("warmup_epochs", -1.0), ("warmup_epochs", float("nan")), ("distillation", -1),
        ("distillation", 11), ("temperature", 0.0), ("temperature", 101),
        ("label_smoothing", 1.0), ("label_smoothing", -0.1),
    ],
)  # fmt: skip
def test_a_recipe_refuses_values_out_of_range(option: str, value: float, refused):
    with refused(option, repr(value), "give"):
        TrainRecipe(**{option: value})


def test_a_recipe_refuses_an_endless_warm_up(refused):
    with refused("warmup_epochs", "inf"):
        TrainRecipe(warmup_epochs=float("inf"))


def test_batches_hold_each_image_at_most_once_normalized():
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 5, 2), np.uint8)
    data = ArrayData(images, np.arange(10), (0.5, 0.25), (2.0, 4.0), shift=0, flip=False)
    batches = list(data.batches(4, torch.Generator().manual_seed(0)))
    assert [len(targets) for _, targets in batches] == [4, 4]
    seen = torch.cat([targets for _, targets in batches]).tolist()
    assert len(set(seen)) == 8
    assert seen != sorted(seen)
    expected = (images[seen] / 255 - (0.5, 0.25)) / (2.0, 4.0)
    batch = torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1)
    np.testing.assert_allclose(batch, expected, atol=1e-6)


def test_augmentation_makes_every_flip_and_shift_and_nothing_else():
    image = np.random.default_rng(0).integers(1, 256, (1, 5, 6, 1), np.uint8)
    data = ArrayData(image.repeat(400, axis=0), np.zeros(400), (0.0,), (1.0,), shift=1)
    variants = set()
    for mirrored in (image[0, :, :, 0], image[0, :, ::-1, 0]):
        padded = np.pad(mirrored, 1)
        variants |= {padded[y : y + 5, x : x + 6].tobytes() for y in range(3) for x in range(3)}
    ((batch, _),) = data.batches(400, torch.Generator().manual_seed(0))
    made = {(one * 255).round().to(torch.uint8).numpy().tobytes() for one in batch[:, 0]}
    assert len(variants) == 18
    assert made == variants


def tiny_model(seed: int = 0, exits: tuple[int, ...] = (1, 2)) -> EarlyExitModel:
    architecture = Architecture(
        timm="vit_tiny_patch16_224",
        kwargs={
            "img_size": 28, "patch_size": 4, "in_chans": 1, "embed_dim": 16, "depth": 2,
            "num_heads": 2, "class_token": False, "global_pool": "avg",
        },
        stem="conv",
    )  # fmt: skip
    torch.manual_seed(seed)
    return EarlyExitModel(build_backbone(architecture, 10), exits, "linear", 10)


@pytest.fixture(scope="module")
def data() -> ArrayData:
    split = fashion.FashionDataset().split("calibration")
    return ArrayData(split.read(np.arange(512)), split.targets[:512], fashion.MEAN, fashion.STD)


def trained(data: ArrayData, seed: int = 0) -> tuple[EarlyExitModel, list[EpochReport]]:
    model, reports = tiny_model(), []
    recipe = TrainRecipe(
        epochs=2, batch_size=64, learning_rate=5e-3, warmup_epochs=0.5, seed=seed, compile=False
    )
    train(model, "classification", data, recipe, reports.append)
    return model, reports


def test_two_epochs_lower_the_loss_and_a_seed_gives_the_same_weights(data: ArrayData):
    model, reports = trained(data)
    assert [report.epoch for report in reports] == [1, 2]
    assert reports[1].loss < reports[0].loss
    assert reports[1].values[-1] > reports[0].values[-1]
    assert not model.training
    # 16 steps, 4 of warm-up: step 8 is a third of the cosine, the last one 11/12 of it.
    for report, done in zip(reports, (3 / 12, 11 / 12), strict=True):
        rate = 5e-3 * 0.5 * (1 + np.cos(np.pi * done))
        assert report.learning_rate == pytest.approx(rate)

    def loss(model: EarlyExitModel) -> float:
        generator = torch.Generator().manual_seed(1)
        with torch.inference_mode():
            return np.mean(
                [
                    exit_loss(TASK, model(images), targets, TrainRecipe()).item()
                    for images, targets in data.batches(64, generator)
                ]
            )

    assert loss(model) < 0.9 * loss(tiny_model().eval())

    again, other = trained(data)[0].state_dict(), trained(data, seed=1)[0].state_dict()
    weights = model.state_dict()
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    assert not all(torch.equal(other[name], value) for name, value in weights.items())


def test_fewer_images_than_a_batch_are_refused(data: ArrayData, refused):
    with refused("512 training images", "batch of 513"):
        train(tiny_model(), "classification", data, TrainRecipe(batch_size=513, compile=False))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 20)):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def run_recipe(name: str, folder: Path, output: Path, **changes: Any):
    options = {
        "overrides": changes.pop("overrides", {"epochs": 1, "batch_size": 8, "compile": False}),
        "say": changes.pop("say", lambda line: None),
    }
    request = Request(folder, **{"timm_model": "test_vit", **changes})
    return train_recipe(name, request, output, **options)


def test_a_folder_of_images_becomes_a_checkpoint_that_loads(folder: Path):
    output = folder / "out" / "insects.safetensors"
    lines: list[str] = []
    card = run_recipe("imagefolder", folder, output, say=lines.append)
    model, read = load_checkpoint(output)
    assert read == card
    assert card.classes == ("ant", "bee")
    assert card.exits.blocks == (2, 4, 6)
    assert card.exits.blocks[-1] == len(model.backbone.blocks)
    assert card.input.size == (3, 160, 160)
    assert (card.training["recipe"]["epochs"], card.data["train_images"]) == (1, 16)
    assert any(line.startswith("epoch   1/1") for line in lines)

    split = ImageFolderDataset(folder, card.input).split("search")
    images = torch.cat([*normalized_batches(split, card.input)])
    with torch.inference_mode():
        answers = model(images).argmax(-1).numpy()
    accuracies = (answers == split.targets[:, None]).mean(axis=0)
    assert card.training["search_accuracy_by_exit"] == pytest.approx(accuracies.tolist())


@pytest.mark.parametrize(("name", "depth"), [("fashion", 6), ("fashion-deep", 12)])
def test_published_files_become_a_checkpoint_that_loads(tmp_path: Path, name: str, depth: int):
    split = fashion.FashionDataset().split("calibration")
    for file, magic, sizes, values in (
        ("train-images-idx3-ubyte.gz", 2051, (64, 28, 28), split.read(np.arange(64))),
        ("train-labels-idx1-ubyte.gz", 2049, (64,), split.targets[:64].astype(np.uint8)),
    ):
        header = b"".join(number.to_bytes(4, "big") for number in (magic, *sizes))
        (tmp_path / file).write_bytes(gzip.compress(header + values.tobytes()))
    output = tmp_path / "fashion.safetensors"
    card = run_recipe(
        name,
        tmp_path,
        output,
        exits=(3, depth),
        head="mlp",
        overrides={"epochs": 1, "exit_epochs": depth // 12, "batch_size": 32, "compile": False},
    )
    model, read = load_checkpoint(output)
    assert read == card
    assert (card.exits.blocks, card.exits.head) == ((3, depth), "mlp")
    assert len(model.backbone.blocks) == depth
    assert card.name == name
    assert card.classes == fashion.CLASSES


def test_recipes_refuse_what_they_cannot_train(folder: Path, refused):
    output = folder / "out.safetensors"
    with refused("recipe 'cifar'", "fashion, fashion-deep, imagefolder"):
        run_recipe("cifar", folder, output)
    with refused("train-images"):
        run_recipe("fashion", folder, output)
    with refused("no folder", "nowhere/train"):
        run_recipe("imagefolder", folder / "nowhere", output)
    with refused("unknown timm model 'test_vitt'"):
        run_recipe("imagefolder", folder, output, timm_model="test_vitt")
    with refused("global pool 'map'"):
        run_recipe("imagefolder", folder, output, timm_model="test_vit3")
    with refused("[2, 4]", "end with 6"):
        run_recipe("imagefolder", folder, output, exits=(2, 4))
    with refused("16 training images", "batch of 32"):
        run_recipe("imagefolder", folder, output, overrides={"batch_size": 32})
    (folder / "val" / "cow").mkdir()
    with refused("'val/cow': a class folder without images"):
        run_recipe("imagefolder", folder, output)
    Image.new("RGB", (9, 9)).save(folder / "val" / "cow" / "0.png")
    with refused("differ in classes", "cow"):
        run_recipe("imagefolder", folder, output)
    for part in ("train", "val"):
        (folder / part / "bee").rename(folder / f"{part}-bee")
    with refused("one class only"):
        run_recipe("imagefolder", folder, output)
    assert not output.exists()


def test_a_backbone_without_blocks_is_refused(folder: Path, refused):
    with refused("ResNet"):
        run_recipe("imagefolder", folder, folder / "out.safetensors", timm_model="resnet18")


def test_a_damaged_training_image_is_named(folder: Path, refused):
    damaged = folder / "train" / "ant" / "3.png"
    damaged.write_bytes(b"junk")
    with refused("a fault", "'train/ant/3.png'", "no image of the formats"):
        run_recipe("imagefolder", folder, folder / "out.safetensors")


class Interrupted(Exception):
    """What stands for Ctrl-C."""


@pytest.mark.parametrize(("epochs", "exit_epochs"), [(3, 0), (1, 2), (2, 1)])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    folder: Path, epochs: int, exit_epochs: int
):
    whole, parts = folder / "whole.safetensors", folder / "parts.safetensors"
    overrides = {"epochs": epochs, "exit_epochs": exit_epochs, "batch_size": 8, "compile": False}
    run_recipe("imagefolder", folder, whole, overrides=overrides)
    assert not whole.with_suffix(".state").exists()

    def stop_after(words: str):
        def say(line: str) -> None:
            lines.append(line)
            if line.startswith(words):
                raise Interrupted

        return say

    lines: list[str] = []
    for words in ("epoch   1", "epoch   3", "held-out"):  # the last while it is scored
        with pytest.raises(Interrupted):
            run_recipe("imagefolder", folder, parts, overrides=overrides, say=stop_after(words))
        assert parts.with_suffix(".state").exists()
        assert not parts.exists()
    run_recipe("imagefolder", folder, parts, overrides=overrides, say=lines.append)
    epochs = [line.split()[1] for line in lines if line.startswith("epoch")]
    assert epochs == ["1/3", "2/3", "3/3"]
    one, other = load_file(whole), load_file(parts)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not parts.with_suffix(".state").exists()


def test_a_state_of_other_images_or_another_recipe_is_not_taken_up(folder: Path):
    output = folder / "out.safetensors"

    def stop(line: str) -> None:
        if line.startswith("held-out"):
            raise Interrupted

    with pytest.raises(Interrupted):
        run_recipe("imagefolder", folder, output, say=stop)
    lines: list[str] = []
    run_recipe("imagefolder", folder, output, augmentation="light", say=lines.append)
    assert any(line.startswith("epoch   1/1") for line in lines)


def test_a_frozen_backbone_stays_and_a_slow_one_moves_less(data: ArrayData):
    def moved(share: float) -> dict[str, float]:
        before, model = tiny_model().state_dict(), tiny_model()
        recipe = TrainRecipe(epochs=1, batch_size=64, backbone_rate=share, compile=False)
        train(model, "classification", data, recipe)
        assert all(parameter.requires_grad for parameter in model.parameters())
        return {
            name: float((value.float() - before[name].float()).abs().max())
            for name, value in model.state_dict().items()
        }

    frozen, slow, full = moved(0.0), moved(0.1), moved(1.0)
    for name, change in frozen.items():
        head = name.startswith(("heads.", "backbone.head."))
        assert bool(change) == head, name  # running figures of normalizations among them
    assert 0 < slow["backbone.blocks.0.mlp.fc1.weight"] < full["backbone.blocks.0.mlp.fc1.weight"]


def test_exits_learn_on_the_frozen_backbone_after_it_has_learned_by_its_last_alone(
    data: ArrayData,
):
    first, model = tiny_model().state_dict(), tiny_model()
    recipe = TrainRecipe(epochs=2, exit_epochs=1, batch_size=64, compile=False)
    reports: list[EpochReport] = []
    after: list[dict[str, Tensor]] = []

    def note(report: EpochReport) -> None:
        reports.append(report)
        after.append({name: value.clone() for name, value in model.state_dict().items()})

    train(model, "classification", data, recipe, note)
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name in first:
        steps = [first, *after]
        moved = [not torch.equal(steps[i][name], steps[i + 1][name]) for i in range(3)]
        exits = name.startswith("heads.")
        assert moved == [not exits, not exits, exits], name
    assert [(report.epoch, report.epochs) for report in reports] == [(1, 3), (2, 3), (3, 3)]
    assert [len(report.values) for report in reports] == [1, 1, 2]
    # The exits' schedule is their own: it rises and falls again.
    assert reports[1].learning_rate < reports[2].learning_rate

    # Its last exit has learned what it learns where there is no other.
    alone = tiny_model(exits=(2,))
    train(alone, "classification", data, TrainRecipe(epochs=2, batch_size=64, compile=False))
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=1e-6)


def test_without_earlier_exits_there_is_nothing_to_learn_after_the_backbone(data: ArrayData):
    reports: list[EpochReport] = []
    recipe = TrainRecipe(epochs=1, exit_epochs=3, batch_size=64, compile=False)
    train(tiny_model(exits=(2,)), "classification", data, recipe, reports.append)
    assert [(report.epoch, report.epochs) for report in reports] == [(1, 1)]


def test_images_of_another_size_are_trained_on(folder: Path):
    card = run_recipe("imagefolder", folder, folder / "out.safetensors", img_size=64)
    assert card.input.size == (3, 64, 64)
    assert load_checkpoint(folder / "out.safetensors")[1].input.size == (3, 64, 64)


@pytest.mark.parametrize(
    ("size", "words"),
    [(33, ["33", "patches of 16", "multiple"]), (100_000, ["100000", "2048"]), (1, ["1", "8"])],
)
def test_sizes_that_a_model_cannot_read_are_refused(folder: Path, size: int, words, refused):
    with refused("--img-size", *words):
        run_recipe("imagefolder", folder, folder / "out.safetensors", img_size=size)


def test_a_batch_that_is_scored_has_a_bounded_number_of_pixels():
    def images(side: int) -> int:
        spec = InputSpec(size=(3, side, side), mean=(0,) * 3, std=(1,) * 3)
        return batch_that_fits(spec)

    assert images(28) == 500
    assert images(384) == 13
    assert images(10_000) == 1
