#!/bin/sh
# The GNU tools as a peer. Arguments: workload, input, output, workers.
set -eu
export LC_ALL=C
case $1 in
wordcount) tr ' ' '\n' <"$2" | sort --parallel="$4" | uniq -c | awk '{print $2 "\t" $1}' >"$3" ;;
sort) sort --parallel="$4" -s -k1.1,1.10 -o "$3" "$2" ;;
grep) grep -E "$BENCH_PATTERN" "$2" >"$3" ;;
urls) awk '{split($7, a, "?"); n[a[1]]++} END {for (key in n) print key "\t" n[key]}' "$2" >"$3" ;;
*) exit 2 ;;
esac
