#!/usr/bin/env python3
"""Puts a job in with redis-cli alone, and waits for its result.

    produce_redis_cli.py ID <payload
"""

import os
import subprocess
import sys
import time
from urllib.parse import unquote, urlsplit

QUEUE = "gpuherd:queue:{%s}" % os.environ.get("QUEUE", "gpu")


def redis_cli(*words, stdin=None):
    """Runs one command and returns its answer, a line for each value."""
    url = urlsplit(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))
    where = ["-s", url.path] if url.scheme == "unix" else ["-h", url.hostname or "127.0.0.1", "-p", str(url.port or 6379)]
    if url.scheme == "rediss":
        where.append("--tls")
    if url.username:
        where += ["--user", unquote(url.username)]
    env = dict(os.environ)
    if url.password:
        env["REDISCLI_AUTH"] = unquote(url.password)  # arguments can be seen by everybody
    # -e: an error of Redis is an exit status, too. -x: the last word is stdin.
    command = ["redis-cli", *where, "-e", *(["-x"] if stdin is not None else []), *words]
    done = subprocess.run(command, input=stdin, env=env, stdout=subprocess.PIPE, check=True)
    return done.stdout[:-1]  # redis-cli's own newline


def main():
    job = sys.argv[1]
    # The same id is the same job: after an error this may be done again.
    redis_cli("XADD", QUEUE + ":jobs", "*", "id", job, "timeout", "600", "payload", stdin=sys.stdin.buffer.read())
    while True:
        state = redis_cli("HGET", f"{QUEUE}:job:{job}", "state").decode()
        if state == "succeeded":
            sys.stdout.buffer.write(redis_cli("HGET", f"{QUEUE}:job:{job}", "result"))
            return 0
        if state in ("dead", "cancelled"):
            error = redis_cli("HGET", f"{QUEUE}:job:{job}", "error").decode(errors="replace")
            print(f"job {job} is {state}: {error}", file=sys.stderr)
            return 1
        time.sleep(0.1)  # "" before the first worker sees it, then waiting, delayed, running


if __name__ == "__main__":
    sys.exit(main())
