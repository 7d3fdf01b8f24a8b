"""How often does each word occur?

Paper, section 2.1. Input: text; words are separated by whitespace. Output: word, count::

    mrcelery submit mrcelery.examples.word_count:WordCount book.txt
"""

from mrcelery import MRJob


class WordCount(MRJob):
    def mapper(self, _, line):
        for word in line.split():
            yield word, 1

    def combiner(self, word, counts):
        yield word, sum(counts)

    def reducer(self, word, counts):
        yield word, sum(counts)


if __name__ == "__main__":
    WordCount.run()
