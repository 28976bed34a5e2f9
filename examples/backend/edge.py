"""The part of the threads-edge API that a back end needs, with Python's standard library."""

import json
import random
import time
import urllib.error
import urllib.request


class Refused(Exception):
    """The API refused a request for good. `problem` is its problem document (RFC 9457)."""

    def __init__(self, status, problem):
        super().__init__(problem.get("detail") or f"The API answered {status}")
        self.status = status
        self.problem = problem


class Edge:
    """Sends requests with the service token. Every request here is safe to repeat, and repeated until it succeeds."""

    def __init__(self, url, token, max_wait_seconds=60):
        self.url = url.rstrip("/")
        self.token = token
        self.max_wait_seconds = max_wait_seconds

    def publish(self, event):
        """Publishes `{id, channel, type, data, audience?}`. The API knows the `id`: the same event is published once."""
        self._post("/v1/events", event)

    def invalidate(self, users=(), posts=(), hot=False):
        """Makes the next reader load these users and posts from the database. Call it after the commit."""
        self._post("/v1/cache/invalidate", {"users": list(users), "posts": list(posts), "hot": hot})

    def _post(self, path, body):
        request = urllib.request.Request(
            self.url + path,
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        attempt = 0
        while True:
            wait_seconds = random.uniform(0, min(self.max_wait_seconds, 0.25 * 2**attempt))  # full jitter
            try:
                with urllib.request.urlopen(request, timeout=30):
                    return
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 429):
                    raise Refused(error.code, _problem_of(error)) from error
                retry_after = error.headers.get("Retry-After", "")
                if retry_after.isdigit():
                    wait_seconds += min(self.max_wait_seconds, int(retry_after))
            except OSError:
                pass  # no connection, or no answer
            time.sleep(wait_seconds)
            attempt = min(attempt + 1, 10)


def _problem_of(error):
    try:
        return json.load(error)
    except ValueError:
        return {}
