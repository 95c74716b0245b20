"""Weights to begin from: whole or refused, heads kept where they fit, what was taken is said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from search.models.card import Architecture
from search.models.checkpoint import build_backbone
from search.models.early_exit import EarlyExitModel
from search.models.pretrained import Taken, read_weights, take_weights

NAME = "test_vit"


def new_model(classes: int = 3, exits: tuple[int, ...] = (2, 4, 6), **kwargs) -> EarlyExitModel:
    backbone = build_backbone(Architecture(timm=NAME, kwargs=kwargs), classes)
    return EarlyExitModel(backbone, exits, "linear", classes)


def timm_weights(classes: int = 3) -> dict[str, Tensor]:
    """Those of a model that timm made, with numbers that no other has."""
    model = timm.create_model(NAME, num_classes=classes)
    return {name: torch.randn_like(value) for name, value in model.state_dict().items()}


def save(tensors: Mapping[str, Tensor], folder: Path) -> Path:
    path = folder / "w.safetensors"
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return path


def take(tensors: Mapping[str, Tensor], folder: Path, model: EarlyExitModel, prefix="") -> Taken:
    return take_weights(model, read_weights(save(tensors, folder), prefix))


def test_a_head_for_as_many_classes_is_kept_though_timm_has_a_thousand(tmp_path: Path):
    weights, model = timm_weights(), new_model()
    taken = take(weights, tmp_path, model)
    found = model.backbone.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert (
        str(taken) == f"all {len(weights) - 2} tensors of the backbone; the head, whose shape fits"
    )


def test_a_head_for_other_classes_is_left_out_and_that_is_said(tmp_path: Path):
    weights, model = timm_weights(classes=5), new_model()
    before = model.backbone.head.weight.clone()
    taken = take({**weights, "logit_scale": torch.ones(1)}, tmp_path, model)
    assert torch.equal(model.backbone.head.weight, before)
    assert torch.equal(model.backbone.norm.weight, weights["norm.weight"])
    assert "not the head, which is for 5 classes" in str(taken)
    assert taken.left == ("logit_scale",)
    assert "not taken: logit_scale" in str(taken)


def test_weights_without_a_head_are_taken(tmp_path: Path):
    weights = {k: v for k, v in timm_weights().items() if not k.startswith("head.")}
    assert "no head is in the file" in str(take(weights, tmp_path, new_model()))


@pytest.mark.parametrize("prefix", ["module.", "model.encoder."])
def test_another_prefix_is_refused_by_its_name_and_taken_off_when_asked(
    tmp_path: Path, prefix: str, refused
):
    weights, model = timm_weights(), new_model()
    prefixed = {f"{prefix}{name}": value for name, value in weights.items()}
    with refused("lacks", "cls_token", f"--weights-prefix {prefix}"):
        take(prefixed, tmp_path, model)
    take({**prefixed, "other.x": torch.ones(1)}, tmp_path, model, prefix)
    assert torch.equal(model.backbone.pos_embed, weights["pos_embed"])
    with refused("no name", "'absent.'", prefix):
        read_weights(tmp_path / "w.safetensors", "absent.")


def test_half_a_model_or_another_one_is_refused_and_nothing_changes(tmp_path: Path, refused):
    weights, model = timm_weights(), new_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    half = {name: value for name, value in weights.items() if not name.startswith("blocks.5.")}
    with refused("lacks 12 of", "blocks.5.norm1.weight", "and 9 more"):
        take(half, tmp_path, model)
    one_less = {name: value for name, value in weights.items() if name != "norm.bias"}
    with refused("lacks 1 of", "norm.bias"):
        take(one_less, tmp_path, model)
    with refused("lacks", "it holds conv.weight", "--model"):
        take({"conv.weight": torch.ones(2)}, tmp_path, model)
    with refused("lacks"):
        take({}, tmp_path, model)
    wider = {**weights, "norm.weight": torch.ones(999)}
    with refused("another model", "norm.weight is [999] there"):
        take(wider, tmp_path, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_our_own_checkpoint_gives_its_exit_heads_too(tmp_path: Path):
    source, model = new_model(), new_model(exits=(1, 2, 6))
    taken = take(source.state_dict(), tmp_path, model)
    assert taken.exits == (2,)
    mine, theirs = model.state_dict(), source.state_dict()
    for name in ("backbone.pos_embed", "backbone.head.weight", "heads.2.fc.weight"):
        assert torch.equal(mine[name], theirs[name])
    assert {name.rpartition(".fc")[0] for name in taken.left if ".fc" in name} == {"heads.4"}
    assert take(source.state_dict(), tmp_path, new_model(classes=4)).exits == ()


def test_position_embeddings_of_another_size_are_resampled(tmp_path: Path):
    model = new_model(img_size=96)
    take(timm_weights(), tmp_path, model)
    assert model.backbone.pos_embed.shape[1] == 1 + 36


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, refused):
    damaged = tmp_path / "w.safetensors"
    damaged.write_bytes(b"\x80\x04K\x01.")
    with refused("cannot read", "w.safetensors"):
        read_weights(damaged)
    with refused("not a .safetensors file"):
        read_weights(tmp_path / "w.pth")
