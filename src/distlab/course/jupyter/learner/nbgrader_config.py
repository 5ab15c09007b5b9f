from distlab.course.jupyter.settings import learner_nbgrader

learner_nbgrader(get_config())  # type: ignore[name-defined]  # noqa: F821  (put here by traitlets)
