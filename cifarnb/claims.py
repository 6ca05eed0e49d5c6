"""What the write-up reports and concludes, and what was measured here about it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Section 1's numbers, by network: test accuracy (0 to 1), epochs, lr, optimizer, schedule, seconds per epoch.
# The write-up has no number for section 2.
REPORTED: dict[str, dict[str, Any]] = {
    "simple_cnn": {
        "accuracy": 0.64,
        "epochs": 200,
        "lr": 1e-3,
        "optimizer": "SGD",
        "schedule": "none",
        "seconds_per_epoch": 4.89,
    },
    "resnet6": {
        "accuracy": 0.7706,
        "epochs": 100,
        "lr": 1e-4,
        "optimizer": "Adam",
        "schedule": "CosineAnnealingLR",
        "best_epoch": 58,
    },
    "resnet9": {"accuracy": 0.9029, "epochs": 180, "lr": 1e-4, "optimizer": "Adam", "schedule": "CosineAnnealingLR"},
    "vgg_a": {"lr": 5e-4},
    "vgg_a_bn": {"lr": 5e-4},
}


Networks = Mapping[str, Mapping[str, Any]]  # name → its numbers, of those that ran
Measured = tuple[bool, str]  # whether the claim came out here, and the numbers that say so


@dataclass(frozen=True)
class Claim:
    """A conclusion of the write-up and what decides it."""

    text: str
    needs: tuple[str, ...]  # the networks that must have run
    measure: Callable[[Networks], Measured]


def _is_fast(ran: Networks) -> Measured:
    simple = ran["simple_cnn"]
    fastest = min(network["seconds_per_image"] for network in ran.values())
    time = f"{simple['seconds_per_epoch']:.3g} s per epoch of {simple['train_images']:,} images"
    return simple["seconds_per_image"] == fastest, f"{time} on {simple['device_name']}"


def _is_better(better: str, worse: str) -> Callable[[Networks], Measured]:
    def measure(ran: Networks) -> Measured:
        first, second = (ran[name]["final_accuracy"]["mean"] for name in (better, worse))
        return first > second, f"{first:.2%} against {second:.2%}, {100 * (first - second):+.1f} points"

    return measure


def _converges_fast(ran: Networks) -> Measured:
    best, epochs = ran["resnet6"]["best_epoch"], ran["resnet6"]["epochs"]
    return 100 * best <= 58 * epochs, f"best at epoch {best} of {epochs}"


def _ends_lower(ran: Networks) -> Measured:
    losses = (ran[name]["final_train_loss"] for name in ("vgg_a_bn", "vgg_a"))
    normed, plain = (math.inf if math.isnan(loss) else loss for loss in losses)  # a run that diverged did not end low
    return normed < plain, f"{normed:.3f} against {plain:.3f} after the last epoch"


def _has_narrower_band(ran: Networks) -> Measured:
    normed, plain = (ran[name]["landscape"]["median_band_width"] for name in ("vgg_a_bn", "vgg_a"))
    return normed < plain, f"median width of the band {normed:.3f} against {plain:.3f}"


def _is_smaller_on_walks(measure: str) -> Callable[[Networks], Measured]:
    """On the paper's walks: plain SGD, along the gradient."""

    def compare(ran: Networks) -> Measured:
        normed, plain = (ran[name]["probes"]["sgd"][measure]["mean"] for name in ("vgg_a_bn", "vgg_a"))
        return normed < plain, f"median over the steps of training with SGD {normed:.3g} against {plain:.3g}"

    return compare


def _works_at_more_rates(ran: Networks) -> Measured:
    normed, plain = (ran[name]["rates"]["within_one_point"]["mean"] for name in ("vgg_a_bn", "vgg_a"))
    tried = len(ran["vgg_a"]["rates"]["final_accuracy"])
    return normed > plain, f"{normed:.3g} of {tried} rates within a point of the best against {plain:.3g}"


CLAIMS = (
    Claim("Simple CNN: few parameters, very fast to train (about 4.89 s per epoch).", ("simple_cnn",), _is_fast),
    Claim(
        "Residual connections and batch norm do much better than the simple CNN.",
        ("simple_cnn", "resnet6"),
        _is_better("resnet6", "simple_cnn"),
    ),
    Claim("It converges fast: the best epoch is 58 of 100.", ("resnet6",), _converges_fast),
    Claim(
        "More layers of the same structure do better still.", ("resnet6", "resnet9"), _is_better("resnet9", "resnet6")
    ),
    Claim("VGG-A with batch norm tests better.", ("vgg_a", "vgg_a_bn"), _is_better("vgg_a_bn", "vgg_a")),
    Claim("VGG-A with batch norm converges to a lower training loss.", ("vgg_a", "vgg_a_bn"), _ends_lower),
    Claim(
        "With batch norm training is less sensitive to the learning rate: a narrower band in the loss landscape.",
        ("vgg_a landscape", "vgg_a_bn landscape"),
        _has_narrower_band,
    ),
    Claim(
        "Batch norm smooths the loss landscape: a smaller effective β.",
        ("vgg_a probes", "vgg_a_bn probes"),
        _is_smaller_on_walks("beta"),
    ),
    Claim(
        "Batch norm makes gradients more predictable: they change less on the way.",
        ("vgg_a probes", "vgg_a_bn probes"),
        _is_smaller_on_walks("gradient_change"),
    ),
    Claim(
        "Batch norm allows a wider range of learning rates: more of them come near the best.",
        ("vgg_a rates", "vgg_a_bn rates"),
        _works_at_more_rates,
    ),
)


def judge(networks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every claim with the evidence in words and ``agrees``: True, False, or None where it was not measured.

    ``networks`` is that of ``cifarnb.summary.summarize``.  ``agrees`` compares the means alone; it does not ask
    whether the difference could be chance.
    """
    ran = {network["name"]: network for network in networks if network["final_accuracy"]}
    there = {*ran}
    for measured in ("landscape", "probes", "rates"):
        there |= {f"{name} {measured}" for name, network in ran.items() if network[measured]}
    judged = []
    for claim in CLAIMS:
        agrees, evidence = claim.measure(ran) if there.issuperset(claim.needs) else (None, "did not run")
        judged.append({"claim": claim.text, "evidence": evidence, "agrees": agrees})
    return judged
