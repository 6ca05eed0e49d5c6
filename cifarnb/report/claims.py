"""What the write-up reports and concludes, and what was measured here about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cifarnb.report.findings import (
    Finding,
    Networks,
    differs_from_base,
    is_above,
    is_below,
    is_better,
    is_lower,
    is_very_fast,
    reaches,
)
from cifarnb.report.significance import counted

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

# Section 1.4's aims: test accuracy (0 to 1) after the last epoch, of ``fast_cnn`` with test-time augmentation.
AIMS = {"simple_cnn": 0.755, "resnet6": 0.92, "resnet9": 0.93, "vgg_a_bn": 0.92, "fast_cnn": 0.94}
ELSEWHERE = {  # what is published of networks of about that size
    "simple_cnn": "76.2% and 76.3% (200 epochs)",
    "resnet6": "92.9% (as many multiply-adds, 200 epochs)",
    "resnet9": "92.6% (ResNet-20, 200 epochs); 93.1–93.3% with mixup",
    "vgg_a_bn": "92.8% (200 epochs)",
    "fast_cnn": "94.0% with test-time augmentation (8 epochs)",
}

# K. Jordan's airbench94_muon, the mean of 200 runs on one A100 that has 312·10¹² operations a second in bfloat16.
PUBLISHED = {"tta_accuracy": 0.9401, "parameters": 1_971_352, "epochs": 8, "operations": 0.29e15, "seconds": 2.59,
             "peak": 312e12}  # fmt: skip

CONFIRMED, NOT_CONFIRMED, NOISE = "confirmed", "not confirmed", "within noise"
NOT_TESTED = "not tested in this profile"
NOT_COMPARABLE, TOO_SHORT = "not comparable", "too short to tell"
NOT_RUN = "not run"
VERDICTS = (  # in a shortened profile with more words behind
    CONFIRMED, NOT_CONFIRMED, NOISE, NOT_TESTED, NOT_COMPARABLE, TOO_SHORT, NOT_RUN
)  # fmt: skip
EPOCH = 391  # steps of CIFAR-10 in batches of 128; with SGD the plain network learns from some 100 on
# While the plain network still leaves its start, its losses lie close together. Measured on VGG-A, whole and a quarter
# as wide: over the first epoch its band is the narrower one and its loss the steadier, over the first five it is not.
FIVE_EPOCHS = 5 * EPOCH
SHORTENED = {"smoke": "on synthetic images, where it means nothing", "quick": "on a shortened schedule"}


@dataclass(frozen=True)
class Claim:
    """A conclusion of the write-up and what decides it."""

    text: str
    reported: str  # the write-up's number, where it has one
    needs: tuple[str, ...]  # the networks, and what of them, that must have run
    figure: str  # the name of the figure or table that shows it
    measure: Callable[[Networks], Finding]
    own_schedule: bool = False  # about a number of the write-up's own schedule, which the profile full alone has
    least_steps: int = 100  # of training, before which it is too short to tell; batch norm's averages need some 50


def described_networks(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The numbers of all networks: with the write-up's recipe, and trained well, where a report has these."""
    return [*summary["networks"], *summary.get("well", [])]


def that_ran(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The networks that ran: with the write-up's recipe, and, called so, those trained well."""
    well = [network | {"label": f"{network['label']}, trained well"} for network in well_that_ran(summary)]
    return [*(network for network in summary["networks"] if network["final_accuracy"]), *well]


def well_that_ran(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The networks of section 1.4 that ran."""
    return [network for network in summary.get("well", []) if network["final_accuracy"]]


def side_by_side(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The same without the networks trained well in a shortened profile, where they have seen too little for that."""
    return {**summary, "well": [] if summary["profile"] in SHORTENED else summary.get("well", [])}


def caution(steps: int, least: int = EPOCH) -> str:
    """What a text says behind a comparison of runs of so few steps; empty where they are enough for a claim."""
    return "" if steps >= least else f" **{TOO_SHORT.capitalize()}:** {_too_few(least)}."


def _too_few(least: int) -> str:
    return f"fewer than {least:,} steps of training show nothing of it"


def best_of(networks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """That of them, one or more which ran, with the highest test accuracy after the last epoch."""
    return max(networks, key=lambda network: float(network["final_accuracy"]["mean"]))


_VGG = ("vgg_a", "vgg_a_bn")
_SGD = ("probes sgd", "probes second_sgd")


def _both(measured: str) -> tuple[str, ...]:
    return tuple(f"{name} {measured}" for name in _VGG)


CLAIMS = (
    Claim("The simple CNN reaches 64 %.", "64%", ("simple_cnn",), "fig-accuracy-simple_cnn",
          reaches("simple_cnn", REPORTED["simple_cnn"]["accuracy"]), own_schedule=True),
    Claim("The simple CNN is very fast to train.",
          f"about {REPORTED['simple_cnn']['seconds_per_epoch']} s per epoch", ("simple_cnn",), "table-networks",
          is_very_fast("simple_cnn"), own_schedule=True),
    Claim("Residual connections and batch norm do much better than the simple CNN.", "77.06% against 64%",
          ("simple_cnn", "resnet6"), "table-networks", is_better("resnet6", "simple_cnn")),
    Claim("The residual network with six blocks reaches 77.06 %.", "77.06%", ("resnet6",), "fig-accuracy-resnet6",
          reaches("resnet6", REPORTED["resnet6"]["accuracy"]), own_schedule=True),
    Claim("It converges fast.", "best at epoch 58 of 100", ("resnet6",), "fig-accuracy-resnet6",
          is_below(58, 5, "best at epoch {} of 100, within a point of the end from epoch {} on", "resnet6",
                   "best_epochs", "settled_epochs"), own_schedule=True),
    Claim("Nine blocks reach 90.29 %.", "90.29%", ("resnet9",), "fig-accuracy-resnet9",
          reaches("resnet9", REPORTED["resnet9"]["accuracy"]), own_schedule=True),
    Claim("More layers of the same structure do better still.", "90.29% against 77.06%", ("resnet6", "resnet9"),
          "table-networks", is_better("resnet9", "resnet6"),
          least_steps=10_000),  # measured with batches of 128: after 15,640 steps, depth is worth a point
    Claim("With batch norm VGG-A tests better.", "", _VGG, "fig-vgg-curves", is_better("vgg_a_bn", "vgg_a")),
    Claim("With batch norm it converges to a lower loss.", "", _VGG, "fig-vgg-curves",
          is_lower("training loss after the last epoch", "final_train_loss")),
    Claim("With batch norm it converges faster.", "", _VGG, "fig-vgg-curves",
          is_lower("mean training loss over all steps", "mean_train_loss")),
    Claim("With batch norm training is steadier.", "", _VGG, "table-landscape",
          is_lower("deviation of the loss within 50 steps", "loss_fluctuation"), least_steps=FIVE_EPOCHS),
    Claim("With batch norm training is less sensitive to the learning rate.", "", _both("landscape"), "fig-landscape",
          is_lower("median width of the band", "median_band_width", "landscape", "narrow_landscape"),
          least_steps=FIVE_EPOCHS),
    Claim("Batch norm smooths the loss landscape.", "", _both("probes"), "table-probes",
          is_lower("median β on walks with SGD", "beta", *_SGD), least_steps=EPOCH),
    Claim("Batch norm makes gradients more predictable.", "", _both("probes"), "table-probes",
          is_lower("median change of the gradient on walks with SGD", "gradient_change", *_SGD),
          least_steps=EPOCH),
    Claim("Batch norm allows a wider range of learning rates.", "", _both("rates"), "fig-rates",
          is_lower("rates within a point of the best:", "within_one_point", "rates", higher=True),
          least_steps=EPOCH),
)  # fmt: skip


_AIMED = "table-well"
_CHANGED = "fig-changes"
OWN_CLAIMS = (  # of sections 1.4 and 1.5, about what ``describe.describe_well`` and ``changes.describe`` give
    Claim("Trained well, the simple CNN reaches 75.5 %.", "75.5%", ("simple_cnn",), _AIMED,
          reaches("simple_cnn", AIMS["simple_cnn"]), own_schedule=True),
    Claim("Trained well, six blocks reach 92 %.", "92%", ("resnet6",), _AIMED,
          reaches("resnet6", AIMS["resnet6"]), own_schedule=True),
    Claim("Trained well, six blocks do better than the write-up's nine.", "90.29%", ("resnet6",), _AIMED,
          reaches("resnet6", REPORTED["resnet9"]["accuracy"]), own_schedule=True),
    Claim("Trained well, nine blocks reach 93 %.", "93%", ("resnet9",), _AIMED,
          reaches("resnet9", AIMS["resnet9"]), own_schedule=True),
    Claim("Trained well, VGG-A with batch norm reaches 92 %.", "92%", ("vgg_a_bn",), _AIMED,
          reaches("vgg_a_bn", AIMS["vgg_a_bn"]), own_schedule=True),
    Claim("The network made for speed reaches 94 % with test-time augmentation.", "94%", ("fast_cnn",), _AIMED,
          reaches("fast_cnn", AIMS["fast_cnn"], tta=True), own_schedule=True),
    Claim("The whole recipe does better than the write-up's in as many epochs.", "", ("resnet6 recipe",), "fig-gap",
          is_above("resnet6", "recipe", "write_up"), least_steps=FIVE_EPOCHS),
    Claim("Muon does better than SGD in as many steps.", "", ("fast_cnn sgd",), "fig-muon",
          is_above("fast_cnn", "muon", "sgd"), least_steps=100),
    Claim("In the simple CNN twice as many filters do better.", "", ("base", "2 × filters"), _CHANGED,
          differs_from_base("2 × filters"), least_steps=EPOCH),
    Claim("In the simple CNN the sigmoid does worse than ReLU.", "", ("base", "sigmoid"), _CHANGED,
          differs_from_base("sigmoid", worse=True), least_steps=EPOCH),
    Claim("In the simple CNN batch norm does better.", "", ("base", "batch norm"), _CHANGED,
          differs_from_base("batch norm"), least_steps=EPOCH),
    Claim("In the simple CNN augmentation does better within as few epochs.", "", ("base", "crop and flip"), _CHANGED,
          differs_from_base("crop and flip"), least_steps=10 * EPOCH),
)  # fmt: skip


def judge(
    networks: Sequence[Mapping[str, Any]], profile: str, claims: Sequence[Claim] = CLAIMS
) -> list[dict[str, Any]]:
    """Every claim with the write-up's number, ours, the verdict, the test that gave it, and the figure that shows it.

    ``networks`` is that of ``summary.summarize``.  A claim is confirmed, or not confirmed, where the interval
    of what is above 0 if it holds lies above, or below, 0; within noise where it holds 0.  Where there is nothing to
    compare, because a network did not learn, say, the claim is not comparable.  In a shortened profile that, and a
    training of fewer steps than the claim needs, is too short to tell.
    """
    ran = {network["name"]: network for network in networks if network["final_accuracy"]}
    there = {*ran}
    for measured in ("landscape", "probes", "rates", "recipe", "sgd"):
        there |= {f"{name} {measured}" for name, network in ran.items() if _has(network.get(measured))}
    judged = []
    for claim in claims:
        here, test = "", ""
        if claim.own_schedule and profile != "full":
            verdict = NOT_TESTED
        elif not there.issuperset(claim.needs):
            verdict = NOT_RUN
        else:
            found = claim.measure(ran)
            verdict, here, test = _verdict(found.interval), found.here, found.test
            if profile in SHORTENED:
                verdict += f" {SHORTENED[profile]}"
                if found.interval is None:
                    verdict = TOO_SHORT
                elif found.steps < claim.least_steps:
                    verdict, here = TOO_SHORT, f"{here}; after {counted(int(found.steps), 'step')}"
                    test = _too_few(claim.least_steps)
        judged.append(
            {
                "claim": claim.text,
                "reported": claim.reported,
                "here": here,
                "verdict": verdict,
                "test": test,
                "figure": claim.figure,
            }
        )
    return judged


def _verdict(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return NOT_COMPARABLE
    low, high = interval
    return CONFIRMED if low > 0 else NOT_CONFIRMED if high < 0 else NOISE


def _has(measured: Mapping[str, Any] | None) -> bool:
    """Probes may be there for other walks than the paper's."""
    return measured is not None and ("sgd" in measured or "runs" in measured)
