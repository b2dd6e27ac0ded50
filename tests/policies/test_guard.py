"""`Guarded`: spacing, limit, no action on flagged estimates, and the undoing."""

from __future__ import annotations

import math

import pytest

from foreshock.policies import (
    Below,
    Council,
    DiffusionBoost,
    Every,
    Guarded,
    LatentReset,
    PublishedBelow,
    PublishedEarlyStop,
    Rollback,
    WeightReset,
)
from foreshock.types import Action, Estimate, Flag


def run(policy: Guarded, rows: list[dict[str, float | Estimate]]) -> list[Action]:
    state, actions = policy.init(), []
    for step, row in enumerate(rows):
        values = {k: v if isinstance(v, Estimate) else Estimate.plain(v) for k, v in row.items()}
        state, found = policy.update(state, step, values, [])
        actions += found
    return actions


def steps(actions: list[Action], kind: str = "reset_weights") -> list[int]:
    return [a.step for a in actions if a.kind == kind]


LOW = WeightReset(on=PublishedBelow("c"))


def test_refractory_period_spaces_what_fires_at_every_step() -> None:
    rows = [{"c": 0.1}] * 120
    assert steps(run(Guarded(LOW, refractory=1), rows)) == list(range(11, 21))  # ten at most
    assert steps(run(Guarded(LOW, refractory=50), rows)) == [11, 61, 111]


def test_no_more_than_most() -> None:
    assert len(run(Guarded(LOW, refractory=2, most=3), [{"c": 0.1}] * 100)) == 3


def test_nothing_on_a_flagged_estimate_whatever_the_policy_makes_of_it() -> None:
    class Reckless:
        name, reads = "reckless", ("c",)

        def init(self) -> None:
            return None

        def update(self, state, step, values, alarms):
            return state, [Action(step, "reckless", "reset_weights", {}, "why not")]

    flagged = Estimate(0.1, flags=Flag.NOT_CONVERGED, reason="Too few iterations.")
    held = Guarded(Reckless(), refractory=1, most=99)
    rows = [{"c": 0.1}, {"c": flagged}, {"c": math.nan}, {"other": math.nan}, {"c": 0.2}]
    assert steps(run(held, rows)) == [0, 3, 4]


def world(after: list[float], **options: float) -> list[Action]:
    """A quiet loss of 1, an action at step 20, and then these losses from step 21 on."""
    held = Guarded(WeightReset(on=Every(20)), refractory=1000, rollback=Rollback("loss", **options))  # type: ignore[arg-type]
    return run(held, [{"loss": 1.0}] * 21 + [{"loss": x} for x in after])


def test_rollback_when_the_guard_worsens_beyond_the_factor() -> None:
    actions = world([1.0] + [1.6] * 10)
    # Step 21 is still before the action: values count from 22 on, and three of them make a median.
    assert steps(actions) == [20] and steps(actions, "rollback") == [24]
    undo = actions[-1]
    assert undo.arguments == {"undoes": 20.0, "value": 1.6, "threshold": 1.5}
    assert "against a median of 1 before the action of step 20" in undo.reason
    assert steps(world([1.0] + [1.4] * 60), "rollback") == []
    assert steps(world([1.6] * 2 + [1.0] * 60), "rollback") == []  # one bad value is no trend
    assert steps(world([1.0] * 51 + [9.0] * 10), "rollback") == []  # after `within`
    # The first is at 61, and the second makes the median of three.
    assert steps(world([1.0] * 40 + [9.0] * 10), "rollback") == [62]


def test_a_guard_that_is_no_longer_finite_is_undone_at_once_and_a_refusal_is_not() -> None:
    assert steps(world([1.0, math.nan]), "rollback") == [22]
    assert steps(world([1.0, math.inf]), "rollback") == [22]
    held = Guarded(WeightReset(on=Every(20)), rollback=Rollback("loss"))
    quiet: list[dict[str, float | Estimate]] = [{"loss": 1.0}] * 22
    refused = [{"loss": Estimate.missing("No held-out batch.")}] * 20
    assert steps(run(held, quiet + refused), "rollback") == []


def test_negative_guards_worsen_upwards_too() -> None:
    held = Guarded(WeightReset(on=Every(20)), refractory=1000, rollback=Rollback("loss"))
    rows = [{"loss": -2.0}] * 22 + [{"loss": -0.5}] * 5
    assert steps(run(held, rows), "rollback") == [24]
    rows = [{"loss": -2.0}] * 22 + [{"loss": -5.0}] * 50
    assert steps(run(held, rows), "rollback") == []


def test_refractory_period_counts_from_the_undoing_and_the_reference_begins_anew() -> None:
    held = Guarded(WeightReset(on=Every(20)), refractory=30, rollback=Rollback("loss", window=5))
    rows = [{"loss": 1.0}] * 22 + [{"loss": 9.0}] * 10 + [{"loss": 1.0}] * 60
    actions = run(held, rows)
    assert steps(actions, "rollback") == [24]
    # 40 lies within 30 steps of the undoing at 24, and 80 within 30 of the action at 60.
    assert steps(actions) == [20, 60]


def test_no_action_without_a_reference_to_come_back_to() -> None:
    held = Guarded(WeightReset(on=Every(20)), refractory=1, rollback=Rollback("lozz"))
    assert run(held, [{"loss": 1.0}] * 100) == []


def noted(policy: Guarded, rows: list[dict[str, float | Estimate]]) -> list[tuple[int, str]]:
    said: list[tuple[int, str]] = []
    step = 0
    council = Council([policy], on_note=lambda _, text: said.append((step, text)))
    for step, row in enumerate(rows):
        values = {k: v if isinstance(v, Estimate) else Estimate.plain(v) for k, v in row.items()}
        council.feed(step, values, [])
    return said


def sparse(last: float, gap: int, n: int) -> list[dict[str, float | Estimate]]:
    """A guard logged every `gap` steps, of value 1 until step 200 and another one after."""
    return [{"c": 0.1} | ({"val": 1.0 if t <= 200 else last} if t % gap == 0 else {})
            for t in range(n)]  # fmt: skip


def test_a_guard_that_is_logged_seldom_guards_all_the_same() -> None:
    held = Guarded(WeightReset(on=Every(200)), most=1, rollback=Rollback("val"))
    # Within 50 steps of 200 there are two values; the third, at 260, is what a median needs.
    assert steps(run(held, sparse(100.0, 20, 400)), "rollback") == [260]
    assert steps(run(held, sparse(1.0, 20, 400)), "rollback") == []
    # Once three were seen and were well, the watch is over: what comes at 280 is not its affair.
    late = sparse(1.0, 20, 270) + sparse(100.0, 20, 400)[270:]
    assert steps(run(held, late), "rollback") == []


def test_a_watch_that_saw_too_little_says_so_and_ends() -> None:
    held = Guarded(WeightReset(on=Every(200)), most=1, rollback=Rollback("val"))
    rows = sparse(1.0, 20, 230) + [{"c": 0.1}] * 600
    (said,) = (s for s in noted(held, rows) if "ended" in s[1])
    # 10 times 50 steps after 200; of the three values only that of 220 came.
    assert said == (
        701,
        "The watch on val after the action of weight_reset at step 200 ended with 1 values of 3: "
        "nothing was judged.",
    )


def test_what_is_held_back_is_told_with_its_reason() -> None:
    def reasons(held: Guarded, rows: list[dict[str, float | Estimate]]) -> set[str]:
        return {text.removeprefix("An action of weight_reset was held back: ")
                for _, text in noted(held, rows)}  # fmt: skip

    often = WeightReset(on=Every(10))
    rows: list[dict[str, float | Estimate]] = [{"loss": 1.0}] * 50
    assert reasons(Guarded(often, refractory=1), rows) == set()
    assert reasons(Guarded(often, refractory=15), rows) == {
        "the last one, or a rollback, is fewer than 15 steps ago."
    }
    assert reasons(Guarded(often, refractory=1, most=2), rows) == {"there were 2 already."}
    assert reasons(Guarded(often, rollback=Rollback("lozz")), rows) == {
        "fewer than 10 values of lozz came since the start or the last rollback, so there is no "
        "reference to judge it by."
    }
    flagged = [{"c": Estimate(0.1, flags=Flag.NOT_CONVERGED, reason="Few.")}] * 20
    low = WeightReset(on=PublishedBelow("c"))

    class Reckless:
        name, reads, init = "weight_reset", ("c",), lambda self: None

        def update(self, state, step, values, alarms):
            return state, [Action(step, "weight_reset", "reset_weights", {}, "why not")]

    assert reasons(Guarded(low), flagged) == set()  # which wanted nothing
    assert reasons(Guarded(Reckless()), flagged) == {"c is flagged or not finite."}


def test_the_council_knows_who_watches() -> None:
    held = Guarded(WeightReset(on=Every(20)), refractory=99, rollback=Rollback("loss", within=10))
    council = Council([held, WeightReset(on=Every(20), name="other")])
    seen = [bool(council.feed(t, {"loss": Estimate(1.0)}, []) or 1) and council.watching
            for t in range(40)]  # fmt: skip
    # From the action at 20 until ten steps after it; who has no rollback never watches.
    assert [t for t, names in enumerate(seen) if names] == list(range(20, 31))
    assert seen[20] == {"weight_reset"}


def test_it_is_the_policy_it_holds() -> None:
    held = Guarded(LOW, rollback=Rollback("loss"))
    assert held.name == LOW.name and held.reads == ("c", "loss")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Guarded(3), "`policy` of `Guarded` needs name"),  # type: ignore[arg-type]
        # The outer one would hold back the rollback that the inner one wants.
        (lambda: Guarded(Guarded(LOW)), "`policy` of `Guarded` is guarded already"),
        (
            # 5 measured and 50 noised, one until it begins, three values of the guard.
            lambda: Guarded(DiffusionBoost(on=Every(9)), rollback=Rollback()),
            "`within` of `Rollback` must be at least 59: 'diffusion_boost' lasts 55 .* Got 50",
        ),
        (
            lambda: Guarded(LatentReset("a", Every(9), steps=9), rollback=Rollback(within=12)),
            "must be at least 13",
        ),
        (lambda: Guarded(LOW, refractory=0), "`refractory` of `Guarded` must be at least 1"),
        (lambda: Guarded(LOW, most=0), "`most` of `Guarded` must be at least 1"),
        (lambda: Guarded(LOW, rollback=True), "must be a `Rollback` or None. Got True"),  # type: ignore[arg-type]
        (lambda: Rollback(factor=1.0), "`factor` of `Rollback` must exceed 1. Got 1.0"),
        (lambda: Rollback(within=1), "`within` of `Rollback` must be at least 2. Got 1"),
        (lambda: Rollback(window=0), "`window` of `Rollback`"),
        (lambda: Rollback(recent=0), "`recent` of `Rollback`"),
    ],
)
def test_arguments(make, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_refused_event_does_not_silence_the_next() -> None:
    council = Council([Guarded(WeightReset(on=Below("loss", 0.5)), refractory=1)])
    (first,) = council.feed(30, {"loss": Estimate.exact(0.1)}, [])
    council.refused(first)
    assert council.feed(31, {"loss": Estimate.exact(0.9)}, []) == []
    (again,) = council.feed(
        32, {"loss": Estimate.exact(0.1)}, []
    )  # within the 20 of a rule on rates
    assert again.kind == "reset_weights"


def test_a_guard_can_do_without_what_its_policy_can_but_not_without_what_it_watches() -> None:
    stop = PublishedEarlyStop()
    assert Guarded(stop).optional == stop.optional == (stop.i,)
    assert Guarded(stop, rollback=Rollback(stop.i)).optional == ()
    assert Guarded(WeightReset(on=Every(20))).optional == ()
