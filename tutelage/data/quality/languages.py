"""The languages of a sample of the texts."""

from collections import Counter
from importlib.util import find_spec

from tutelage.data.quality.findings import Tally, example
from tutelage.data.quality.profile import Profile
from tutelage.errors import need

SHORTEST = 80  # characters; the language of less is a guess
SHARE = 0.02  # of the sample that makes a second language a finding
LESS = "languages were not looked at: pip install 'tutelage[clean]'"


def language(text: str) -> str:
    """The ISO 639-1 code of the language of `text` (py3langid: Lui and Baldwin 2012); wrong on short texts at times."""
    code: str = need("py3langid", extra="clean").classify(text)[0]
    return code


def look_at_languages(profile: Profile, tally: Tally) -> list[str]:
    """Count the languages of the sampled texts. Returns what to note."""
    if find_spec("py3langid") is None:
        return [LESS]
    texts = [(text, at) for _, text, at in sorted(profile.sample) if len(text) >= SHORTEST]
    found = [language(text) for text, _ in texts]
    counts = Counter(found)
    profile.languages.update(counts)
    for code, count in counts.most_common()[1:]:
        if count > max(2, SHARE * len(texts)):
            text, at = texts[found.index(code)]
            tally.add("mixed_languages", example(at, text, f"{code}: {count} of {len(texts)} sampled texts"))
    return [f"languages: {len(texts):,} texts of at least {SHORTEST} characters were looked at"] if texts else []
