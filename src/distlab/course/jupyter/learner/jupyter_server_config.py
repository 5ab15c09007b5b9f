from distlab.course.jupyter.settings import learner_server

learner_server(get_config())  # type: ignore[name-defined]  # noqa: F821  (put here by traitlets)
