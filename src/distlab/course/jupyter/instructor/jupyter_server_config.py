from distlab.course.jupyter.settings import instructor_server

instructor_server(get_config())  # type: ignore[name-defined]  # noqa: F821  (put here by traitlets)
