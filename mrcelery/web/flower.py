"""Adds our routes to Flower, and a link to them to its pages."""

from __future__ import annotations

from typing import Any

from flower import urls
from tornado.web import TemplateModule, url

from mrcelery.web import handlers

JOB = r"([A-Za-z0-9][A-Za-z0-9_.-]*)"
"""A job's id in an address: no character that is quoted there, and would form a path when unquoted."""

ROUTES = (
    url(r"/jobs", handlers.JobsPage, name="mrcelery-jobs"),
    url(r"/jobs/data", handlers.JobsData),
    url(rf"/jobs/{JOB}", handlers.JobPage),
    url(rf"/jobs/{JOB}/data", handlers.JobData),
    url(rf"/jobs/{JOB}/log", handlers.JobLog),
    url(rf"/jobs/{JOB}/evidence", handlers.JobEvidence),
    url(r"/api/jobs", handlers.ApiJobs),
    url(rf"/api/jobs/{JOB}", handlers.ApiJob),
    url(rf"/api/jobs/{JOB}/log", handlers.ApiLog),
    url(rf"/api/jobs/{JOB}/(cancel|retry)", handlers.ApiOrder),
)

_MENU = b'<ul class="app-nav navbar-nav">'
"""The start of Flower's menu."""


class Template(TemplateModule):
    """Flower's page fragments, with a link to the jobs in the menu."""

    def render(self, path: str, **kwargs: Any) -> bytes:
        """Render a page fragment."""
        made: bytes = super().render(path, **kwargs)
        if path != "navbar.html" or _MENU not in made:
            return made
        href = self.handler.reverse_url("mrcelery-jobs")
        link = f'<li class="nav-item"><a class="nav-link" href="{href}">Jobs</a></li>'
        return made.replace(_MENU, _MENU + link.encode(), 1)


def install() -> None:
    """Add our pages to the Flower instance about to start in this process; only once."""
    if ROUTES[0] in urls.handlers:
        return
    urls.handlers[-1:-1] = ROUTES  # the last handler matches everything that no other does
    urls.settings["ui_modules"] = {**urls.settings.get("ui_modules", {}), "Template": Template}
