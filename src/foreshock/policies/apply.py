"""Carrying actions out: the one place where Foreshock changes a training run, and only when told.

`Applier` is used by ``attach(..., dry_run=False)`` between two updates. What may be done is the
table `foreshock.policies.apply_kinds.KINDS`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from foreshock.policies.apply_effects import Draws, Effect, Ended
from foreshock.policies.apply_kinds import KINDS, STANDING, lasts, refused
from foreshock.policies.apply_rate import Change, Rates, Wishes
from foreshock.policies.apply_snapshot import Kept, put_back, take
from foreshock.policies.guard import Guarded
from foreshock.policies.resets import LatentReset
from foreshock.policies.stops import Pause
from foreshock.probe.view import unwrap
from foreshock.types import Action, Policy


class Applier:
    """Carries actions out on a live model, between two updates; each either whole or not at all.

    What is refused has touched nothing, and of what fails half-way the weights it touched are put
    back; then it comes back with ``applied=False`` and the reason. Only if it is to be kept for a
    rollback is the state before it copied: what this optimizer trains, the buffers beside it, and
    its own state. The copy goes with the rollback or when the guard's watch ends. Until then an
    action of another policy is refused, since an undoing could not tell the two apart, and one more
    copy of the weights says at each update whether anybody else has written them: then the rollback
    is refused.

    Random numbers come from generators of the action's own, seeded by seed, step, policy and kind,
    so that a repeated run repeats them and the global ones do not move. A padding row of an
    embedding receives no noise: it never gets a gradient, so nothing would bring it back.

    A factor on the learning rate is put on before each update and taken off after it
    (`foreshock.policies.apply_rate`), so the schedule goes on as it would. A rollback takes the
    factor back, and a wish to stop or an advised batch.

    Not restored by a rollback: the *schedule* of the learning rate and whatever else lies in the
    optimizer's param_groups (the state of schedule-free optimizers and of Prodigy), a gradient
    scaler, averaged copies of the weights, and Python attributes of the modules.

    Args:
        model: The live model; compiled and data-parallel wrappers are looked through.
        optimizer: Its optimizer.
        seed: Of all draws.
        on_pause: What an action of kind ``pause`` calls, with the action.

    Attributes:
        model: The module behind the wrappers.
        optimizer: The optimizer.
        seed: Of all draws.
        wishes: Whether a policy wants the loop to stop, and the batch it advises.

    Examples:
        >>> model = nn.Linear(3, 1)
        >>> applier = Applier(model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> numbers = {"fraction": 1.0, "scale": 0.1, "relative": 1.0}
        >>> before = model.weight.clone()
        >>> applier.apply(Action(7, "mine", "reset_weights", numbers, "Why."), keep=True).applied
        True
        >>> applier.apply(Action(9, "mine", "rollback", {}, "It got worse.")).applied
        True
        >>> torch.equal(model.weight, before)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        seed: int = 0,
        *,
        on_pause: Callable[[Action], object] | None = None,
    ) -> None:
        self._given = model
        self.model = unwrap(model)
        self.optimizer = optimizer
        self.seed = seed
        self._effects: list[Effect] = []
        self._touched: list[tuple[Tensor, Tensor]] = []
        self._kept: Kept | None = None
        self._ended: list[Ended] = []
        self.wishes = Wishes()
        self.on_pause = on_pause
        # Its hook comes before those that measure, so that they see the rate that is used.
        rated = any("lr" in group for group in optimizer.param_groups)
        self._rates = Rates(optimizer) if rated else None
        self._lent: dict[str, Action] = {}
        self._lasting: dict[str, Action] = {}

    def check(self, policies: Iterable[Policy]) -> None:
        """Refuse what could not be carried out, before training starts.

        Args:
            policies: What was attached.

        Raises:
            ValueError: If a layer does not exist or is compiled, or nobody is there to be asked.
        """
        for policy in policies:
            inner = policy.policy if isinstance(policy, Guarded) else policy
            if isinstance(inner, LatentReset):
                self.layer(inner.layer)
            if isinstance(inner, Pause) and self.on_pause is None:
                raise ValueError(
                    f"The policy {policy.name!r} asks a person, and nobody is there: pass the "
                    "function that it calls, `on_pause=lambda action: ...`."
                )

    def restore(self, actions: Iterable[Action]) -> list[Change]:
        """Of a resumed run: what was carried out before and still stands, done again.

        That are standing factors on the learning rate, the batch that was advised, and the wish to
        stop; not what a later rollback undid, nor what lasted some updates and ended with the
        process. The weights are those of the checkpoint, and not touched.

        Args:
            actions: On record, in their order.

        Returns:
            What changed, one an action.
        """
        done = [action for action in actions if action.applied]
        undone = {(a.policy, a.arguments.get("undoes")) for a in done if a.kind == "rollback"}
        standing = [
            a
            for a in done
            if a.kind in STANDING and not lasts(a) and (a.policy, a.step) not in undone
        ]
        changes = (KINDS[action.kind](self, action)() for action in standing)
        return [change for change in changes if isinstance(change, Change)]

    def apply(self, action: Action, *, keep: bool = False) -> Action:
        """Carry one action out; nothing that goes wrong is raised.

        An interrupt or an exit passes, after what was touched was put back.

        Args:
            action: What a policy wants.
            keep: Whether a rollback of it may be asked for.

        Returns:
            The action with ``applied=True``; or as it was, with why not in its reason.
        """
        if action.kind not in KINDS:
            known = ", ".join(sorted(KINDS))
            return refused(action, f"There is no kind {action.kind!r}; there are {known}.")
        effects, before = list(self._effects), None
        try:
            self._refuse_beside_a_watch(action)
            carry_out = KINDS[action.kind](self, action)
            # Of several actions of a policy at one step, what was before the first.
            same = self._kept is not None and self._kept.step == action.step
            if keep and not same and action.kind != "rollback":
                before = Kept(action.policy, action.step, take(self.model, self.optimizer))
            with torch.no_grad():
                change = carry_out()
        except BaseException as error:
            for effect in self._effects:
                if effect not in effects:
                    effect.end()
            self._effects = effects
            with torch.no_grad():
                for tensor, old in self._touched:
                    tensor.copy_(old)
            if not isinstance(error, Exception):
                raise
            return refused(action, str(error) or type(error).__name__)
        finally:
            self._touched = []
        if before is not None:
            self._kept = before
        if keep and self._kept is not None and isinstance(change, Change):
            self._kept.undos.append(change.undo)
        if self._kept is not None:
            self._kept.mark(self.optimizer)
        return replace(action, applied=True)

    def before_update(self) -> None:
        """An update is about to be made: what lasts looks at the weights."""
        if self._kept is not None and not self._kept.foreign:
            self._kept.look(self.optimizer)
        self._turn(lambda effect: effect.before_update())

    def after_update(self) -> list[Ended]:
        """Let what lasts have its turn after an update; nothing that goes wrong is raised.

        Returns:
            What has ended.
        """
        self._take_rates_off()
        self._turn(lambda effect: effect.after_update())
        if self._kept is not None:
            self._kept.mark(self.optimizer)
        return self.drain()

    def release(self, watched: Collection[str]) -> None:
        """Let the copy go unless its policy is among those whose guard still watches."""
        if self._kept is not None and self._kept.policy not in watched:
            self._kept = None

    def close(self, why: str = "The watch was closed.") -> list[Ended]:
        """End what lasts, standing factors too, and let the copy go. Idempotent.

        The hook of the rates is left to `remove_hooks`, since this may run within one.

        Args:
            why: A sentence.

        Returns:
            What has ended.
        """
        for effect in list(self._effects):
            self._end(effect, why)
        for action in self._lent.values():
            self._ended.append(Ended(action, why, {}))
        self._lent = {}
        if self._rates is not None:
            for policy, factor in self._rates.standing.items():
                done = {"times the learning rate": factor}
                self._ended.append(Ended(self._lasting[policy], why, done))
            self._rates.forget()
        self._kept = None
        return self.drain()

    def remove_hooks(self) -> None:
        """Take the hook of the rates away; not from within a hook of the optimizer. Idempotent."""
        if self._rates is not None:
            self._rates.close()

    @property
    def factor(self) -> float:
        """What the learning rate is multiplied by."""
        return 1.0 if self._rates is None else self._rates.factor

    def drain(self) -> list[Ended]:
        """What has ended since this was last asked."""
        ended, self._ended = self._ended, []
        return ended

    def _turn(self, of: Callable[[Effect], str | None]) -> None:
        for effect in list(self._effects):
            try:
                over = of(effect)
            except Exception as error:
                over = f"It failed. {type(error).__name__}: {error}"
            if over:
                self._end(effect, over)

    def _end(self, effect: Effect, why: str) -> None:
        effect.end()
        self._effects.remove(effect)
        self._ended.append(Ended(effect.action, why, effect.done()))

    def _take_rates_off(self) -> None:
        """The schedule's learning rate again, and who has lent his factor long enough."""
        if self._rates is None:
            return
        self._rates.leave()
        for policy in set(self._lent) - self._rates.passing:
            action = self._lent.pop(policy)
            updates = float(action.arguments.get("steps", 0.0))
            self._ended.append(Ended(action, "Its updates are over.", {"updates": updates}))

    # ---------------------------------------------------------------- what the kinds use

    def rate(self, action: Action, change: Callable[[Rates, Action], Change]) -> Change:
        """Change the factor on the learning rate.

        Args:
            action: By how much.
            change: `scale_lr` or `set_lr`.

        Returns:
            What changed.

        Raises:
            ValueError: If there is no learning rate.
        """
        if self._rates is None:
            raise ValueError("No group of the optimizer has an `lr`: there is no rate to scale.")
        changed = change(self._rates, action)
        (self._lent if lasts(action) else self._lasting)[action.policy] = action
        return changed

    def trained(self) -> list[nn.Parameter]:
        """Weights that the optimizer trains, tied ones once, frozen and empty ones not.

        Returns:
            The live parameters.

        Raises:
            ValueError: If there is none.
        """
        ours = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        parameters = [p for p in self.model.parameters() if p.requires_grad and p.numel()]
        found = [p for p in parameters if id(p) in ours]
        if not found:
            raise ValueError("No parameter of the model is trained at this step.")
        return found

    def touch(self, tensor: Tensor) -> None:
        """What an action calls before it writes: if it fails later, this is put back."""
        self._touched.append((tensor, tensor.detach().clone()))

    def draws(self, action: Action) -> Draws:
        """Random numbers of this action's own."""
        key = f"{self.seed}/{action.step}/{action.policy}/{action.kind}"
        embeddings = (nn.Embedding, nn.EmbeddingBag)
        spared = {
            id(m._parameters.get("weight")): m.padding_idx
            for m in self.model.modules()
            if isinstance(m, embeddings) and m.padding_idx is not None
        }
        return Draws(zlib.crc32(key.encode()), spared)

    def layer(self, name: str) -> nn.Module:
        """A module on which a hook will be heard.

        Args:
            name: As in ``model.named_modules()``.

        Returns:
            The module.

        Raises:
            ValueError: If there is none of this name, or it is compiled or replicated.
        """
        modules = dict(self.model.named_modules())
        if not name or name not in modules:
            known = ", ".join(k for k in list(modules)[1:13])
            raise ValueError(f"The model has no layer {name!r}. Some that it has: {known}.")
        found = modules[name]
        if isinstance(self._given, nn.DataParallel):
            raise ValueError("A latent reset cannot reach the replicas of `nn.DataParallel`.")
        for one in (self._given, *modules.values()):
            compiled = "_orig_mod" in one._modules or one._compiled_call_impl is not None
            if compiled and any(found is inner for inner in one.modules()):
                raise ValueError(
                    f"The layer {name!r} is compiled, and a hook added to a compiled layer is not "
                    "heard. Name a layer outside it, or train without `torch.compile`."
                )
        return found

    def begin(self, effect: Effect) -> None:
        """Let an effect last."""
        self._effects.append(effect)

    def refuse_second(self, action: Action, kind: type) -> None:
        """Refuse an effect while one like it lasts, whosever: they would add up."""
        for effect in self._effects:
            if isinstance(effect, kind):
                raise ValueError(f"The {action.kind} of {effect.action.policy} still lasts.")

    def _refuse_beside_a_watch(self, action: Action) -> None:
        kept = self._kept
        if kept is None or kept.policy == action.policy or action.kind == "rollback":
            return
        raise ValueError(
            f"The guard of {kept.policy} still watches its action of step {kept.step}, and could "
            "not tell the two apart."
        )

    def way_back(self, action: Action) -> Callable[[], None]:
        """Back to before the last action of this policy; what it began ends, what it set goes back.

        Args:
            action: The rollback.

        Returns:
            What does it.

        Raises:
            ValueError: If the copy is gone, or somebody else's work would be undone with it.
        """
        undoes = action.arguments.get("undoes")
        kept = self._kept
        if kept is None or kept.policy != action.policy or undoes not in (None, kept.step):
            raise ValueError(
                "The copy of the state before that action is no longer there: it was not carried "
                "out, its watch is over, or the run was resumed."
            )
        ours = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        if any(id(p) not in ours for p, _ in kept.snapshot.weights):
            raise ValueError("The optimizer holds other weights than at that action.")
        if kept.foreign:
            raise ValueError(
                f"Going back would overwrite what is not this action's: {kept.foreign} (a "
                "checkpoint that was loaded, weights clipped or averaged by hand)."
            )

        def carry_out() -> None:
            now = take(self.model, self.optimizer)
            try:
                put_back(kept.snapshot, self.optimizer)
            except BaseException:
                put_back(now, self.optimizer)
                raise
            for effect in list(self._effects):
                if effect.action.policy == action.policy:
                    self._end(effect, "It was undone.")
            for undo in reversed(kept.undos):
                undo()
            passing = frozenset() if self._rates is None else self._rates.passing
            if action.policy in self._lent and action.policy not in passing:
                lent = self._lent.pop(action.policy)
                self._ended.append(Ended(lent, "It was undone.", {}))
            self._kept = None

        return carry_out
