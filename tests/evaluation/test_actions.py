"""`replay_actions`: on the alarms on record, or on those of detectors run again."""

from __future__ import annotations

from pathlib import Path

from foreshock import Run
from foreshock.detectors import PCrossesHalf
from foreshock.detectors.record import alarm_record
from foreshock.evaluation import replay_actions
from foreshock.policies import Every, WeightReset
from foreshock.types import Alarm


def test_alarms_on_record_or_run_again(tmp_path: Path) -> None:
    with Run.create(tmp_path / "r") as run:
        for t in range(10):
            run.append(t, {"grad/p_published": 0.2 if t < 4 else 0.8})
        foreign = Alarm(6, "p_crosses_half", "grad/p_published", 0.8, 0.5, "By another version.")
        run.event("alarm", foreign.detector, alarm_record(foreign), step=foreign.step)
    policy = WeightReset(on="p_crosses_half")
    with Run.open(tmp_path / "r") as run:
        assert [a.step for a in replay_actions(run, [policy])] == [6]
        assert [a.step for a in replay_actions(run, [policy], [PCrossesHalf()])] == [4]
        assert replay_actions(run, [policy], []) == []
        # Clocks see steps at which something was recorded, whatever it was.
        assert [a.step for a in replay_actions(run, [WeightReset(on=Every(4))])] == [4, 8]
        assert run.events("action") == []
