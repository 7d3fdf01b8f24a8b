"""In which documents does each word occur?

Paper, section 2.3, "Inverted Index". Input: JSON lines ``{"id": ..., "text": ...}``, one document each.
Output: word in lower case, sorted list of document ids::

    mrcelery submit mrcelery.examples.inverted_index:InvertedIndex docs.jsonl -o index -R 8
"""

import re

from mrcelery import MRJob, ops

WORD = re.compile(r"\w+")


class InvertedIndex(MRJob):
    """Maps each word to the documents it occurs in."""

    INPUT = "jsonl"

    def mapper(self, _, document):
        for word in set(WORD.findall(document["text"].lower())):
            yield word, document["id"]

    reducer = ops.Distinct()


if __name__ == "__main__":
    InvertedIndex.run()
