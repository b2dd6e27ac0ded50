"""Carrying out what concerns the run and not its weights: rate, advice, stop, and pause.

**The rate of the schedule is never written.** Every scheduler writes ``lr`` into the groups of the
optimizer after a step: StepLR and cosine multiply what is there, OneCycleLR and LambdaLR assign. A
factor multiplied into ``lr`` once is kept by the former and lost under the latter, and one on
``base_lrs`` the other way round. So the factor is put on just before each update and taken off just
after it: between updates, when schedulers, checkpoints and people look, ``lr`` is that of the
schedule, to the bit, and undoing is forgetting the factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foreshock.types import Action


@dataclass(frozen=True)
class Change:
    """What an action changed, and how to take it back.

    Args:
        before: The number before: the standing factor of the policy, or a batch size.
        after: The number after.
        said: A sentence.
        undo: Puts it back, exactly; a second call does nothing. Several are undone last first.
    """

    before: float
    after: float
    said: str
    undo: Callable[[], None]


class Rates:
    """Standing factors on the learning rate of one optimizer, by policy; they multiply.

    A hook before each update puts the product on ``lr`` of every group, in place where it is a
    tensor (captured and compiled optimizers hold it; one that several groups share is multiplied
    once); `leave`, to be called after each update, puts the schedule's values back. So a hook that
    runs in between, such as one that measures the update, sees the rate that is used. Weight decay
    that is decoupled (AdamW) is scaled with the rate, as under any schedule.

    If the update raises, or `leave` is not called, the rate stays scaled until the next update,
    which begins with putting it back. A scheduler that is stepped *in a hook of the update* sees
    the scaled rate: what it wrote is then divided by the factor, which is right for schedulers that
    multiply, and makes the factor idle under those that assign.

    Cost: two numbers a group and step.

    Args:
        optimizer: Anything with ``param_groups`` that have an ``lr``.
        alone: Call `leave` by a hook of its own after each update; for use without a watch.

    Raises:
        ValueError: If no group has an ``lr``.

    Examples:
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = torch.optim.SGD([weight], lr=0.25)
        >>> rates = Rates(optimizer, alone=True)
        >>> change = scale_lr(rates, Action(7, "mine", "scale_lr", {"factor": 2.0}, "why not"))
        >>> weight.grad = torch.ones(1)
        >>> optimizer.step()
        >>> weight.item(), optimizer.param_groups[0]["lr"]
        (0.5, 0.25)
        >>> change.undo()
        >>> rates.factor
        1.0
    """

    def __init__(self, optimizer: Any, *, alone: bool = False) -> None:
        if not any("lr" in group for group in optimizer.param_groups):
            raise ValueError("No group of the optimizer has an `lr`: there is no rate to scale.")
        self._optimizer = optimizer
        self._standing: dict[str, float] = {}
        self._passing: dict[str, _Lent] = {}
        # Group, the schedule's rate, what it was made, and the factor between them.
        self._scaled: list[tuple[dict[str, Any], Any, Any, float]] = []
        self._handles = [optimizer.register_step_pre_hook(lambda *_: self.enter())]
        if alone:
            self._handles.append(optimizer.register_step_post_hook(lambda *_: self._alone()))

    @property
    def standing(self) -> Mapping[str, float]:
        """The lasting factor of each policy that is not 1."""
        return dict(self._standing)

    @property
    def passing(self) -> frozenset[str]:
        """The policies whose factor lasts some updates more."""
        return frozenset(self._passing)

    @property
    def factor(self) -> float:
        """The product of all factors, lasting and passing ones."""
        passing = (lent.factor for lent in self._passing.values())
        return math.prod((*self._standing.values(), *passing), start=1.0)

    def enter(self) -> None:
        """Before an update: put the factor on."""
        self._restore()  # an update that raised has left it on
        factor = self.factor
        if factor == 1:
            return
        seen: set[int] = set()
        for group in self._optimizer.param_groups:
            rate = group.get("lr")
            if rate is None or id(rate) in seen:
                continue
            if isinstance(rate, Tensor):
                seen.add(id(rate))
                before = rate.detach().clone()
                with torch.no_grad():
                    rate.mul_(factor)
                self._scaled.append((group, before, rate.detach().clone(), factor))
            else:
                group["lr"] = rate * factor
                self._scaled.append((group, rate, group["lr"], factor))

    def leave(self) -> list[str]:
        """After an update: take the factor off, and count those that last some updates.

        Returns:
            A sentence on each that has ended.
        """
        self._restore()
        said = []
        for policy, lent in list(self._passing.items()):
            lent.left -= 1
            if lent.left < 1:
                del self._passing[policy]
                said.append(f"The learning rate of {policy} is no longer times {lent.factor:.4g}.")
        return said

    def forget(self) -> None:
        """Put the schedule's rate back, and forget all factors; may be called within a hook."""
        self._restore()
        self._standing, self._passing = {}, {}

    def close(self) -> None:
        """`forget`, and take the hooks away. Idempotent; not from within a hook of the update."""
        self.forget()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def put(self, policy: str, factor: float) -> Callable[[], None]:
        """Set the lasting factor of a policy.

        Args:
            policy: Whose.
            factor: Positive.

        Returns:
            What takes it back to what it was.
        """
        before = self._standing.get(policy, 1.0)
        self._store(policy, factor)
        return _once(lambda: self._store(policy, before))

    def lend(self, policy: str, factor: float, steps: int) -> Callable[[], None]:
        """Let a factor last for the next updates.

        Args:
            policy: Whose.
            factor: Positive.
            steps: Updates.

        Returns:
            What ends it.

        Raises:
            ValueError: If one of this policy still lasts.
        """
        if policy in self._passing:
            raise ValueError(f"The passing factor of {policy} still lasts: they would add up.")
        mine = self._passing[policy] = _Lent(factor, steps)

        def undo() -> None:
            if self._passing.get(policy) is mine:  # and not one that began later
                del self._passing[policy]

        return undo

    def _store(self, policy: str, factor: float) -> None:
        if factor == 1:
            self._standing.pop(policy, None)
        else:
            self._standing[policy] = factor

    def _alone(self) -> None:
        self.leave()

    def _restore(self) -> None:
        """The schedule's rates, exactly; what somebody wrote meanwhile, without the factor."""
        for group, before, ours, factor in self._scaled:
            now = group["lr"]
            if isinstance(now, Tensor):
                same = isinstance(ours, Tensor) and torch.equal(now, ours)
                with torch.no_grad():
                    now.copy_(before if same else now / factor)
            else:
                group["lr"] = before if now == ours else now / factor
        self._scaled = []


def scale_lr(rates: Rates, action: Action) -> Change:
    """Multiply the factor of the action's policy, within the action's bounds.

    Args:
        rates: Of the optimizer.
        action: With ``factor`` in its arguments, and ``low``, ``high`` (of the standing factor) and
            ``steps`` if it has them; ``steps`` above 0 makes it pass after as many updates, and is
            refused while one of this policy still lasts.

    Returns:
        What changed.
    """
    ratio = _number(action, "factor")
    steps = int(float(action.arguments.get("steps", 0.0)))
    before = rates.standing.get(action.policy, 1.0)
    if steps > 0:
        passing = _bounded(action, ratio)
        undo = rates.lend(action.policy, passing, steps)
        said = f"The learning rate is times {passing:.4g} for the next {steps} update(s)."
        return Change(1.0, passing, said, undo)
    after = _bounded(action, before * ratio)
    return _put(rates, action, before, after)


def set_lr(rates: Rates, action: Action) -> Change:
    """Set the factor of the action's policy, within the action's bounds.

    Args:
        rates: Of the optimizer.
        action: With ``factor`` in its arguments, and ``low`` and ``high`` if it has them.

    Returns:
        What changed.
    """
    before = rates.standing.get(action.policy, 1.0)
    return _put(rates, action, before, _bounded(action, _number(action, "factor")))


@dataclass
class Wishes:
    """What a loop has to look at: whether to stop, and the batch size that is advised.

    Args:
        should_stop: Set by an action of kind ``stop``, with why in ``because``.
        because: The reason of the action that set it.
        batch: The last advice of kind ``advise_batch``; 0 if there was none.
    """

    should_stop: bool = False
    because: str = ""
    batch: float = 0.0


def stop(wishes: Wishes, action: Action) -> Change:
    """Ask the loop to stop: nothing is raised into it.

    Args:
        wishes: What the loop looks at.
        action: Why.

    Returns:
        What changed.

    Examples:
        >>> wishes = Wishes()
        >>> change = stop(wishes, Action(7, "mine", "stop", {}, "It is enough."))
        >>> wishes.should_stop, wishes.because
        (True, 'It is enough.')
        >>> change.undo()
        >>> wishes.should_stop
        False
    """
    before = (wishes.should_stop, wishes.because)
    wishes.should_stop, wishes.because = True, action.reason

    def undo() -> None:
        wishes.should_stop, wishes.because = before

    return Change(float(before[0]), 1.0, "`should_stop` is set.", _once(undo))


def advise_batch(wishes: Wishes, action: Action) -> Change:
    """Put down the batch size that is advised; whether it is followed is the loop's business.

    Args:
        wishes: What the loop looks at.
        action: With ``batch`` in its arguments.

    Returns:
        What changed.
    """
    before, after = wishes.batch, _number(action, "batch")
    wishes.batch = after

    def undo() -> None:
        wishes.batch = before

    return Change(before, after, f"A batch of {after:g} is advised.", _once(undo))


def pause(review: Callable[[Action], object] | None, action: Action) -> Change:
    """Call the user's function and wait for it.

    What it raises comes out of here, so that the action is told as not carried out. There is
    nothing to undo.

    Args:
        review: The user's function of the action, or None if none was given.
        action: Why.

    Returns:
        What changed: nothing.

    Raises:
        ValueError: If there is no function.
    """
    if review is None:
        raise ValueError(
            "Nobody is there to ask: pass the function that a `Pause` calls, "
            "`on_pause=lambda action: ...`."
        )
    review(action)
    return Change(0.0, 0.0, "A person was asked.", lambda: None)


@dataclass
class _Lent:
    """A factor that passes, and the updates that are left of it."""

    factor: float
    left: int


def _once(undo: Callable[[], None]) -> Callable[[], None]:
    """Called twice, it does nothing the second time."""
    todo = [undo]
    return lambda: todo.pop()() if todo else None


def _put(rates: Rates, action: Action, before: float, after: float) -> Change:
    undo = rates.put(action.policy, after)
    said = f"The learning rate is {after:.4g} times its schedule, after {before:.4g}."
    return Change(before, after, said, undo)


def _number(action: Action, name: str) -> float:
    value = float(action.arguments.get(name, math.nan))
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"The `{name}` of an action {action.kind!r} must be positive: {value}.")
    return value


def _bounded(action: Action, factor: float) -> float:
    low = float(action.arguments.get("low", 0.0))
    high = float(action.arguments.get("high", math.inf))
    return min(max(factor, low), high)
