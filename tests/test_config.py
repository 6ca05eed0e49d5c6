import json
import math

import pytest
from pydantic import ValidationError

from cifarnb.config import VARIANT, Config, ConfigError, read_number, unknown_name

FORBIDDEN = [
    ("model", "simple"),
    ("model", 3),
    ("data", None),
    ("device", "mps"),
    ("precision", "float16"),
    ("width", 0),
    ("width", -0.5),
    ("width", math.inf),
    ("width", "narrow"),
    ("neurons", 0),
    ("activation", "ReLU"),
    ("pooling", "min"),
    ("batch_norm", 1),
    ("residual", "yes"),
    ("dropout", 1),
    ("dropout", -0.1),
    ("loss", "l2"),
    ("l1", -1e-9),
    ("seed", -1),
    ("seed", 2**32),
    ("seed", 1.0),
    ("epochs", 0),
    ("epochs", 1.5),
    ("epochs", "3"),
    ("train_size", -1),
    ("test_size", -1),
    ("batch_size", 0),
    ("augment", 1),
    ("augment", "true"),
    ("reflect_padding", -1),
    ("reflect_padding", 32),
    ("alternate_flips", 1),
    ("cutout", -1),
    ("cutout", 33),
    ("optimizer", "SGD"),
    ("lr", 0),
    ("lr", -0.1),
    ("lr", "fast"),
    ("lr", "nan"),
    ("lr", math.nan),
    ("lr", math.inf),
    ("lr", None),
    ("momentum", -0.1),
    ("momentum", 1),
    ("nesterov", "yes"),
    ("weight_decay", -1e-9),
    ("decay_biases", 0),
    ("average_decay", -0.1),
    ("average_decay", 1),
    ("tta", "yes"),
    ("schedule", None),
    ("schedule", "step"),
    ("label_smoothing", -0.1),
    ("label_smoothing", 1.0),
    ("probe_along", "sideways"),
    ("probe_along", ()),
    ("probe_along", ("step", "step")),
    ("probe_along", None),
    ("probe_along", 1),
]
NUMBERS = ["width", "seed", "epochs", "train_size", "test_size", "batch_size", "lr", "momentum", "weight_decay"]
EXTREMES = [
    {"seed": 0, "epochs": 1, "train_size": 0, "test_size": 0, "batch_size": 1, "momentum": 0, "label_smoothing": 0},
    {"seed": 2**32 - 1, "momentum": 0.999, "label_smoothing": 0.999, "lr": 1, "weight_decay": 10},
]


def configure(**values):
    return Config(**({"model": "simple_cnn"} | values))


@pytest.mark.parametrize(("name", "value"), FORBIDDEN)
def test_a_value_that_is_not_allowed_is_refused_with_its_name(name, value):
    with pytest.raises(ConfigError) as refused:
        configure(**{name: value})
    message = str(refused.value)
    assert message.startswith(f"{name}: ")
    assert repr(value) in message
    assert "\n" not in message


@pytest.mark.parametrize("name", NUMBERS)
def test_a_truth_value_is_no_number(name):
    with pytest.raises(ConfigError, match=f"^{name}: .* True$"):
        configure(**{name: True})


@pytest.mark.parametrize("values", EXTREMES)
def test_the_ends_of_the_ranges_are_allowed(values):
    assert configure(**values).model_dump().items() >= values.items()


def test_all_faults_are_named_at_once():
    with pytest.raises(ConfigError) as refused:
        configure(epochs=0, optimizer="sdg")
    assert str(refused.value).count("; ") == 1
    assert "epochs: " in str(refused.value)
    assert "optimizer: input should be 'sgd', 'adam', 'adamw', 'rmsprop' or 'muon', but it is 'sdg'" in str(
        refused.value
    )


def test_a_model_that_does_not_exist_is_answered_with_those_that_do():
    with pytest.raises(ConfigError, match="simple_cnn, resnet6, resnet9, vgg_a, vgg_a_bn"):
        configure(model="resnet18")


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError) as refused:
        configure(batch_sise=3)
    assert str(refused.value).startswith("batch_sise: unknown (did you mean batch_size?); allowed: model, data, ")


def test_a_name_far_from_all_gets_no_suggestion():
    assert unknown_name("zzz", ["lr", "epochs"]) == "zzz: unknown; allowed: lr, epochs"


@pytest.mark.parametrize("values", [{"optimizer": "adam"}, {"momentum": 0.0}])
def test_nesterov_needs_momentum(values):
    with pytest.raises(ConfigError, match="nesterov needs"):
        configure(nesterov=True, **values)
    assert configure(nesterov=True).nesterov


@pytest.mark.parametrize("values", [{"reflect_padding": 2}, {"alternate_flips": True}, {"cutout": 8}])
def test_what_changes_the_augmentation_needs_it(values):
    (name,) = values
    with pytest.raises(ConfigError, match=f"^{name} needs augment$"):
        configure(**values)
    assert configure(augment=True, **values).asked()[name]


@pytest.mark.parametrize("model", ["resnet6", "vgg_a_bn"])
def test_muon_needs_a_network_that_its_rates_are_for(model):
    with pytest.raises(ConfigError, match=r"^optimizer muon needs model fast_cnn or simple_cnn"):
        configure(model=model, optimizer="muon")
    assert configure(model="fast_cnn", optimizer="muon").optimizer == "muon"


VARIANTS = [{"neurons": 2.0}, {"activation": "tanh"}, {"pooling": "average"}, {"batch_norm": True},
            {"residual": True}, {"dropout": 0.5}]  # fmt: skip


@pytest.mark.parametrize("values", VARIANTS)
@pytest.mark.parametrize("model", ["resnet6", "vgg_a_bn", "fast_cnn"])
def test_only_the_simple_cnn_has_variants(model, values):
    (name,) = values
    with pytest.raises(ConfigError, match=f"^{name} needs model simple_cnn$"):
        configure(model=model, **values)
    config = configure(model="simple_cnn", width=2, **values)
    assert config.network() == {"name": "simple_cnn", "width": 2.0, **values}


def test_all_variants_are_tried():
    assert {name for values in VARIANTS for name in values} == {*VARIANT}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"loss": "mse", "label_smoothing": 0.1}, "label_smoothing needs loss cross_entropy"),
        ({"residual": True, "pooling": "stride"}, "residual needs pooling max or average"),
        ({"dropout": 0.5, "probe_every": 1}, "probe_every: the loss of dropout differs"),
    ],
)
def test_what_cannot_go_together_is_refused(values, reason):
    with pytest.raises(ConfigError, match=f"^{reason}"):
        configure(model="simple_cnn", **values)


def test_a_decay_that_leaves_out_biases_is_one():
    with pytest.raises(ConfigError, match=r"^decay_biases false needs a weight_decay"):
        configure(decay_biases=False)
    assert not configure(decay_biases=False, weight_decay=1e-3).decay_biases


def test_new_fields_leave_finished_runs_their_names():
    """What is asked for, and so the name of a run, holds none of those that are at their defaults."""
    assert configure(lr=0.1, augment=True).asked() == {"model": "simple_cnn", "lr": 0.1, "augment": True}


@pytest.mark.parametrize(("text", "number"), [("1e-3", 0.001), ("1.E-3", 0.001), ("+5e4", 5e4), ("-2e0", -2.0)])
def test_a_number_that_yaml_reads_as_text_is_read(text, number):
    assert read_number(text) == number
    assert isinstance(read_number(text), float)


@pytest.mark.parametrize("value", ["0.1", "e3", "1e", "1e3x", "x1e3", "", 3, None, True])
def test_all_else_is_left_as_it_is(value):
    assert read_number(value) is value


def test_the_number_meant_reaches_every_number_with_a_fraction():
    config = configure(lr="1e-3", momentum="5e-1", weight_decay="1e-4", label_smoothing="1e-1")
    assert (config.lr, config.momentum, config.weight_decay, config.label_smoothing) == (1e-3, 0.5, 1e-4, 0.1)


@pytest.mark.parametrize("written", ["step", ["step"], ("step",)])
def test_directions_are_read_from_a_name_and_from_a_list(written):
    assert configure(probe_along=written) == configure(probe_along=("step",))
    assert configure().probe_along == configure(probe_along="gradient").probe_along == ("gradient",)
    both = configure(probe_along=["gradient", "step"])
    assert both.probe_along == ("gradient", "step")
    assert Config(**json.loads(json.dumps(both.computed()))) == both


def test_parameters_are_picked_by_name():
    everything = {"model": "vgg_a", "lr": "5e-4", "figure_size": 3, "__name__": "__main__", "epochs": 9}
    config = Config.from_parameters(everything, epochs=2)
    assert config == Config(model="vgg_a", lr=5e-4, epochs=2)
    with pytest.raises(ConfigError, match=r"^lr: "):
        Config.from_parameters({"model": "vgg_a", "lr": -1.0})
    with pytest.raises(ConfigError, match=r"^epoch: unknown"):
        Config.from_parameters(everything, epoch=2)


def test_replace_checks_again_and_leaves_the_original():
    config = configure(epochs=5, lr=0.1)
    assert config.replace(lr=0.2) == configure(epochs=5, lr=0.2)
    assert config.lr == 0.1
    with pytest.raises(ConfigError, match=r"^epochs: "):
        config.replace(epochs=0)
    with pytest.raises(ConfigError, match=r"^epoch: unknown"):
        config.replace(epoch=1)
    with pytest.raises(ConfigError, match="nesterov needs"):
        configure(nesterov=True).replace(optimizer="adam")


def test_a_config_is_frozen():
    config = configure()
    with pytest.raises(ValidationError, match="frozen"):
        config.lr = 0.5
    assert config.lr == 1e-3


def test_what_is_computed_leaves_out_where_it_happens():
    config = configure(data="a.npz", device="cpu", lr=0.5)
    assert set(Config.model_fields) - set(config.computed()) == {"data", "device"}
    assert config.computed() == configure(data="b.npz", device="cuda", lr=0.5).computed()
    assert Config(**config.computed()) == config.replace(data="auto", device="auto")
