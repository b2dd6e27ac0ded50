"""When to measure what: a fixed rhythm (`Every`) or a share of wall time (`Budget`).

Both are told what was measured and what it took, and answer two questions: what is due at this
step, and, at the end, who got how many values and what the run could not afford. Torch-free.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from foreshock.types import Observable

#: Steps between two plans of a budget: planning at every step would cost more than a cheap
#: observable, on steps of a few milliseconds whose caches are cold for it.
NAP = 8

#: Values below which the report says that a budget was too small for an observable.
ENOUGH = 8


@dataclass
class Account:
    """What one observable did and cost."""

    name: str
    prior: float
    stride: int = 0
    values: int = 0
    due: int = 0
    total: float = 0.0
    bucket: float = 0.0
    last: int = -1
    spacing: int = 0
    off: bool = False
    own: deque[float] = field(default_factory=lambda: deque(maxlen=9))
    after: deque[float] = field(default_factory=lambda: deque(maxlen=9))
    typical: float = 0.0
    after_effect: float = 0.0

    def price(self, step_seconds: float) -> float:
        """Median own cost plus what it does to the step after it; the prior before any run.

        The first run pays for what is set up once (a cold start, memory, imports), so the prior
        stands until the second if it is lower.

        Args:
            step_seconds: Time of a training step.

        Returns:
            Seconds.
        """
        guess = self.prior * step_seconds
        if not self.own:
            return guess
        typical = min(self.typical, guess) if len(self.own) == 1 else self.typical
        return typical + self.after_effect

    def learn(self, *, own: float | None = None, after: float | None = None) -> None:
        """Take a cost into the running medians, kept here because every step asks for them."""
        if own is not None:
            self.own.append(own)
            self.typical = median(self.own)
        if after is not None:
            self.after.append(after)
            self.after_effect = max(0.0, median(self.after))


class Schedule(ABC):
    """Shared bookkeeping of the two schedules."""

    mode: str

    def __init__(self, observables: Sequence[Observable]) -> None:
        self.accounts = {
            o.name: Account(o.name, prior=o.price, stride=o.stride) for o in observables
        }
        self.steps = 0
        self.train_seconds = 0.0
        self.watch_seconds = 0.0
        self.pause_seconds = 0.0
        self._quiet_steps: deque[float] = deque(maxlen=101)
        self._usual = 0.0
        self._ran: list[str] = []

    @abstractmethod
    def plan(self, step: int) -> list[str]:
        """Names due at ``step``."""

    def charge(self, name: str, step: int, seconds: float, *, useful: bool = True) -> None:
        """A measurement was due and took this long; ``useful`` if it gave at least one number."""
        account = self.accounts[name]
        account.due += 1
        account.values += useful
        account.total += seconds
        account.last = step
        account.learn(own=seconds)
        account.bucket -= seconds + account.after_effect
        self._ran.append(name)

    def tick(self, train_seconds: float, watch_seconds: float) -> None:
        """One training step went by: its own time, and what watching took in it.

        A step that takes more than twice the median holds a pause (an evaluation, a checkpoint,
        another program); the pause is no training time that a share could be taken of.

        The time that a step takes longer than the median of steps without a measurement before
        them (cold caches) is put on the bill of what was measured.
        """
        self.steps += 1
        usual = self._usual
        if usual and train_seconds > 2 * usual:
            self.pause_seconds += train_seconds - 2 * usual
            train_seconds = 2 * usual
        self.train_seconds += train_seconds
        self.watch_seconds += watch_seconds
        if self._ran:
            if usual:
                excess = train_seconds - usual
                costs = [self.accounts[name].own[-1] for name in self._ran]
                whole = sum(costs) or 1.0
                for name, cost in zip(self._ran, costs, strict=True):
                    self.accounts[name].learn(after=excess * cost / whole)
            self._ran = []
        else:
            self._quiet_steps.append(train_seconds)
            # A median of 101 at every step would be among the dearest things done here.
            if len(self._quiet_steps) < 9 or self.steps % 16 == 0:
                self._usual = median(self._quiet_steps)

    @property
    def step_seconds(self) -> float:
        """Median time of an undisturbed training step; 0 before one was seen."""
        return self._usual or (self.train_seconds / self.steps if self.steps else 0.0)

    def switch_off(self, name: str) -> None:
        """Never due again."""
        self.accounts[name].off = True

    def summary(self) -> dict[str, object]:
        """What was chosen, for the run's ``schedule`` event and the report."""
        wall = (self.train_seconds + self.watch_seconds) or 1.0
        return {
            "mode": self.mode,
            "steps": self.steps,
            "train_seconds": self.train_seconds,
            "watch_seconds": self.watch_seconds,
            "pause_seconds": self.pause_seconds,
            "share": self.watch_seconds / wall,
            "observables": [
                {
                    "name": a.name,
                    "values": a.values,
                    "due": a.due,
                    "median_ms": 1e3 * a.typical if a.own else None,
                    "total_ms": 1e3 * a.total,
                    "share": a.total / wall,
                    "verdict": self.verdict(a),
                }
                for a in self.accounts.values()
            ],
        }

    def verdict(self, account: Account) -> str:
        """A sentence about what the schedule did to this observable; empty if nothing to say."""
        return "switched off after it failed" if account.off else ""


class Every(Schedule):
    """Fixed, reproducible rhythm: an observable is due when the step is a multiple of its period.

    Args:
        observables: What may be due.
        every: One period for all, or name to period (others: the smallest period given).

    Raises:
        ValueError: If a period is below 1 or names no observable.
    """

    mode = "every"

    def __init__(self, observables: Sequence[Observable], every: int | Mapping[str, int]) -> None:
        super().__init__(observables)
        given = every if isinstance(every, Mapping) else {}
        for name in given:
            if name not in self.accounts:
                raise ValueError(
                    f"The `every` of `attach` names {name!r}, which is not among the observables "
                    f"{sorted(self.accounts)}."
                )
        for period in given.values() if isinstance(every, Mapping) else (every,):
            if isinstance(period, bool) or not isinstance(period, int) or period < 1:
                raise ValueError(
                    f"The `every` of `attach` must be at least 1 step. Got {period!r}."
                )
        default = min(given.values(), default=1) if isinstance(every, Mapping) else every
        self.periods = {
            name: max(given.get(name, default), account.stride)
            for name, account in self.accounts.items()
        }

    def plan(self, step: int) -> list[str]:
        """Every observable whose period divides the step."""
        return [
            name
            for name, period in self.periods.items()
            if step % period == 0 and not self.accounts[name].off
        ]

    def summary(self) -> dict[str, object]:
        """Adds the periods."""
        return {**super().summary(), "every": self.periods, "budget": None}


class Budget(Schedule):
    """A share of wall time, one bucket an observable.

    Every step pays 0.6 x (budget x its time, less what watching costs when nothing is measured)
    into the buckets that are not full, in proportion to the root of their prices. An observable may
    run when its bucket holds its price; of the expensive ones (over a tenth of a step) at most one
    runs a step, the one that has waited longest. One with a fixed stride keeps an even distance,
    chosen from its price, and may go into debt for it; the distance doubles while the debt grows.

    The factor 0.6 leaves room for what cannot be put on a bill: caches, the allocator, and the
    measurements that cost more than their median.

    Args:
        observables: What may be due.
        budget: Share of wall time, in (0, 1].

    Raises:
        ValueError: If ``budget`` is not in (0, 1].
    """

    mode = "budget"

    def __init__(self, observables: Sequence[Observable], budget: float) -> None:
        super().__init__(observables)
        if isinstance(budget, bool) or not 0 < budget <= 1:
            raise ValueError(
                "The `budget` of `attach` must be a share of wall time in (0, 1], such as 0.03. "
                f"Got {budget!r}."
            )
        self.budget = budget
        self._idle: deque[float] = deque(maxlen=101)
        self._unpaid_seconds = 0.0
        self._unpaid_steps = 0
        self._wake = 0

    def tick(self, train_seconds: float, watch_seconds: float) -> None:
        """Note the step that went by; it is paid out when the next plan is made."""
        if not self._ran:
            self._idle.append(watch_seconds)
        before = self.train_seconds
        super().tick(train_seconds, watch_seconds)
        self._unpaid_seconds += self.train_seconds - before + watch_seconds
        self._unpaid_steps += 1

    @property
    def _idle_seconds(self) -> float:
        """What watching costs in a step without a measurement, logging included."""
        return median(self._idle) if self._idle else 0.0

    def _pay(self, usual: float) -> None:
        """Fill the buckets from the steps since the last payment."""
        # Idle hooks and logging cost half as much again as their own clock says (caches; LOG.md).
        spent = 1.5 * self._idle_seconds * self._unpaid_steps
        income = 0.6 * (self.budget * self._unpaid_seconds - spent)
        self._unpaid_seconds, self._unpaid_steps = 0.0, 0
        open_accounts = [
            a
            for a in self.accounts.values()
            if not a.off and a.bucket < 2.0 * max(a.price(usual), usual)
        ]
        # Shares in proportion to the root of the price give the values n_i that minimise Σ 1/n_i:
        # the dear ones get more time, the cheap ones more values.
        weights = [math.sqrt(a.price(usual)) for a in open_accounts]
        for account, weight in zip(open_accounts, weights, strict=True):
            account.bucket += max(income, 0.0) * weight / (sum(weights) or 1.0)

    def plan(self, step: int) -> list[str]:
        """What the buckets pay for at this step."""
        if step < self._wake:
            return []
        usual = self.step_seconds
        if not usual:
            return []
        self._pay(usual)
        due: list[str] = []
        expensive: list[Account] = []
        for account in self.accounts.values():
            if account.off:
                continue
            price = account.price(usual)
            if account.stride:
                if self._even(account, step, price, usual):
                    due.append(account.name)
            elif account.bucket >= price:
                if price > 0.1 * usual:
                    expensive.append(account)
                else:
                    due.append(account.name)
        if expensive:
            due.append(min(expensive, key=lambda a: a.last).name)
        evenly = [a.last + a.spacing for a in self.accounts.values() if a.last >= 0 and a.spacing]
        self._wake = min([step + NAP, *(s for s in evenly if s > step)])
        return due

    def _even(self, account: Account, step: int, price: float, usual: float) -> bool:
        """Whether an observable of fixed stride is due: an even distance that its share can pay."""
        if account.spacing == 0:
            roots = [math.sqrt(a.price(usual)) for a in self.accounts.values() if not a.off]
            share = math.sqrt(price) / (sum(roots) or 1.0)
            income = 0.6 * self.budget * usual * share
            spacing = account.stride
            while spacing * income < price:
                spacing *= 2
            account.spacing = spacing
        elif account.bucket < -3.0 * price and account.last == step - account.spacing:
            account.spacing *= 2
        if account.last < 0:
            return account.bucket >= price
        return step - account.last >= account.spacing

    def verdict(self, account: Account) -> str:
        """What the budget could not afford, and which budget would."""
        if account.off or account.values >= ENOUGH:
            return super().verdict(account)
        usual = self.step_seconds
        price = account.price(usual)
        wall = self.train_seconds + self.watch_seconds
        if not wall or not price:
            return f"{account.values} values: the run was too short to afford more"
        # What everybody wants: enough values for the starved, what they had for the others.
        wanted = sum(
            ENOUGH * a.price(usual) if a.values < ENOUGH else a.total
            for a in self.accounts.values()
            if not a.off
        )
        needed = (wanted / 0.6 + 1.5 * self.steps * self._idle_seconds) / wall
        kind = "measured" if account.own else "estimated"
        cost = f"{1e3 * price:.3g} ms {kind}, {price / usual:.3g} steps"
        if needed > 1:
            remedy = "no budget fits this short a run; use `every=`"
        else:
            remedy = f"budget={_round_up(needed)} would give {ENOUGH} to all"
        return f"{account.values} values ({cost} each); {remedy}"

    def summary(self) -> dict[str, object]:
        """Adds the budget."""
        return {**super().summary(), "every": None, "budget": self.budget}


def _round_up(share: float) -> str:
    """Two significant digits, never below the share.

    Args:
        share: A share of wall time.

    Returns:
        It, as a person would type it.

    Examples:
        >>> _round_up(0.0713)
        '0.072'
    """
    from decimal import ROUND_CEILING, Decimal

    digits = Decimal(share)
    return str(digits.quantize(Decimal(1).scaleb(digits.adjusted() - 1), rounding=ROUND_CEILING))
