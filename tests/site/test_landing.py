"""Where people land who sign in and asked for nothing else."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from distlab.course.site import Site
from tests.site.client import Learner

pytestmark = pytest.mark.site


def test_learners_land_in_the_book_and_instructors_at_their_tools(site: Site) -> None:
    learner = Learner(site, "lovelace")
    learner.sign_up((site.secrets / "enrolment-code").read_text().strip())
    assert urlsplit(learner.log_in().url).path == "/hub/book/"

    password = (site.secrets / "instructor-password").read_text().strip()
    instructor = Learner(site, "instructor", password)
    home = instructor.log_in()
    assert urlsplit(home.url).path == "/hub/home"
    assert "Formgrader" in home.text
    assert "Formgrader" not in learner.http.get(f"{site.url}/hub/home").text
    assert urlsplit(instructor.http.get(site.url).url).path == "/hub/book/"
