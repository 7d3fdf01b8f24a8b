"""Which words matter most on each host?

Paper, section 2.3, "Term-Vector per Host". Input: JSON lines ``{"url": ..., "text": ...}``, one document each.
Output: host, list of [word, frequency], the most frequent first, at most ``--terms`` of them. The
distinct words of a host must fit in memory::

    mrcelery submit mrcelery.examples.term_vector:TermVector docs.jsonl -- --terms 10
"""

import re
from collections import Counter
from urllib.parse import urlsplit

from mrcelery import MRJob

WORD = re.compile(r"\w+")


def added(vectors):
    """Add up term vectors, which are ``{word: frequency}``."""
    total: Counter[str] = Counter()
    for vector in vectors:
        total.update(vector)
    return dict(total)


class TermVector(MRJob):
    """Finds the most frequent words of each host."""

    INPUT = "jsonl"

    def configure_args(self):
        super().configure_args()
        self.add_passthru_arg("--terms", type=int, default=10, help="words to keep of each host")

    def mapper(self, _, document):
        host = urlsplit(document["url"]).hostname
        if host:
            yield host, dict(Counter(WORD.findall(document["text"].lower())))
        else:
            self.increment_counter("documents", "without a host")

    def combiner(self, host, vectors):
        yield host, added(vectors)

    def reducer(self, host, vectors):
        # Only here is the full frequency of a host's words known, so rare words must not be dropped earlier.
        by_frequency = sorted(added(vectors).items(), key=lambda term: (-term[1], term[0]))
        yield host, by_frequency[: self.options.terms]


if __name__ == "__main__":
    TermVector.run()
