"""What is said of a run while it trains."""

import math
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence

import torch
from IPython import get_ipython
from tqdm.auto import tqdm

from cifarnb.config import Config
from cifarnb.hardware import device_name, synchronize

SETTLED = 5  # steps after which the time of a step is typical
WINDOW = 30.0  # seconds of steps, whose median is compared with the time that was announced
SLOWER = 3  # times as long: then other work shares the machine
VIEWS = 6  # of an image, with test-time augmentation
TEST = 1 / 3  # of the cost of training on an image: forward alone


def passes(config: Config, images: Mapping[str, int], epochs: int) -> float:
    """Of images through forward and backward, in so many epochs of a run and its tests, these as what they cost.

    ``images`` are those to ``train``, to ``test`` and for ``validation``.
    """
    made = epochs * (images["train"] + TEST * (images["test"] + images["validation"]))
    return made + (TEST * VIEWS * images["test"] if config.tta else 0)


class Progress:
    """Says how long training will take, and once if its steps take far longer than they did then.

    Where somebody watches, a bar shows it, too.  Walks and tests are left out of the time of a step.
    """

    def __init__(
        self, config: Config, device: torch.device, precision: str, images: Mapping[str, int], *, done: int, shown: bool
    ) -> None:
        """For a run on so many ``images``, as ``passes`` has them, of which so many epochs are done."""
        self.config, self.device, self.precision, self.images, self.shown = config, device, precision, images, shown
        self.epochs, steps = config.epochs - done, math.ceil(images["train"] / config.batch_size)  # left, an epoch
        self.first, self.last = min(SETTLED, steps // 2), min(3 * SETTLED, steps)  # steps between which they are timed
        self.usual = math.inf  # seconds a step, as announced
        self.steps = 0  # so far
        self.times: list[float] = []  # seconds of every step since the last look at them
        self.seconds = 0.0  # their sum
        self.walks, self.walked = 0, 0.0  # steps with walks, and the seconds that these took
        self.clock = 0.0
        self.bar = tqdm(
            total=config.epochs * steps,
            initial=done * steps,
            desc=config.model,
            unit="step",
            leave=False,
            disable=not (shown and is_watched()),
            mininterval=0.5,
        )

    def before_epoch(self, history: Sequence[Mapping[str, float]]) -> None:
        """Show what the last epoch gave, and start the clock."""
        if history:
            last = history[-1]
            self.bar.set_postfix(train_loss=f"{last['train_loss']:.3f}", test_accuracy=f"{last['test_accuracy']:.1%}")
        self.clock = time.perf_counter()

    def after_walks(self) -> None:
        """Leave out what has passed since the last step."""
        now = time.perf_counter()
        self.walks, self.walked, self.clock = self.walks + 1, self.walked + now - self.clock, now

    def after_step(self) -> None:
        """Count a step; a GPU is waited for twice in all, when its steps are timed for the announcement."""
        self.bar.update()
        if not self.shown:
            return
        self.steps += 1
        if self.steps in (self.first, self.last):
            synchronize(self.device)
        now = time.perf_counter()
        self.times.append(now - self.clock)
        self.seconds, self.clock = self.seconds + now - self.clock, now
        if self.steps == self.last:
            self._announce()
        elif self.steps > self.last and self.seconds >= WINDOW and len(self.times) >= SETTLED:
            self._compare()
        elif self.steps != self.first:
            return
        self.times, self.seconds = [], 0.0

    def _announce(self) -> None:
        n, batch_size = self.images["train"], self.config.batch_size
        self.usual = self.seconds / len(self.times)
        seconds = self.usual * passes(self.config, self.images, self.epochs) / batch_size
        if self.walks:
            seconds += self.epochs * self.walked / self.walks * n / batch_size / self.config.probe_every
        epochs = "1 epoch" if self.epochs == 1 else f"{self.epochs} epochs"
        self._say(
            f"training {epochs} of {n:,} images on {device_name(self.device)} in {self.precision}, "
            f"about {format_seconds(seconds)}"
        )

    def _compare(self) -> None:
        times = statistics.median(self.times) / self.usual  # one step that was held up counts as one
        if times < SLOWER:
            return
        waits = self.device.type == "cuda" or os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
        policy = "" if waits else ", or set OMP_WAIT_POLICY=PASSIVE and start again: finished epochs are kept"
        self._say(f"steps take {times:.0f} times as long as announced; other work shares the machine: stop it{policy}")
        self.usual = math.inf  # so that it is said once

    def _say(self, what: str) -> None:
        config = self.config
        print(f"{config.model}, lr {config.lr:g}, seed {config.seed}: {what}", file=sys.stderr, flush=True)


def is_watched() -> bool:
    """Whether a person sees a progress bar: in a terminal, or in a notebook whose front end can ask for input.

    Papermill and nbval execute notebooks, too, but have nobody to ask; there a bar would only fill the log.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    return bool(kernel._allow_stdin) if kernel else sys.stderr.isatty()


def format_seconds(seconds: float) -> str:
    """``45 s``, ``3.2 min`` or ``1.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
