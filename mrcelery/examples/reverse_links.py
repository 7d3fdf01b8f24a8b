"""Which pages link to each page?

Paper, section 2.3, "Reverse Web-Link Graph". Input: JSON lines ``{"url": ..., "html": ...}``, one page each.
Output: target, sorted list of the pages that link to it. Links are made absolute and their fragments dropped; links
outside the web (``mailto:`` and the like) do not count::

    mrcelery submit mrcelery.examples.reverse_links:ReverseLinks crawl/*.jsonl.gz -o links
"""

from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin

from mrcelery import MRJob, ops


class Links(HTMLParser):
    """Collects the targets of a page's ``<a href>``, as written, and its ``<base href>``."""

    def __init__(self, page):
        super().__init__()
        self.base = ""
        self.hrefs = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        href = (dict(attrs).get("href") or "").strip()
        if tag == "a" and href:
            self.hrefs.append(href)
        elif tag == "base" and not self.base:
            self.base = href


class ReverseLinks(MRJob):
    """Maps each page to the pages that link to it."""

    INPUT = "jsonl"

    def mapper(self, _, page):
        links = Links(page["html"])
        for href in links.hrefs:
            try:
                target, _fragment = urldefrag(urljoin(urljoin(page["url"], links.base), href))
            except ValueError:  # such as http://[
                self.increment_counter("links", "malformed")
                continue
            if target.startswith(("http://", "https://")):
                yield target, page["url"]

    reducer = ops.Distinct()


if __name__ == "__main__":
    ReverseLinks.run()
