import random

import pytest

from tutelage.data.quality.personal import SORTS, Hit, find, mask, masked

FOUND = {
    "email": "write to jane.doe+list@example.co.uk now",
    "phone": "call +49 30 901820 or",
    "iban": "pay to DE89 3704 0044 0532 0130 00 please",
    "card_number": "card 4111 1111 1111 1111 expires",
    "social_security_number": "SSN 123-45-6789",
    "ip_address": "host 203.0.113.77 is down",
    "aws_key": "AKIA" + "ABCDEFGHIJKLMNOP",
    "github_token": "ghp_" + "a1B2" * 9,
    "api_key": "key sk-" + "abcd1234" * 4,
    "private_key": "-----BEGIN RSA PRIVATE KEY-----",
    "password": "password: hunter2hunter2",
    "json_web_token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
}


@pytest.mark.parametrize("sort", FOUND)
def test_each_sort_is_found_and_never_shown_whole(sort: str) -> None:
    (hit,) = find(FOUND[sort])
    secret = FOUND[sort][hit.start : hit.end]
    assert hit.sort == sort
    assert secret not in masked(FOUND[sort], hit)
    assert len(masked(FOUND[sort], hit)) < 25
    assert secret not in mask(FOUND[sort])
    assert f"[{sort}]" in mask(FOUND[sort])


@pytest.mark.parametrize(
    "text",
    [
        "Python 3.11.4.1 on page 2024-01-15", "order 4111 1111 1111 1112", "DE89 3704 0044 0532 0130 01", "about @home",
        "127.0.0.1 and version 1.2.3.4", "in 1,234,567,890 years", "the password is secret", "ISBN 978-3-16-148410-0",
        "3.14159265358979323846",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_is_left(text: str) -> None:
    assert list(find(text)) == []
    assert mask(text) == text


def without_signs(text: str) -> list[Hit]:
    """What is found where every pattern looks at every text."""
    found: list[Hit] = []
    for sort in SORTS:
        for match in sort.pattern.finditer(text):
            apart = all(match.end() <= hit.start or match.start() >= hit.end for hit in found)
            if apart and sort.valid(match[0]):
                found.append(Hit(sort.name, sort.secret, *match.span()))
    return found


def test_looking_for_signs_first_finds_the_same() -> None:
    more = [
        "PaSsWd = abc12345",
        "TO\u212aEN: abc12345",
        "\u017fecret: abc12345",
        "API_KEY=abcd1234x",
        "xoxb-1234567890-ab",
        "gho_" + "z9" * 20,
    ]
    parts = [*FOUND.values(), *more, "Nothing here.", "3.14", "12 34", "a@b", "sk-", "1234567 8"]
    draw = random.Random(0)
    texts = [*parts, *(" ".join(draw.choices(parts, k=draw.randint(1, 5))) for _ in range(300))]
    assert [list(find(text)) for text in texts] == [without_signs(text) for text in texts]
    assert {hit.sort for text in texts for hit in find(text)} >= {sort.name for sort in SORTS}
