"""Real clients before a gate: started by tests/it/clients.rs, which gives what is expected.

    client.py retry URL            requests with urllib3's Retry waits as it is told, then succeeds
    client.py fields URL EXPECTED  every RateLimit field parses (RFC 9651, http-sf) as configured

Ends with 0 and one line of JSON, or with what is wrong.
"""

import json
import sys
import time

import http_sf
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

MANY = 50
TIMEOUT_S = 20


class Noting(Retry):
    """urllib3's own, which also notes what it was told to wait."""

    told = []

    def get_retry_after(self, response):
        seconds = super().get_retry_after(response)
        if response.status == 429:
            Noting.told.append(seconds)
        return seconds


def retry(url):
    retries = Noting(
        total=5, status_forcelist=[429], respect_retry_after_header=True, backoff_factor=0
    )
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=retries))
    # Whoever is slow enough is never refused: ask until it happens.
    for _ in range(MANY):
        begun = time.monotonic()
        response = session.get(url, timeout=TIMEOUT_S)
        waited = time.monotonic() - begun
        assert response.status_code == 200, (response.status_code, response.text)
        if Noting.told:
            break
    # Who waits as long as it is told is admitted: one refusal, one wait, one answer.
    assert len(Noting.told) == 1, Noting.told
    assert len(response.raw.retries.history) == 1, response.raw.retries.history
    assert waited >= Noting.told[0] >= 1, (waited, Noting.told)
    return {"told": Noting.told[0], "waited": round(waited, 3)}


def parsed(response, name):
    """A list of items, each a string with parameters, as the draft has it."""
    members = http_sf.parse(response.headers[name].encode(), tltype="list")
    for item, _ in members:
        # A token would be another type.
        assert type(item) is str, (name, item)
    return members


def fields(url, expected):
    policies = [(policy.pop("name"), policy) for policy in expected["policies"]]
    limiting = expected["limiting"]
    seen = []
    for _ in range(MANY):
        response = requests.get(url, headers=expected["headers"], timeout=TIMEOUT_S)
        assert parsed(response, "ratelimit-policy") == policies, response.headers
        limits = parsed(response, "ratelimit")
        assert [name for name, _ in limits] == [name for name, _ in policies], limits
        for (name, left), (_, policy) in zip(limits, policies):
            is_rate = "qu" not in policy
            assert set(left) == ({"r", "t"} if is_rate else {"r"}), (name, left)
            assert type(left["r"]) is int and 0 <= left["r"] <= policy["q"], (name, left)
            assert not is_rate or 0 <= left["t"] <= policy["w"], (name, left)
        left = dict(limits)[limiting]
        seen.append(left["r"])
        if response.status_code == 429:
            assert left["t"] == int(response.headers["retry-after"]), response.headers
            assert response.json()["violated-policies"] == [limiting], response.text
            return {"remaining": seen}
        assert response.status_code == 200, (response.status_code, response.text)
    raise AssertionError(f"never refused: {seen}")


match sys.argv[1:]:
    case ["retry", url]:
        print(json.dumps(retry(url)))
    case ["fields", url, expected]:
        print(json.dumps(fields(url, json.loads(expected))))
    case _:
        sys.exit(__doc__)
