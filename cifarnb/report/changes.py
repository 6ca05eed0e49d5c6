"""Section 1.5, one change at a time: the runs that it asks for, what they show, and the words for it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cifarnb.config import Config
from cifarnb.data import CIFAR10_CLASSES
from cifarnb.models import build_model, count_multiply_adds, count_parameters
from cifarnb.report.significance import (
    accuracy,
    beats_guessing,
    corrected_intervals,
    corrected_sampling,
    counted,
    error_in_blocks,
    mean_and_interval,
)
from cifarnb.runs import Run

BASE = "base"
MOMENTUM = "SGD, momentum"  # the base's optimizer
_PLAIN: dict[str, Any] = {"model": "simple_cnn", "optimizer": "sgd", "momentum": 0.9, "nesterov": False}
# Group → what is changed → the fields in which that differs from the base.
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "filters": {
        "½ × filters": {"width": 0.5},
        "2 × filters": {"width": 2.0},
        "4 × filters": {"width": 4.0},
    },
    "neurons": {
        "½ × neurons": {"neurons": 0.5},
        "2 × neurons": {"neurons": 2.0},
        "4 × neurons": {"neurons": 4.0},
    },
    "activation": {
        "LeakyReLU": {"activation": "leaky_relu"},
        "GELU": {"activation": "gelu"},
        "SiLU": {"activation": "silu"},
        "tanh": {"activation": "tanh"},
        "sigmoid": {"activation": "sigmoid"},
    },
    "loss": {
        "label smoothing": {"label_smoothing": 0.1},
        "squared error": {"loss": "mse"},
    },
    "regularisation": {
        "weight decay": {"weight_decay": 5e-4},
        "L1 penalty": {"l1": 1e-5},
        "dropout": {"dropout": 0.25},
        "crop and flip": {"augment": True},
    },
    "structure": {
        "batch norm": {"batch_norm": True},
        "residual connection": {"residual": True},
        "average pooling": {"pooling": "average"},
        "stride, no pooling": {"pooling": "stride"},
    },
}
# The parameter with the learning rates of each optimizer, and its fields; AdamW without a decay would be Adam.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    MOMENTUM: ("momentum_lrs", {}),
    "plain SGD": ("sgd_lrs", {"momentum": 0.0}),
    "SGD, Nesterov": ("nesterov_lrs", {"nesterov": True}),
    "RMSprop": ("rmsprop_lrs", {"optimizer": "rmsprop"}),
    "Adam": ("adam_lrs", {"optimizer": "adam"}),
    "AdamW": ("adamw_lrs", {"optimizer": "adamw", "weight_decay": 0.01}),
    "Muon": ("muon_lrs", {"optimizer": "muon"}),
}


def entry_configs(given: Mapping[str, Any]) -> dict[str, dict[str, list[Config]]]:
    """Group → what is changed → its runs, one a seed, from the section's parameters; the base is the first group."""
    optimizers = {
        name: fields | {"lr": given[rates][0]} for name, (rates, fields) in OPTIMIZERS.items() if name != MOMENTUM
    }
    groups = {BASE: {BASE: {}}, **CHANGES, "optimizer": optimizers}
    return {
        group: {name: _configs(given, given["seeds"], **fields) for name, fields in of.items()}
        for group, of in groups.items()
    }


def tried_configs(given: Mapping[str, Any]) -> dict[str, dict[str, list[Config]]]:
    """Optimizer → learning rate → its runs with training images held out; the first rate is the one that is used."""
    held_out = {"validation_size": given["held_out"]}
    return {
        name: {
            f"{lr:g}": _configs(given, given["tried_seeds"], **fields, **held_out, lr=lr) for lr in given[rates]
        }
        for name, (rates, fields) in OPTIMIZERS.items()
    }  # fmt: skip


def all_configs(given: Mapping[str, Any]) -> list[Config]:
    """The same in a row, those of the base first."""
    kinds = (entry_configs(given), tried_configs(given))
    return [config for groups in kinds for of in groups.values() for same in of.values() for config in same]


def _configs(given: Mapping[str, Any], seeds: Sequence[int], **fields: Any) -> list[Config]:
    base = _PLAIN | {"lr": given[OPTIMIZERS[MOMENTUM][0]][0]}
    return [Config.from_parameters(given, **base | fields, seed=seed) for seed in seeds]
