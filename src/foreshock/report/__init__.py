"""What a person looks at: the offline HTML report of a run, and one static picture.

Nothing here imports torch; matplotlib is imported only when a picture is drawn.
"""

from __future__ import annotations

from foreshock.report.figures import demo_picture as demo_picture
from foreshock.report.html import write_report as write_report

__all__ = ["demo_picture", "write_report"]
