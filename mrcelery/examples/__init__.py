"""Jobs as users write them.

    Jeffrey Dean and Sanjay Ghemawat, "MapReduce: Simplified Data Processing on Large Clusters", OSDI 2004

Each runs as it is installed, such as ``mrcelery submit mrcelery.examples.word_count:WordCount book.txt``, and
each is short enough to be copied as the start of your own job.
"""
