"""Late penalties as nbgrader's configuration has them (`AssignLatePenalties.plugin_class`)."""

from __future__ import annotations

from nbgrader.apps.baseapp import NbGrader  # type: ignore[import-untyped]
from nbgrader.preprocessors import AssignLatePenalties  # type: ignore[import-untyped]

from distlab.course.grade.gradebook import LatePenalty


def late_penalty() -> LatePenalty:
    """The configured plugin's rule; nbgrader's own takes nothing off unless it is told to."""
    app = NbGrader()
    app.log_level = "ERROR"
    # A configuration in the working directory is code of whoever may write there.
    app.load_cwd_config = False
    app.load_config_file()
    assign = AssignLatePenalties(config=app.config)
    level = assign.log.level  # of a log that this process shares
    assign.log.setLevel("ERROR")
    try:
        assign.init_plugin()
    finally:
        assign.log.setLevel(level)
    rule: LatePenalty = assign.plugin_inst.late_submission_penalty
    return rule
