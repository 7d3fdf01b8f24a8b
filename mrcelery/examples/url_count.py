"""How often was each URL requested?

Paper, section 2.3, "Count of URL Access Frequency". Input: a web server's access log in the Common or the
Combined Log Format. Output: path without the query string, count. Other lines are counted and
skipped::

    mrcelery submit mrcelery.examples.url_count:UrlCount /var/log/nginx/ -o url-counts
"""

import re

from mrcelery import MRJob, ops

# host ident user [time] "METHOD target PROTOCOL" status bytes ...
ENTRY = re.compile(r'\S+ \S+ [^[]+ \[[^]]+\] "[A-Z]+ (?P<target>\S+) HTTP/[\d.]+" \d{3} (?:\d+|-)(?: |$)')


class UrlCount(MRJob):
    """Counts the requests of each path."""

    def mapper(self, _, line):
        if entry := ENTRY.match(line):
            path, _, _query = entry["target"].partition("?")
            yield path, 1
        else:
            self.increment_counter("access log", "malformed lines")

    reducer = ops.Sum()


if __name__ == "__main__":
    UrlCount.run()
