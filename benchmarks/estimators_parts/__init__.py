"""What each estimator costs, in training steps of the same process.

A module here has ``rows() -> list[dict]``; ``foreshock bench estimators`` finds it. ``peers`` is
run in a process of its own, with the peers' packages on the path.
"""
