"""Checkpoints: what is saved comes back, and every damaged or foreign pair is refused."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from search.digest import digest_of_file
from search.models.card import Architecture, Exits, InputSpec, ModelCard
from search.models.checkpoint import build_backbone, build_model, load_checkpoint, save_checkpoint

CARD = ModelCard(
    name="small",
    task="classification",
    architecture=Architecture(
        timm="vit_tiny_patch16_224",
        kwargs={"img_size": 16, "patch_size": 8, "embed_dim": 24, "num_heads": 3, "depth": 2},
        stem="conv",
    ),
    exits=Exits(blocks=(1, 2), head="mlp"),
    classes=("cat", "dog", "yak"),
    input=InputSpec(size=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3),
    training={"seconds": 3},
    weights_sha256="0" * 64,
)


def save(path: Path, seed: int = 0) -> tuple[torch.nn.Module, ModelCard]:
    torch.manual_seed(seed)
    model = build_model(CARD).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer += torch.randn_like(buffer)
    return model, save_checkpoint(model, CARD, path)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save(path)
    return path


def test_a_saved_model_answers_the_same_when_loaded(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "model.safetensors"
    model, card = save(path)
    again, read = load_checkpoint(path)
    images = torch.randn(5, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
    assert not again.training
    assert read == card == CARD.model_copy(update={"weights_sha256": digest_of_file(path)})
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "model.json",
        "model.safetensors",
    ]


def test_saving_again_replaces_the_pair(weights: Path):
    model, _ = save(weights, seed=1)
    again, _ = load_checkpoint(weights)
    assert all(
        torch.equal(one, other)
        for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_the_digest_covers_what_decides_the_answers_and_nothing_else():
    other_exits = CARD.model_copy(update={"exits": Exits(blocks=(1, 2))})
    other_weights = CARD.model_copy(update={"weights_sha256": "1" * 64})
    renamed = CARD.model_copy(update={"name": "large", "training": {}, "data": {"x": 1}})
    assert len({CARD.digest, other_exits.digest, other_weights.digest}) == 3
    assert renamed.digest == CARD.digest


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def swap_weights(path: Path) -> None:
    save(path.with_name("other.safetensors"), seed=1)
    path.with_name("other.safetensors").replace(path)


def change_card(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        card = path.with_suffix(".json")
        card.write_text(json.dumps({**json.loads(card.read_text()), **changes}))

    return change


def write_card(text: str) -> Callable[[Path], None]:
    return lambda path: path.with_suffix(".json").write_text(text)


def reseal(path: Path) -> None:
    change_card(weights_sha256=digest_of_file(path))(path)


def drop_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors["heads.1.fc2.bias"]
    save_file(tensors, path)
    reseal(path)


def no_safetensors_but_resealed(path: Path) -> None:
    path.write_bytes(b"\x80\x04K\x01.")  # a pickle
    reseal(path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, ["digest", "its card says"]),
        (flip_a_byte, ["digest", "its card says"]),
        (swap_weights, ["digest", "its card says"]),
        (Path.unlink, ["cannot read checkpoint", "small.safetensors"]),
        (lambda path: path.with_suffix(".json").unlink(), ["cannot read model card", "small.json"]),
        (write_card("weights"), ["not a model card", "Invalid JSON"]),
        (write_card("[]"), ["not a model card"]),
        (write_card("{}"), ["not a model card", "Field required"]),
        (change_card(colour="red"), ["not a model card", "colour"]),
        (change_card(card_schema=2), ["not a model card", "card_schema"]),
        (change_card(weights_sha256="abc"), ["not a model card", "weights_sha256"]),
        (change_card(exits={"blocks": [], "head": "mlp"}), ["not a model card", "exits.blocks"]),
        (change_card(exits={"blocks": [1], "head": "mlp"}), ["[1]", "end with 2"]),
        (change_card(exits={"blocks": [1, 2], "head": "deep"}), ["'deep'", "linear, mlp"]),
        (change_card(exits={"blocks": [1, 2], "head": "linear"}), ["does not hold the tensors"]),
        (change_card(classes=["cat", "dog"]), ["does not hold the tensors"]),
        (drop_a_tensor, ["does not hold the tensors"]),
        (no_safetensors_but_resealed, ["does not hold the tensors"]),
    ],
    ids=[
        "truncated", "flipped", "swapped", "no-weights", "no-card", "text-card", "list-card",
        "empty-card", "unknown-field", "schema", "short-digest", "no-exits", "exits-end-early",
        "unknown-head", "other-head", "fewer-classes", "missing-tensor", "pickle",
    ],
)  # fmt: skip
def test_a_pair_that_does_not_fit_is_refused(weights: Path, damage, words, refused):
    damage(weights)
    with refused(*words):
        load_checkpoint(weights)


def test_the_digest_is_checked_before_the_file_is_parsed_or_the_model_built(weights: Path, refused):
    change_card(exits={"blocks": [1], "head": "deep"})(weights)  # would be refused later
    weights.write_bytes(b"no tensors at all")
    with refused("digest", "its card says"):
        load_checkpoint(weights)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ""])
def test_names_of_other_formats_are_never_opened(weights: Path, suffix: str, refused):
    other = weights.with_suffix(suffix)
    weights.rename(other)
    with refused(f"small{suffix}'", "not a .safetensors file"):
        load_checkpoint(other)


def test_an_impossible_folder_is_refused_and_nothing_is_left(tmp_path: Path, refused):
    file = tmp_path / "file"
    file.write_text("here")
    with refused("cannot write checkpoint", "writable folder"):
        save(file / "below" / "model.safetensors")
    assert [*tmp_path.iterdir()] == [file]


def test_a_folder_in_the_place_of_the_file_is_refused_and_nothing_is_left(tmp_path: Path, refused):
    target = tmp_path / "model.safetensors"
    target.mkdir()
    with refused("cannot write checkpoint"):
        save(target)
    assert [*tmp_path.iterdir()] == [target]


def test_saving_under_another_format_s_name_is_refused(tmp_path: Path, refused):
    with refused(".safetensors"):
        save(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("name", "near"),
    [("vit_tiny_patch16_225", "vit"), ("deit_tinny", "deit"), ("zzz", "timm.list")],
)
def test_an_unknown_timm_name_is_refused_with_names_near_it(name: str, near: str, refused):
    with refused(repr(name), near):
        build_backbone(Architecture(timm=name), 10)


def test_the_names_near_a_slip_of_the_pen_hold_the_right_one(refused):
    with refused("vit_tiny_patch16_224"):
        build_backbone(Architecture(timm="vit_tinny_patch16_224"), 10)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"wings": 2},
        {"num_heads": 7},
        {"depth": "two"},
        {"img_size": -1},
        {"num_classes": 3},
        {"global_pool": "sideways"},
        {"num_heads": 0},
        {"patch_size": 0},
        {"embed_dim": -4},
        {"norm_layer": "sideways"},
    ],
    ids=str,
)
def test_arguments_that_timm_cannot_use_are_refused(kwargs: dict[str, Any], refused):
    with refused(next(iter(kwargs))):
        build_backbone(Architecture(timm="test_vit", kwargs=kwargs), 10)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"checkpoint_path": "/etc/passwd"},
        {"pretrained": True},
        {"pretrained_cfg_overlay": {"file": "/etc/passwd"}},
        {"cache_dir": "/tmp"},
        {"block_fn": "os.system"},
        {"embed_dim": 10**9},
        {"depth": 10**6},
        {"depth": True},
        {"img_size": [10**6, 10**6]},
        {"mlp_ratio": float("inf")},
        {"act_layer": "os.system('x')"},
    ],
    ids=str,
)
def test_a_card_hands_only_what_describes_a_network_to_timm(
    weights: Path, kwargs: dict[str, Any], refused
):
    given = {**CARD.architecture.kwargs, **kwargs}
    change_card(architecture={**CARD.architecture.model_dump(), "kwargs": given})(weights)
    with refused("is not a model card", f"argument {next(iter(kwargs))}"[:9], next(iter(kwargs))):
        load_checkpoint(weights)


@pytest.mark.parametrize(
    ("architecture", "depth"),
    [
        ({"timm": "vit_giant_patch14_224", "kwargs": {}}, 40),
        ({"timm": "test_vit", "kwargs": {"depth": 1000, "embed_dim": 4096, "num_heads": 1}}, 1000),
    ],
)
def test_a_card_of_a_larger_network_takes_no_memory(
    weights: Path,
    architecture: dict[str, Any],
    depth: int,
    refused,
    monkeypatch: pytest.MonkeyPatch,
):
    from search.models import checkpoint

    def read(path: Path) -> None:
        raise AssertionError("the file was read")

    monkeypatch.setattr(checkpoint, "load_file", read)
    described = {"architecture": {**architecture, "stem": "patch"}, "exits": {"blocks": [depth]}}
    change_card(**described)(weights)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with refused("does not hold the tensors"):
        load_checkpoint(weights)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # of gigabytes


def test_an_unknown_stem_is_refused_when_the_model_is_built(weights: Path, refused):
    change_card(architecture={**CARD.architecture.model_dump(), "stem": "fold"})(weights)
    with refused("unknown stem 'fold'", "conv, patch"):
        load_checkpoint(weights)


@pytest.mark.parametrize(("patch", "image"), [(6, 24), (1, 16), (8, 20)])
def test_a_conv_stem_that_cannot_tile_the_image_is_refused(patch: int, image: int, refused):
    architecture = CARD.architecture.model_copy(
        update={"kwargs": {**CARD.architecture.kwargs, "patch_size": patch, "img_size": image}}
    )
    with refused(f"{patch}-pixel", f"{image}-pixel"):
        build_backbone(architecture, 10)
