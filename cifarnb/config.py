"""What determines one training run: a frozen, strictly checked record of plain values."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cifarnb.models import MODELS


class ConfigError(ValueError):
    """A parameter that does not exist, or whose value is not allowed; the message names both."""


def read_number(value: object) -> object:
    """A number that YAML 1.1 read as text (``1e-3`` has no dot) as the number meant; anything else as it is."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def _check_model(name: str) -> str:
    if name not in MODELS:
        raise ValueError(f"should be one of {', '.join(MODELS)}")
    return name


def _read_names(value: object) -> object:
    """One name, or a list of them as YAML and JSON have it, as a tuple; anything else as it is."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _check_each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or len(set(names)) < len(names):
        raise ValueError("should name one or several, each once")
    return names


VARIANT = ("neurons", "activation", "pooling", "batch_norm", "residual", "dropout")  # fields of the simple CNN alone

Number = Annotated[float, BeforeValidator(read_number)]
Directions = Annotated[
    tuple[Literal["gradient", "step"], ...], AfterValidator(_check_each_once), BeforeValidator(_read_names)
]


class Config(BaseModel):
    """The configuration of one run.  ``data`` and ``device`` say where it happens, all else what is computed.

    A default is never changed: runs are named by the fields that differ from theirs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model: Annotated[str, AfterValidator(_check_model)]  # a name of cifarnb.models.MODELS
    data: str = "auto"  # auto, cifar10, synthetic, or a path: cifar-10-python.tar.gz, its folder, or an .npz archive
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where the hardware has it
    width: Annotated[Number, Field(gt=0)] = 1.0  # of the network: a factor on its channels
    # The next are of the simple CNN alone.
    neurons: Annotated[Number, Field(gt=0)] = 1.0  # a factor on the neurons of its hidden linear layers
    activation: Literal["relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid"] = "relu"
    pooling: Literal["max", "average", "stride"] = "max"  # stride: convolutions of stride 2 in place of pooling
    batch_norm: bool = False  # after its convolutions
    residual: bool = False  # a connection around its second convolution
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0  # after its hidden linear layers
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # of the initial weights, the order of the images, the augmentation
    epochs: Annotated[int, Field(ge=1)] = 1  # passes over the training images
    train_size: Annotated[int, Field(ge=0)] = 0  # train on the first so many images; 0: on all
    test_size: Annotated[int, Field(ge=0)] = 0  # test on the first so many images; 0: on all
    validation_size: Annotated[int, Field(ge=0)] = 0  # the last so many training images are held out
    batch_size: Annotated[int, Field(ge=1)] = 128  # images per step
    augment: bool = False  # random crop with padding 4, and horizontal flip
    reflect_padding: Annotated[int, Field(ge=0, le=31)] = 0  # crop from so many pixels of mirrored edge instead; 0: not
    alternate_flips: bool = False  # every image is flipped in every second epoch, in place of at random
    cutout: Annotated[int, Field(ge=0, le=32)] = 0  # side, in pixels, of a grey square on every image; 0: none
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop", "muon"] = "sgd"
    lr: Annotated[Number, Field(gt=0)] = 1e-3  # learning rate, at its highest under a schedule
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9  # of SGD; of Muon, on filters
    nesterov: bool = False  # Nesterov's momentum, in SGD
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"  # mse: to the one-hot target, summed over the classes
    weight_decay: Annotated[Number, Field(ge=0)] = 0.0
    l1: Annotated[Number, Field(ge=0)] = 0.0  # so much of the sum of the weights' sizes, without biases, in the loss
    decay_biases: bool = True  # weight decay on biases and batch norm's parameters, too
    average_decay: Annotated[Number, Field(ge=0, lt=1)] = 0.0  # of a moving average of the weights, the result; 0: none
    # cosine: per epoch, to 0; per step: one_cycle, triangle (up, and down to 0), linear (down to 0)
    schedule: Literal["none", "cosine", "one_cycle", "triangle", "linear"] = "none"
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    tta: bool = False  # after the last epoch also test with test-time augmentation
    probe_every: Annotated[int, Field(ge=0)] = 0  # walk from the weights before every so many steps; 0: never
    probe_points: Annotated[int, Field(ge=2)] = 8  # on each walk, between ½ and 4 times the step size
    probe_along: Directions = ("gradient",)  # walk along the gradient, along the optimizer's own step, or one of each
    keep_path: bool = False  # keep the path of the weights, a point an epoch, on its two principal directions

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "Config":
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs optimizer sgd and a momentum above 0")
        return self

    @model_validator(mode="after")
    def _muon_is_tried_on_two_networks(self) -> "Config":
        if self.optimizer == "muon" and self.model not in ("fast_cnn", "simple_cnn"):
            raise ValueError("optimizer muon needs model fast_cnn or simple_cnn: its rates for biases are for these")
        return self

    @model_validator(mode="after")
    def _only_the_simple_cnn_has_variants(self) -> "Config":
        if self.model != "simple_cnn" and (varied := [name for name in VARIANT if name in self.asked()]):
            raise ValueError(f"{varied[0]} needs model simple_cnn")
        return self

    @model_validator(mode="after")
    def _a_residual_keeps_the_place(self) -> "Config":
        if self.residual and self.pooling == "stride":
            raise ValueError("residual needs pooling max or average: around a stride the places differ")
        return self

    @model_validator(mode="after")
    def _smoothing_is_of_the_cross_entropy(self) -> "Config":
        if self.loss == "mse" and self.label_smoothing:
            raise ValueError("label_smoothing needs loss cross_entropy")
        return self

    @model_validator(mode="after")
    def _what_changes_the_augmentation_needs_it(self) -> "Config":
        changed = [name for name in ("reflect_padding", "alternate_flips", "cutout") if getattr(self, name)]
        if changed and not self.augment:
            raise ValueError(f"{changed[0]} needs augment")
        return self

    @model_validator(mode="after")
    def _biases_are_left_out_of_a_decay(self) -> "Config":
        if not self.decay_biases and not self.weight_decay:
            raise ValueError("decay_biases false needs a weight_decay above 0")
        return self

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> "Config":
        if self.train_size and self.validation_size >= self.train_size:
            raise ValueError("validation_size must be smaller than train_size")
        return self

    @model_validator(mode="after")
    def _a_path_has_three_points(self) -> "Config":
        if self.keep_path and self.epochs < 2:
            raise ValueError("keep_path needs at least 2 epochs")
        return self

    @model_validator(mode="after")
    def _walks_need_a_loss_without_noise(self) -> "Config":
        if self.probe_every and (self.model == "vgg_a_noisy_bn" or self.dropout):
            noisy = "dropout" if self.dropout else self.model
            raise ValueError(f"probe_every: the loss of {noisy} differs from one evaluation to the next")
        return self

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(explain(error, type(self).model_fields)) from None

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], **values: Any) -> "Config":
        """The config whose fields are found by name among ``parameters`` (a notebook's ``globals()``, say).

        ``values`` come first.  Names that are no field are left alone.  Raises ConfigError on a value that is not
        allowed.
        """
        found = {name: parameters[name] for name in cls.model_fields if name in parameters}
        return cls(**(found | values))

    def replace(self, **changes: Any) -> "Config":
        """A copy with some fields changed, checked again."""
        return type(self)(**(self.model_dump() | changes))

    def network(self) -> dict[str, Any]:
        """What ``cifarnb.models.build_model`` needs to know of it, but the seed."""
        asked = self.asked()
        return {"name": self.model, "width": self.width} | {name: asked[name] for name in VARIANT if name in asked}

    def computed(self) -> dict[str, Any]:
        """The fields that determine the result: all but where it happens."""
        return {k: v for k, v in self.model_dump().items() if k not in ("data", "device")}

    def asked(self) -> dict[str, Any]:
        """Those of them that differ from their defaults: so a field that is added leaves finished runs their names."""
        fields = type(self).model_fields
        return {k: v for k, v in self.computed().items() if v != fields[k].default}


def explain(error: ValidationError, names: Iterable[str] = ()) -> str:
    """One line for all faults of a pydantic error: each with the field's name, what is allowed, and what came."""
    faults = []
    for fault in error.errors(include_url=False, include_context=False):
        where = str(fault["loc"][0]) if fault["loc"] else ""  # the field, also of a fault in one of its items
        if fault["type"] == "extra_forbidden":
            faults.append(unknown_name(where, names))
            continue
        what = fault["msg"].removeprefix("Value error, ")
        what = what[0].lower() + what[1:]
        faults.append(f"{where}: {what}, but it is {fault['input']!r}" if where else what)
    return "; ".join(faults)


def unknown_name(name: str, allowed: Iterable[str]) -> str:
    """One line for a name that does not exist: the nearest that does, and all of them."""
    allowed = list(allowed)
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    shown = name if name.strip() and name.isprintable() else repr(name)
    return f"{shown}: unknown{hint}; allowed: {', '.join(allowed)}"
