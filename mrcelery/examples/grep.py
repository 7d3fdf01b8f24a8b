"""Which lines match a pattern?

Paper, section 2.3, "Distributed Grep". Input: text. Output: the matching lines, unchanged; there is no reducer,
so they stay in the order of the input, one part file per map task::

    mrcelery submit mrcelery.examples.grep:Grep logs/ -- --pattern 'timeout|refused'
"""

import argparse
import re

from mrcelery import MRJob


def regex(text):
    """Compile the pattern; argparse shows this error's message if it does not compile."""
    try:
        return re.compile(text)
    except re.error as e:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression ({e})") from None


class Grep(MRJob):
    """Prints the lines that match ``--pattern``."""

    OUTPUT = "text"

    def configure_args(self):
        super().configure_args()
        self.add_passthru_arg("--pattern", type=regex, required=True, help="Python regular expression")

    def mapper(self, _, line):
        if self.options.pattern.search(line):
            yield None, line


if __name__ == "__main__":
    Grep.run()
