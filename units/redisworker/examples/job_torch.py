#!/usr/bin/env python3
"""A job's program on a GPU: the trace of a matrix' square, by PyTorch on the
GPU that the worker was given, else on the CPU, and without PyTorch by plain
Python. The payload is {"n": 1000}.

CUDA_VISIBLE_DEVICES is set to the worker's own GPU, so "cuda" is the right one.

    [Worker]
    Exec=/opt/example/venv/bin/python /opt/example/job_torch.py
"""

import json
import sys

EX_DATAERR = 65
EX_TEMPFAIL = 75


def by_torch(torch, n):
    """Cells are i + j modulo 7, as exact in float64 as in integers."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    i = torch.arange(n, device=device, dtype=torch.float64)
    a = (i[:, None] + i[None, :]) % 7
    trace = int((a @ a).diagonal().sum().item())
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return trace, f"{name}, PyTorch {torch.__version__}"


def by_python(n):
    # The matrix is symmetric, so the trace of its square is the sum of its
    # squares.
    return sum(((i + j) % 7) ** 2 for i in range(n) for j in range(n)), "CPU, plain Python"


def main():
    try:
        n = json.load(sys.stdin)["n"]
        if type(n) is not int or not 0 < n <= 100_000:
            raise ValueError(f"n is {n!r}")
    except (ValueError, KeyError, TypeError) as err:
        print(f"the payload is no {{\"n\": 1 to 100000}}: {err!r}", file=sys.stderr)
        return EX_DATAERR

    try:
        import torch
    except ImportError as err:
        print(f"no PyTorch ({err}), so this is computed without a GPU", file=sys.stderr)
        trace, where = by_python(n)
    else:
        try:
            trace, where = by_torch(torch, n)
        except torch.cuda.OutOfMemoryError as err:
            # Another program may have the memory; later there may be some.
            print(err, file=sys.stderr)
            return EX_TEMPFAIL

    with open(3, "w") as result:
        json.dump({"n": n, "trace": trace, "where": where}, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
