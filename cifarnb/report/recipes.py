"""The runs of section 1.4: one recipe for four networks, the published one of the fifth, and what was tried."""

from collections.abc import Mapping
from typing import Any

from cifarnb.config import Config

FAST = "fast_cnn"
# With K. Jordan's Muon (airbench94_muon, 2024, after arXiv 2404.00498), its rates for the mean over a batch.
MUON: dict[str, Any] = {
    "optimizer": "muon",
    "lr": 0.24,
    "momentum": 0.6,
    "nesterov": False,
    "weight_decay": 0.0024,
    "decay_biases": True,
    "schedule": "linear",
    "label_smoothing": 0.2,
    "augment": True,
    "reflect_padding": 2,
    "alternate_flips": True,
    "average_decay": 0.0,
}
SGD: dict[str, Any] = MUON | {  # as in arXiv 2404.00498, but without its look-ahead
    "optimizer": "sgd",
    "momentum": 0.85,
    "nesterov": True,
    "weight_decay": 0.0013,
    "schedule": "triangle",
}
# The fields of the recipe by what they are in it, in the order in which they take the place of the write-up's.
WRITE_UP = "the write-up's recipe"
INGREDIENTS: dict[str, tuple[str, ...]] = {
    "Nesterov SGD under one cycle": ("optimizer", "schedule", "nesterov", "lr", "batch_size"),
    "weight decay on weights": ("weight_decay", "decay_biases"),
    "alternating flips": ("alternate_flips",),
    "label smoothing": ("label_smoothing",),
    "average of the weights": ("average_decay",),
}
LEFT_OUT = "cutout"  # what was tried on top of them, and is not in the recipe
GAP = "resnet6"  # the network that shows what they are worth


def network_configs(given: Mapping[str, Any]) -> dict[str, list[Config]]:
    """Network → its runs, one a seed, from the section's parameters."""
    simple = {"epochs": given["simple_epochs"], "lr": given["simple_lr"]}
    vgg = {"epochs": given["vgg_epochs"], "lr": given["vgg_lr"]}
    return {
        "simple_cnn": _configs(given, "simple_cnn", given["seeds"], width=1.0, **simple),
        "resnet6": _configs(given, "resnet6", given["seeds"], width=1.0),
        "resnet9": _configs(given, "resnet9", given["seeds"], width=1.0),
        "vgg_a_bn": _configs(given, "vgg_a_bn", given["vgg_seeds"], **vgg),
        FAST: _configs(given, FAST, given["seeds"], **MUON, **_fast(given)),
    }


def sgd_configs(given: Mapping[str, Any]) -> list[Config]:
    """The network made for speed with SGD in place of Muon, for as many steps."""
    return _configs(given, FAST, given["sgd_seeds"], **SGD | {"lr": given["fast_sgd_lr"]}, **_fast(given))


def ladder_configs(given: Mapping[str, Any]) -> dict[str, list[Config]]:
    """From the write-up's recipe to this one, an ingredient at a time; a rung has those before it.

    All with as many epochs, and with images held out.  An ingredient that the recipe leaves out has no rung.
    """
    plain: dict[str, Any] = {
        **{"optimizer": "adam", "schedule": "cosine", "nesterov": False, "lr": given["write_up_lr"]},
        **{"batch_size": given["write_up_batch_size"], "weight_decay": 0.0, "decay_biases": True},
        **{"alternate_flips": False, "label_smoothing": 0.0, "average_decay": 0.0},
    }
    rungs = {WRITE_UP: _tried(given, **plain)}
    for name, fields in INGREDIENTS.items():
        plain = {field: value for field, value in plain.items() if field not in fields}
        if (rung := _tried(given, **plain)) not in rungs.values():
            rungs[name] = rung
    return rungs


def left_out_configs(given: Mapping[str, Any]) -> dict[str, list[Config]]:
    """The whole recipe and what is left out of it, on the images that the ladder is on."""
    return {LEFT_OUT: _tried(given, cutout=given["tried_cutout"])}


def long_configs(given: Mapping[str, Any]) -> list[Config]:
    """The same with all training images and as many epochs as the network's result has."""
    return _configs(given, GAP, given["tried_seeds"], width=1.0, cutout=given["tried_cutout"])


def variant_configs(given: Mapping[str, Any]) -> dict[str, list[Config]]:
    """The recipe with what is left out of it and another value of one field, on the images that the ladder is on."""
    cutout = {"cutout": given["tried_cutout"]}
    rates = {f"learning rate {lr:g}": {"lr": lr} for lr in given["tried_lrs"]}
    decays = {f"weight decay {decay:g}": {"weight_decay": decay} for decay in given["tried_weight_decays"]}
    return {name: _tried(given, **cutout, **fields) for name, fields in (rates | decays).items()}


def by_kind(given: Mapping[str, Any]) -> dict[str, dict[str, list[Config]]]:
    """Every run of the section: what it is for → of what → runs, which differ in the seed."""
    return {
        "networks": network_configs(given),
        "sgd": {FAST: sgd_configs(given)},
        "ladder": ladder_configs(given),
        "left_out": left_out_configs(given),
        "long": {GAP: long_configs(given)},
        "variants": variant_configs(given),
    }


def all_configs(given: Mapping[str, Any]) -> list[Config]:
    """The same in a row, those of the networks first."""
    return [config for of in by_kind(given).values() for same in of.values() for config in same]


def _configs(given: Mapping[str, Any], model: str, seeds: list[int], **fields: Any) -> list[Config]:
    return [Config.from_parameters(given, model=model, seed=seed, **fields) for seed in seeds]


def _fast(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"epochs": given["fast_epochs"], "batch_size": given["fast_batch_size"]}


def _tried(given: Mapping[str, Any], **fields: Any) -> list[Config]:
    there = {"epochs": given["tried_epochs"], "validation_size": given["held_out"], "tta": False}
    there["width"] = given["tried_width"]
    return _configs(given, GAP, given["tried_seeds"], **there, **fields)
