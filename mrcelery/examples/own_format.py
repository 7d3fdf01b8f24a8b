"""How large are the packages of each section? Shows a custom input format and a custom output format.

Input: Debian control files (``/var/lib/dpkg/status``, ``Packages``): paragraphs of ``Field: value`` lines, separated
by blank lines; lines that begin with a blank continue a field. Output: Markdown tables of section and kibibytes::

    mrcelery submit mrcelery.examples.own_format:SectionSizes /var/lib/dpkg/status
"""

from mrcelery import MRJob, ops
from mrcelery.formats import input_format


class Paragraphs:
    """Reads a file's paragraphs as dicts; the key is the paragraph's number."""

    splittable = False  # the middle of a file does not show where a paragraph begins

    def read(self, extent, max_record):
        number, last = 0, None
        fields: dict[str, str] = {}
        # read lines through another format: it decompresses, and keeps memory bounded
        for block in input_format("text").read(extent, max_record):
            for line in block.values:
                if not line.strip():
                    if fields:
                        yield number, fields
                        number += 1
                    fields, last = {}, None
                elif line[0] in " \t" and last is not None:
                    fields[last] += "\n" + line.strip()
                else:
                    last, _, value = line.partition(":")
                    fields[last] = value.strip()
        if fields:
            yield number, fields


class Markdown:
    """Writes each part file as a table."""

    suffix = ".md"

    def __init__(self):
        self.begun = False

    def encode(self, keys, values):
        head = "" if self.begun else "| key | value |\n|---|---|\n"
        self.begun = True
        rows = (f"| {key} | {value} |\n" for key, value in zip(keys, values, strict=True))
        return (head + "".join(rows)).encode()


class SectionSizes(MRJob):
    """Sums the installed sizes of the packages of each section."""

    INPUT = Paragraphs()
    OUTPUT = Markdown()

    reducer = ops.Sum()

    def mapper(self, _, package):
        if "Installed-Size" in package:
            yield package.get("Section", "none"), int(package["Installed-Size"])


if __name__ == "__main__":
    SectionSizes.run()
