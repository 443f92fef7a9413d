"""Seconds that each GET takes, as a JSON list: python bench/serve/health.py URL SECONDS

A process of its own, so that what it sees is the server and not the clients' own event loop.
"""

import json
import sys
import time
import urllib.request


def main() -> None:
    url, end, found = sys.argv[1], time.monotonic() + float(sys.argv[2]), []
    while time.monotonic() < end:
        start = time.perf_counter()
        with urllib.request.urlopen(url, timeout=30) as answer:
            answer.read()
        found.append(time.perf_counter() - start)
        time.sleep(0.05)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
