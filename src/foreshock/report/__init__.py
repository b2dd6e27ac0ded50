"""What a person looks at: the offline HTML report of a run, and static pictures.

Nothing here imports torch; matplotlib is imported only when a picture is drawn.
"""

from __future__ import annotations

from foreshock.report.figures import demo_picture as demo_picture
from foreshock.report.figures import paper_figure as paper_figure
from foreshock.report.figures import save_figure as save_figure
from foreshock.report.html import write_report as write_report

__all__ = ["demo_picture", "paper_figure", "save_figure", "write_report"]
