#!/usr/bin/env python3
"""A job's program: counts the words of a text, slowly enough to be watched.

The payload is on standard input, the result goes to file descriptor 3 and the
progress to 4. Exit status 65 says that no attempt will ever succeed, 75 asks
for another one; any other is a failure, and stands against max_attempts as 75
does. What goes to standard output and standard error is in the journal.

    [Worker]
    Exec=/opt/example/job.py
"""

import json
import os
import sys
import time
from collections import Counter

EX_DATAERR = 65
EX_TEMPFAIL = 75


def main():
    try:
        job = json.load(sys.stdin)
        words = job["text"].split()
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        print(f"the payload is no {{\"text\": ...}}: {err!r}", file=sys.stderr)
        return EX_DATAERR

    lock = job.get("needs")  # a file that something else makes
    if lock and not os.path.exists(lock):
        print(f"{lock} is not there yet", file=sys.stderr)
        return EX_TEMPFAIL

    print(f"attempt {os.environ.get('JOB_ATTEMPT')} of job {os.environ.get('JOB_ID')}: {len(words)} words", flush=True)
    counts = Counter()
    # Line by line: each is told at once.
    with open(4, "w", buffering=1) as progress:
        for done, word in enumerate(words, 1):
            counts[word] += 1
            time.sleep(job.get("seconds_a_word", 0))
            print(round(100 * done / len(words)), file=progress)

    with open(3, "w") as result:
        json.dump({"words": len(words), "most": counts.most_common(1)}, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
