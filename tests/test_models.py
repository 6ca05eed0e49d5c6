import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cifarnb import models
from cifarnb.models import MODELS, build_model, count_multiply_adds, count_parameters, feature_maps, list_layers
from cifarnb.models.resnet import BasicBlock, PointwiseConv2d, ResNet
from cifarnb.models.vgg import VGG, NoisyBatchNorm2d

PARAMETERS = {  # the write-up's; its noisy and skipless variants by hand
    "simple_cnn": 62_006, "resnet6": 692_122, "resnet9": 1_080_090, "vgg_a": 9_750_922, "vgg_a_bn": 9_756_426,
    "vgg_a_noisy_bn": 9_756_426,
    "resnet9_no_skip": 1_080_090 - (16 * 32 + 32 * 64 + 64 * 128) - 2 * (32 + 64 + 128),
    # The published network's: whitening's biases, convolutions without, a bias of each batch norm, the head.
    "fast_cnn": 24 + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 2 * (64 + 256 + 256) + 2560,
}  # fmt: skip
VGG_SHAPES = [
    *[(64, 32, 32), (64, 16, 16), (128, 16, 16), (128, 8, 8), (256, 8, 8), (256, 8, 8), (256, 4, 4)],
    *[(512, 4, 4), (512, 4, 4), (512, 2, 2), (512, 2, 2), (512, 2, 2), (512, 1, 1), (512,), (512,), (512,), (10,)],
]
SHAPES = {  # of the write-up's tables
    "simple_cnn": [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (400,), (120,), (84,), (10,)],
    "resnet6": [
        *[(16, 32, 32), *[(32, 16, 16)] * 2, *[(64, 8, 8)] * 2, *[(128, 4, 4)] * 2],
        *[(128, 1, 1), (128,), (10,)],
    ],
    "resnet9": [
        *[(16, 32, 32), *[(32, 16, 16)] * 3, *[(64, 8, 8)] * 3, *[(128, 4, 4)] * 3],
        *[(128, 1, 1), (128,), (10,)],
    ],
    "vgg_a": VGG_SHAPES,
    "vgg_a_bn": VGG_SHAPES,
    "vgg_a_noisy_bn": VGG_SHAPES,
    "fast_cnn": [
        *[(24, 31, 31), (64, 31, 31), (64, 15, 15), (64, 15, 15), (256, 15, 15), (256, 7, 7), (256, 7, 7)],
        *[(256, 7, 7), (256, 3, 3), (256, 3, 3), (256, 1, 1), (256,), (10,)],
    ],
}
SHAPES["resnet9_no_skip"] = SHAPES["resnet9"]


@pytest.fixture(scope="module")
def networks():
    return {name: build_model(name) for name in MODELS}


def test_the_networks_and_their_labels():
    assert [*MODELS] == [*models.LABELS] == [*PARAMETERS]
    assert len(set(models.LABELS.values())) == 8
    with pytest.raises(KeyError):
        build_model("resnet18")


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_write_up(name, networks):
    assert count_parameters(networks[name]) == PARAMETERS[name]


NARROW_CONVOLUTIONS = [(3, 16), (16, 32), (32, 64), (64, 64), (64, 128), *[(128, 128)] * 3]  # of a ¼ VGG-A
NARROW_LINEAR = (128 + 1) * 128 * 2 + (128 + 1) * 10


@pytest.mark.parametrize(
    ("name", "width", "parameters"),
    [
        ("vgg_a", 0.25, sum((9 * a + 1) * b for a, b in NARROW_CONVOLUTIONS) + NARROW_LINEAR),
        ("vgg_a_bn", 0.25, sum((9 * a + 3) * b for a, b in NARROW_CONVOLUTIONS) + NARROW_LINEAR),
        ("vgg_a_noisy_bn", 0.25, sum((9 * a + 3) * b for a, b in NARROW_CONVOLUTIONS) + NARROW_LINEAR),
        (
            "simple_cnn",
            2,
            (75 + 1) * 12 + (12 * 25 + 1) * 32 + (32 * 25 + 1) * 120 + (120 + 1) * 84 + (84 + 1) * 10,
        ),
        # One channel everywhere: stem and its batch norm; blocks with a projection and one without; the last layer.
        ("fast_cnn", 0.001, 24 + 9 * (24 + 5) + 2 * 3 + 10),
        ("resnet6", 0.001, 27 + 2 + 3 * (2 * (9 + 2) + (1 + 2) + 2 * (9 + 2)) + 20),
    ],
)
def test_parameters_of_another_width_are_those_by_hand(name, width, parameters):
    model = build_model(name, width=width)
    assert count_parameters(model) == parameters
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", ["vgg_a", "vgg_a_bn", "resnet9"])
def test_a_quarter_as_wide_costs_a_sixteenth(name, networks):
    """But for the first layer, whose three input channels stay: there it is a quarter."""
    share = count_multiply_adds(build_model(name, width=0.25)) / count_multiply_adds(networks[name])
    assert 1 / 16 < share < 1 / 14


@pytest.mark.parametrize(
    ("variant", "parameters", "multiply_adds"),
    [
        ({"neurons": 2}, 456 + 2416 + 401 * 240 + 241 * 168 + 169 * 10, 592_800 + 400 * 240 + 240 * 168 + 168 * 10),
        ({"activation": "sigmoid"}, 62_006, 651_720),
        ({"pooling": "average"}, 62_006, 651_720),
        ({"pooling": "stride"}, 62_006, 14**2 * 6 * 75 + 5**2 * 16 * 150 + 58_920),
        ({"batch_norm": True}, 62_006 + 2 * (6 + 16), 651_720),
        ({"residual": True}, 62_006, 651_720),
        ({"dropout": 0.5}, 62_006, 651_720),
    ],
)
def test_variants_of_the_simple_cnn_cost_what_they_do_by_hand(variant, parameters, multiply_adds):
    model = build_model("simple_cnn", **variant)
    assert count_parameters(model) == parameters
    assert count_multiply_adds(model) == multiply_adds
    assert list_layers(model)[-1].output_shape == (10,)
    assert sum(layer.parameters for layer in list_layers(model)) == parameters


@pytest.mark.parametrize(
    ("variant", "inner"),
    [
        ({"activation": "leaky_relu"}, lambda x: torch.where(x > 0, x, 0.01 * x)),
        ({"activation": "gelu"}, lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2),
        ({"activation": "silu"}, lambda x: x / (1 + torch.exp(-x))),
        ({"activation": "tanh"}, lambda x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x))),
        ({"activation": "sigmoid"}, lambda x: 1 / (1 + torch.exp(-x))),
        ({"activation": "relu"}, lambda x: x.clamp(min=0)),
    ],
)
def test_an_activation_is_its_formula_everywhere(variant, inner):
    model, x = build_model("simple_cnn", **variant).double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    one, two = (module for module in model.features if isinstance(module, nn.Conv2d))
    hidden = F.max_pool2d(inner(two(F.max_pool2d(inner(one(x)), 2))), 2).flatten(1)
    *linears, last = (module for module in model.classifier if isinstance(module, nn.Linear))
    for linear in linears:
        hidden = inner(linear(hidden))
    torch.testing.assert_close(model(x), last(hidden), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pooling", ["max", "average", "stride"])
def test_pooling_is_its_formula(pooling):
    model, x = build_model("simple_cnn", pooling=pooling).double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    hidden = x
    for conv in (module for module in model.features if isinstance(module, nn.Conv2d)):
        hidden = F.relu(F.conv2d(hidden, conv.weight, conv.bias))  # at every place
        if pooling == "stride":
            hidden = hidden[:, :, ::2, ::2]
        else:
            n, channels, height, width = hidden.shape
            windows = hidden.view(n, channels, height // 2, 2, width // 2, 2)
            hidden = windows.amax((3, 5)) if pooling == "max" else windows.mean((3, 5))
    torch.testing.assert_close(model(x), model.classifier(hidden), rtol=1e-10, atol=1e-12)


def test_the_residual_connection_adds_what_lies_under_the_middle_of_a_filter():
    plain, residual = (build_model("simple_cnn", residual=residual) for residual in (False, True))
    x = torch.randn(2, 3, 32, 32)
    before = plain.features[:3](x)  # (2, 6, 14, 14)
    added = residual.features[:4](x) - plain.features[:5](x)  # (2, 16, 10, 10)
    torch.testing.assert_close(added[:, :6], before[:, :, 2:12, 2:12], rtol=0, atol=1e-6)
    assert not added[:, 6:].any()


def test_batch_norm_and_dropout_stand_where_they_should():
    kinds = [type(module).__name__ for module in build_model("simple_cnn", batch_norm=True, dropout=0.5).modules()]
    conv, linear = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"], ["Linear", "ReLU", "Dropout"]
    assert kinds == ["SimpleCNN", "Sequential", *conv, *conv, "Sequential", "Flatten", *linear, *linear, "Linear"]


def test_dropout_keeps_the_mean_and_drops_nothing_in_eval_mode():
    dropout, x = models.Dropout(0.2), torch.ones(100, 1000)
    dropout.generator = torch.Generator().manual_seed(1)
    state = torch.get_rng_state()
    dropped = dropout.train()(x)
    assert torch.equal(state, torch.get_rng_state())
    assert {*dropped.unique().tolist()} == {0.0, 1.25}
    assert abs((dropped == 0).float().mean() - 0.2) < 0.005
    assert torch.equal(dropout.eval()(x), x)
    assert models.set_noise(build_model("simple_cnn", dropout=0.1), torch.Generator())
    assert not models.set_noise(build_model("simple_cnn"), torch.Generator())


def test_the_width_stands_in_the_label():
    assert models.label("vgg_a") == models.label("vgg_a", 1.0) == "VGG-A"
    assert models.label("vgg_a_bn", 0.25) == "VGG-A + BN, ¼ as wide"
    assert models.label("simple_cnn", 2) == "Simple CNN, twice as wide"
    assert models.label("simple_cnn", 1.5) == "Simple CNN, 1.5 times as wide"


def test_frozen_parameters_do_not_count():
    layer = nn.Linear(3, 4)
    layer.weight.requires_grad_(False)
    assert count_parameters(layer) == 4


def slow_multiply_adds(model):
    """Summed over the layers as they run: one for every weight that an output value is made with."""
    total = 0

    def count(layer, _, output):
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize("name", MODELS)
def test_multiply_adds_are_those_of_a_slow_count(name, networks):
    assert count_multiply_adds(networks[name]) == slow_multiply_adds(networks[name])


def test_multiply_adds_of_the_simple_cnn_by_hand(networks):
    convolutions = 28 * 28 * 6 * 3 * 25 + 10 * 10 * 16 * 6 * 25
    assert count_multiply_adds(networks["simple_cnn"]) == convolutions + 400 * 120 + 120 * 84 + 84 * 10


@pytest.mark.parametrize("name", MODELS)
def test_the_table_has_the_write_ups_shapes_and_all_parameters(name, networks):
    layers = list_layers(networks[name])
    assert [layer.output_shape for layer in layers] == SHAPES[name]
    assert sum(layer.parameters for layer in layers) == PARAMETERS[name]


def test_the_table_names_the_layers_as_the_write_up_does(networks):
    assert [layer.name for layer in list_layers(networks["simple_cnn"])] == [
        "Conv2d(3→6, 5×5) + ReLU",
        "MaxPool2d(2)",
        "Conv2d(6→16, 5×5) + ReLU",
        "MaxPool2d(2)",
        "Flatten",
        "Linear(400→120) + ReLU",
        "Linear(120→84) + ReLU",
        "Linear(84→10)",
    ]
    first, _, pool, *_ = (layer.name for layer in list_layers(networks["fast_cnn"]))
    assert first == "Conv2d(3→24, 2×2, whitening) + GELU"
    assert pool == "MaxPool2d(2) + QuickBatchNorm2d + GELU"
    stem, first, second, *_ = (layer.name for layer in list_layers(networks["resnet6"]))
    assert stem == "Conv2d(3→16, 3×3, padding 1) + BatchNorm2d + ReLU"
    assert first == "BasicBlock(16→32, stride 2, downsample)"
    assert second == "BasicBlock(32→32)"


@pytest.mark.parametrize("name", MODELS)
def test_images_become_ten_logits_each_on_its_own(name, networks):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = networks[name].eval()
    with torch.no_grad():
        logits = model(images)
        torch.testing.assert_close(logits[1:2], model(images[1:2]), rtol=1e-4, atol=1e-5)
    assert logits.shape == (3, 10)


@pytest.mark.parametrize("name", ["simple_cnn", "resnet6", "vgg_a_bn"])
def test_the_seed_alone_decides_the_weights(name):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build_model(name, seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = build_model(name, seed=7).state_dict(), build_model(name, seed=8).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    "describe",
    [
        count_multiply_adds,
        list_layers,
    ],
)
def test_describing_a_network_draws_no_random_numbers(describe, networks):
    state = torch.get_rng_state()
    describe(networks["simple_cnn"])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "describe",
    [
        count_multiply_adds,
        list_layers,
    ],
)
def test_describing_a_network_changes_nothing(describe):
    model = build_model("resnet6").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    describe(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize("name", ["vgg_a", "vgg_a_bn"])
def test_vgg_has_xavier_normal_weights_and_zero_biases(name, networks):
    fresh = [m for m in build_model(name).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(fresh) == 11
    for layer in fresh:
        weight = layer.weight.detach()
        receptive = weight[0, 0].numel()
        expected = math.sqrt(2 / ((weight.shape[0] + weight.shape[1]) * receptive))
        error = 5 / math.sqrt(2 * weight.numel())  # five standard errors of a standard deviation
        assert weight.std().item() == pytest.approx(expected, rel=error)
        assert weight.mean().item() == pytest.approx(0, abs=5 * expected / math.sqrt(weight.numel()))
        assert weight.abs().max() > math.sqrt(3) * expected  # normal, not uniform
        assert not layer.bias.any()


def test_batch_norm_follows_every_convolution_of_vgg_and_nothing_else():
    kinds = [type(module) for module in VGG(nn.BatchNorm2d).features]
    assert [kinds[i + 1] for i, kind in enumerate(kinds) if kind is nn.Conv2d] == [nn.BatchNorm2d] * 8
    assert not any(isinstance(module, nn.BatchNorm2d) for module in VGG(nn.BatchNorm2d).classifier)
    assert [kind for kind in kinds if kind is not nn.BatchNorm2d] == [type(m) for m in VGG().features]


def plain_block(block, x, training):
    """A residual block by its formula."""

    def convolve(x, convolution, norm, stride, padding):
        x = F.conv2d(x, convolution.weight, stride=stride, padding=padding)
        # The running statistics are updated in place: on copies, to leave the block alone.
        running = norm.running_mean.clone(), norm.running_var.clone()
        return F.batch_norm(x, *running, norm.weight, norm.bias, training=training)

    stride = x.shape[-1] // block.conv1(x).shape[-1]
    out = convolve(x, block.conv1, block.bn1, stride, 1).clamp(min=0)
    out = convolve(out, block.conv2, block.bn2, 1, 1)
    skip = convolve(x, *block.downsample, stride, 0) if len(block.downsample) else x
    return (out + skip).clamp(min=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("channels", "stride", "projects"), [((4, 4), 1, False), ((4, 6), 2, True), ((4, 6), 1, True)])
def test_a_residual_block_is_its_formula(channels, stride, projects, training):
    generator = torch.Generator().manual_seed(0)
    block = BasicBlock(*channels, stride)
    with torch.no_grad():
        for tensor in block.state_dict().values():
            if tensor.is_floating_point():  # batch norm's too, which would else be ones and zeros
                tensor.uniform_(0.1, 1, generator=generator)
    x = torch.randn(5, channels[0], 8, 8, generator=generator)
    expected = plain_block(block, x, training)
    torch.testing.assert_close(block.train(training)(x), expected)
    assert expected.shape == (5, channels[1], 8 // stride, 8 // stride)
    assert bool(len(block.downsample)) == projects


def test_residual_networks_have_the_write_ups_design(networks):
    for name, depth in {"resnet6": 2, "resnet9": 3}.items():
        blocks = [m for m in networks[name].modules() if isinstance(m, BasicBlock)]
        assert [block.conv1.stride[0] for block in blocks] == [2, *[1] * (depth - 1)] * 3
        assert [bool(len(block.downsample)) for block in blocks] == [True, *[False] * (depth - 1)] * 3
        assert all(m.bias is None for m in networks[name].modules() if isinstance(m, nn.Conv2d))
    with pytest.raises(ValueError, match="zip"):
        ResNet(blocks=(2, 2))


def test_feature_maps_are_what_a_hook_sees():
    model = build_model("resnet6").train()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    nodes = ["stem", "stages.0", "stages.1", "stages.2"]
    maps = feature_maps(model, images, nodes)
    assert not model.training
    seen = {}
    for node in nodes:
        model.get_submodule(node).register_forward_hook(lambda _, __, out, node=node: seen.update({node: out}))
    with torch.no_grad():
        model(images)
    assert [*maps] == nodes
    for node in nodes:
        torch.testing.assert_close(maps[node], seen[node])
        assert not maps[node].requires_grad
    assert [tuple(m.shape) for m in maps.values()] == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8), (2, 128, 4, 4)]


def test_without_skip_a_block_is_its_two_convolutions():
    with_skip, without = (models.BasicBlock(4, 8, stride=2, skip=skip) for skip in (True, False))
    without.load_state_dict({k: v for k, v in with_skip.state_dict().items() if "downsample" not in k})
    x = torch.randn(3, 4, 8, 8)
    with torch.no_grad():
        alone = without.bn2(without.conv2(F.relu(without.bn1(without.conv1(x)))))
        torch.testing.assert_close(without(x), F.relu(alone))
        torch.testing.assert_close(with_skip(x), F.relu(alone + with_skip.downsample(x)))


def test_noisy_batch_norm_shifts_and_scales_as_in_algorithm_1():
    """A channel's μ and σ differ from step to step; a sample's shift and scale lie around them."""
    layer = NoisyBatchNorm2d(2)
    layer.generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, 6, 6)
    normed = F.batch_norm(x, None, None, training=True)
    means, scales = [], []
    for _ in range(300):
        out = layer(x).detach()
        # y = s·x + m for each sample and channel: s and m by least squares over the 36 positions
        s = ((out - out.mean((2, 3), keepdim=True)) * normed).sum((2, 3)) / (
            (normed - normed.mean((2, 3), keepdim=True)) * normed
        ).sum((2, 3))
        m = out.mean((2, 3)) - s * normed.mean((2, 3))
        torch.testing.assert_close(s[..., None, None] * normed + m[..., None, None], out, rtol=1e-3, atol=1e-4)
        assert (m.amax(0) - m.amin(0)).max() <= 0.2 + 1e-3
        assert (s.std(0) - 0.1).abs().max() < 0.02
        means.append(m.mean(0))
        scales.append(s.mean(0))
    means, scales = torch.stack(means), torch.stack(scales)
    assert -0.52 < means.min() < -0.4 < 0.4 < means.max() < 0.52
    assert 0.98 < scales.min() < 1.03 < 1.22 < scales.max() < 1.27
    assert torch.corrcoef(torch.cat([means.T, scales.T])).triu(1).abs().max() < 0.25  # drawn independently


def test_noisy_batch_norm_has_the_expected_scale_in_eval_mode():
    layer = NoisyBatchNorm2d(3).eval()
    x = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(layer(x), 1.125 * F.batch_norm(x, layer.running_mean, layer.running_var))


def test_noise_is_drawn_from_the_given_generator_alone():
    model = build_model("vgg_a_noisy_bn").train()
    x = torch.randn(2, 3, 32, 32)
    state = torch.get_rng_state()
    outputs = []
    for _ in range(2):
        assert models.set_noise(model, torch.Generator().manual_seed(3))
        outputs.append(model(x))
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[1], model(x))
    assert torch.equal(state, torch.get_rng_state())
    assert not models.set_noise(build_model("vgg_a_bn"), torch.Generator())


@pytest.fixture
def correlated():
    """Images of which neighbouring pixels and colours are alike."""
    noise = torch.randn(300, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    grey = F.avg_pool2d(noise, 3, stride=1, padding=1).mean(1, keepdim=True)
    return 0.2 * noise + grey


def test_whitened_patches_are_uncorrelated_and_of_one_variance(correlated):
    model = build_model("fast_cnn")
    models.set_whitening(model, correlated)
    layer = model.features[0]
    with torch.no_grad():
        out = layer(correlated).double().transpose(0, 1).flatten(1)  # (24, patches)
    torch.testing.assert_close(out[:12] @ out[:12].T / out.shape[1], torch.eye(12).double(), rtol=0, atol=0.02)
    torch.testing.assert_close(out[12:], -out[:12])
    assert not layer.weight.requires_grad
    assert layer.bias.requires_grad
    again = build_model("fast_cnn", seed=5)
    models.set_whitening(again, correlated.to(memory_format=torch.channels_last))
    torch.testing.assert_close(again.features[0].weight, layer.weight, rtol=1e-4, atol=1e-5)


def test_whitening_is_that_of_plain_patches_with_a_fixed_sign(correlated):
    images = correlated[:5]
    model = build_model("fast_cnn", width=0.1)
    models.set_whitening(model, images)
    patches = [images[n, :, y : y + 2, x : x + 2].flatten().double().numpy() for n in range(5) for y in range(31)
               for x in range(31)]  # fmt: skip
    covariance = sum(np.outer(p, p) for p in patches) / len(patches)
    variances, directions = np.linalg.eigh(covariance)
    for filter_, variance, direction in zip(model.features[0].weight[:12], variances, directions.T, strict=True):
        direction = direction * np.sign(direction[np.abs(direction).argmax()])
        expected = direction / np.sqrt(variance + 5e-4 * np.trace(covariance) / 12)
        np.testing.assert_allclose(filter_.detach().flatten(), expected, rtol=1e-3, atol=1e-4)


def test_other_networks_have_nothing_to_whiten(correlated):
    model = build_model("resnet6")
    models.set_whitening(model, correlated)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), build_model("resnet6").parameters(), strict=True))


@pytest.mark.parametrize("width", [1, 0.25, 0.05])
def test_the_first_filters_of_the_fast_network_begin_as_the_identity(width):
    _, *convolutions = [m for m in build_model("fast_cnn", width=width).modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 6
    for convolution in convolutions:
        x = torch.randn(2, convolution.in_channels, 8, 8)
        same = min(convolution.in_channels, convolution.out_channels)
        torch.testing.assert_close(convolution(x)[:, :same], x[:, :same])
        assert convolution.weight[same:].abs().sum() > 0 or same == convolution.out_channels
        assert convolution.bias is None


def test_biases_of_the_fast_network_count_eight_times_and_its_outputs_a_ninth():
    model = build_model("fast_cnn", width=0.1).eval()
    whitening, head = model.features[0], model.head[-1]
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    x = torch.randn(2, norm.num_features, 4, 4)
    with torch.no_grad():
        norm.bias.fill_(0.5)
        whitening.bias.fill_(0.25)
        images = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(whitening(images), F.conv2d(images, whitening.weight) + 2)
        torch.testing.assert_close(norm(x), x + 4)
        features = torch.randn(2, head.in_features)
        torch.testing.assert_close(head(features), F.linear(features, head.weight) / 9)
    norm.train()(x)
    torch.testing.assert_close(norm.running_mean, 0.4 * x.mean((0, 2, 3)))
    assert not norm.weight.requires_grad


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("in_channels", [1, 2, 7, 8, 16])
def test_a_pointwise_convolution_is_one_however_few_its_channels(in_channels, stride):
    made = PointwiseConv2d(in_channels, 5, stride).double()
    x = torch.randn(3, in_channels, 9, 8, dtype=torch.float64, requires_grad=True)
    theirs = F.conv2d(x, made.weight, stride=stride)
    torch.testing.assert_close(made(x), theirs)
    upstream = torch.randn_like(theirs)
    ours, wanted = (torch.autograd.grad(y, (x, made.weight), upstream) for y in (made(x), theirs))
    torch.testing.assert_close(ours, wanted)


NARROW = """
import torch
from cifarnb.models import MODELS, build_model
torch.set_num_threads(1)
for name in MODELS:
    for width in (0.125, 0.25, 0.4):
        model = build_model(name, width=width).to(memory_format=torch.channels_last)
        for _ in range(5):
            model(torch.randn(64, 3, 32, 32).contiguous(memory_format=torch.channels_last)).sum().backward()
"""


def test_narrow_networks_train_on_a_processor_with_avx2_alone():
    """There oneDNN's strided 1×1 convolutions write past their buffers where few channels come in."""
    path = os.pathsep.join([str(Path(__file__).parent / "avx2"), os.environ.get("PYTHONPATH", "")])
    simulated = os.environ | {"PYTHONPATH": path, "MALLOC_CHECK_": "3"}
    ended = subprocess.run([sys.executable, "-c", NARROW], env=simulated, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
