from distlab.course.jupyter.settings import instructor_nbgrader

instructor_nbgrader(get_config())  # type: ignore[name-defined]  # noqa: F821  (put here by traitlets)
