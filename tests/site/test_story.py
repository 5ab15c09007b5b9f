"""The whole loop, as its people play it: from sign-up to the score, in a real browser at the real site."""

from __future__ import annotations

import re
from typing import Any

import nbformat
import pytest
from playwright.sync_api import expect

from distlab.course.site import Site
from tests.site.browser import PATIENCE_MS, Browser, Person
from tests.site.running import distlab

LAB = "mod-107-lab-3"
LEARNER = "mary"
CHAPTER = "/hub/book/mod-107/05-multi-gpu-and-distributed.html"


@pytest.mark.site
@pytest.mark.timeout(600)
def test_from_sign_up_to_the_score(site: Site) -> None:
    with Browser(site) as browser:
        learner = browser.person(LEARNER)
        learner.sign_up()
        assert distlab(site, "course", "admit", LEARNER).returncode == 0
        reads_and_opens_the_lab(learner)
        works_and_submits(learner, site)

        password = (site.secrets / "instructor-password").read_text().strip()
        instructor = browser.person("instructor", password)
        collects_and_grades(instructor)
        grades_by_hand(instructor)
        releases_feedback(instructor)

        reads_the_score(learner)


def reads_and_opens_the_lab(learner: Person) -> None:
    page = learner.page
    learner.visit("/")
    expect(page).to_have_url(re.compile("/hub/book/"))
    learner.visit(CHAPTER)
    expect(page.get_by_role("heading", level=1)).to_contain_text("Multi-GPU and distributed")
    learner.visit("/hub/book/mod-107/lab-3.html")
    page.get_by_role("link", name="Open the lab").first.click()
    learner.log_in()
    learner.await_notebook()


def works_and_submits(learner: Person, site: Site) -> None:
    """Store the model answers, run every cell, validate, submit."""
    page = learner.page
    learner.put_notebook(f"{LAB}/{LAB}.ipynb", with_model_answers(site))
    page.reload()
    learner.await_notebook()
    learner.run_all_cells()
    page.get_by_role("button", name="Validate").click()  # saves first
    expect(page.get_by_text("Success! Your notebook passes all the tests.")).to_be_visible(
        timeout=PATIENCE_MS
    )
    page.get_by_role("button", name="Ok", exact=True).click()

    learner.assignment_list()
    fetched = page.locator("#fetched_assignments_list .list_item", has_text=LAB).first
    fetched.get_by_role("button", name="Submit").click()
    expect(page.locator("#submitted_assignments_list")).to_contain_text(LAB)


def collects_and_grades(instructor: Person) -> None:
    instructor.log_in()
    with instructor.page.expect_popup() as opened:
        instructor.page.get_by_role("link", name="Formgrader").click()
    page = instructor.page = opened.value
    page.set_default_timeout(30_000)
    page.wait_for_url(re.compile(f"/user/{instructor.name}/formgrader"), timeout=PATIENCE_MS)
    lab = page.locator("tr", has_text=LAB)
    lab.locator("td.collect a").click()
    confirm(instructor, "Successfully collected")
    lab.locator("td.num-submissions a").click()
    submission = page.locator("tr", has_text=LEARNER)
    submission.locator("td.autograde a").click()
    confirm(instructor, "Successfully autograded")
    expect(submission.locator("td.status")).to_contain_text("needs manual grading")
    expect(submission.locator("td.score")).to_have_text("80 / 100")


def grades_by_hand(instructor: Person) -> None:
    """Give the written answer, the only one without tests, full credit."""
    page = instructor.page
    page.locator("tr", has_text=LEARNER).locator("td.student-name a").click()
    page.locator("td.name a", has_text=LAB).click()
    answer = page.locator(".panel-heading", has_text="Student's answer").filter(
        has=page.locator("input.score")
    )
    expect(answer).to_have_count(1)
    # formgrader sets this placeholder when it listens to the buttons
    expect(answer.locator("input.extra-credit")).to_have_attribute("placeholder", "0", timeout=PATIENCE_MS)
    with page.expect_response(re.compile("/formgrader/api/grade/")) as saved:
        answer.get_by_role("button", name="Full credit").click()
    assert saved.value.ok


def releases_feedback(instructor: Person) -> None:
    instructor.visit("/hub/user-redirect/formgrader")
    lab = instructor.page.locator("tr", has_text=LAB)
    lab.locator("td.generate-feedback a").click()
    confirm(instructor, "Successfully generated feedback")
    lab.locator("td.release-feedback a").click()
    confirm(instructor, "Successfully released feedback")


def confirm(instructor: Person, message: str) -> None:
    """Read formgrader's dialog, and leave it with a fresh page: its fading in and out takes clicks, or not."""
    dialog = instructor.page.locator("#success-modal")
    expect(dialog).to_contain_text(message, timeout=PATIENCE_MS)
    instructor.page.reload()


def reads_the_score(learner: Person) -> None:
    page = learner.page
    learner.assignment_list()
    page.locator("#refresh_assignments_list").click()
    submitted = page.locator("#submitted_assignments_list")
    submitted.get_by_role("button", name="Fetch Feedback").click()
    submitted.get_by_text("(view feedback)").click()
    page.locator(".jp-DirListing-item", has_text=f"{LAB}.html").dblclick()
    feedback = page.frame_locator(".jp-HTMLViewer iframe")
    expect(feedback.locator("body")).to_contain_text(f"{LAB} (Score: 100.0 / 100.0)")


def with_model_answers(site: Site) -> dict[str, Any]:
    """The released notebook with the source's solution cells in it, as nbformat's plain data."""
    source = nbformat.read(site.course / "source" / LAB / f"{LAB}.ipynb", as_version=4)
    released = nbformat.read(site.course / "release" / LAB / f"{LAB}.ipynb", as_version=4)
    answers = {
        cell.metadata.nbgrader.grade_id: cell.source
        for cell in source.cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }
    for cell in released.cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        cell.source = answers.get(grade_id, cell.source)
    plain: dict[str, Any] = dict(nbformat.from_dict(released))
    return plain
