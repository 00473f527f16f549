"""Groups of prompts by how they end: shared end n-grams, misspellings of words, and names for the groups.

A feature that is read at the last token is mostly triggered by the last words. Prompts whose last word is the same form
a group; a word that is not in the vocabulary and is few letters away from one that is, is a misspelling of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dreamy_lens.analysis.chat_endpoint import ChatEndpoint
from dreamy_lens.analysis.explanation_prompts import Examinee
from dreamy_lens.errors import SettingsError, quoted
from dreamy_lens.html.escaping import visible

_WORD = re.compile(r"[^\W\d_]+")
_SHOWN = 8  # prompts of a group that a language model is shown
_LONGEST = 60  # letters of a name
_SHORT = 4  # letters of the shortest word that has misspellings


@dataclass(frozen=True)
class PromptGroup:
    """Prompts that end alike.

    Attributes:
        key: What they share: the end n-gram, or the last word.
        kind: "ending", "misspelling" (all last words are misspellings of `key`), "n-gram" (shared elsewhere) or
            "single" for a prompt that shares nothing.
        members: Indices of the prompts.
        misspelt: Misspelt last words among them.
        name: Name of the group.
    """

    key: str
    kind: str
    members: tuple[int, ...]
    misspelt: tuple[str, ...] = ()
    name: str = ""


def group_by_ending(tokens: Sequence[Sequence[str]], words: Iterable[str] = ()) -> list[PromptGroup]:
    """Group prompts by their last word, then the rest by n-grams that they share elsewhere; the largest first.

    Args:
        tokens: Tokens of each prompt.
        words: Known words, in any case: those of a vocabulary or of a corpus.

    >>> prompts = [[" the", " only"], [" a", " ONLY"], [" see", " onyl"], [" x", " 3"], [" left", "most"]]
    >>> [(g.key, g.kind, g.members, g.misspelt) for g in group_by_ending(prompts, ["only", "leftmost"])]
    [('only', 'ending', (0, 1, 2), ('onyl',)), ('3', 'single', (3,), ()), ('leftmost', 'single', (4,), ())]
    """
    known = {word.lower() for word in words}
    ends = [last_word(row) for row in tokens]
    # Words that end several prompts are better guesses of what a misspelling means than other words.
    often = sorted({e for e in ends if ends.count(e) > 1 or e in known})
    meant = {end: nearest_word(end, often, known) for end in set(ends)}
    by_word: dict[str, list[int]] = {}
    for i, end in enumerate(ends):
        by_word.setdefault(meant[end] or end, []).append(i)
    groups, rest = [], []
    for word, members in by_word.items():
        misspelt = tuple(sorted({ends[i] for i in members if meant[ends[i]] is not None}))
        if len(members) == 1 and not misspelt:
            rest.append(members[0])
            continue
        whole = len(misspelt) == len({ends[i] for i in members})
        shared = word if misspelt else shared_ending([tokens[i] for i in members]) or word
        groups.append(PromptGroup(shared, "misspelling" if whole else "ending", tuple(members), misspelt, shared))
    groups += _by_ngrams(rest, tokens, ends)
    return sorted(groups, key=lambda g: (-len(g.members), g.members))


def _by_ngrams(rest: list[int], tokens: Sequence[Sequence[str]], ends: Sequence[str]) -> list[PromptGroup]:
    """Group prompts that share two tokens in a row, the longest shared n-gram first."""
    rows = {i: [t.strip().lower() for t in tokens[i]] for i in rest}
    groups, left = [], list(rest)
    for n in range(max((len(r) for r in rows.values()), default=0), 1, -1):
        homes: dict[tuple[str, ...], list[int]] = {}
        for i in left:
            for gram in {tuple(rows[i][k : k + n]) for k in range(len(rows[i]) - n + 1)}:
                if sum(any(c.isalnum() for c in part) for part in gram) > 1:
                    homes.setdefault(gram, []).append(i)
        for gram, members in sorted(homes.items(), key=lambda item: (-len(item[1]), item[0])):
            members = [i for i in members if i in left]
            if len(members) > 1:
                text = visible(" ".join(part for part in gram if part))
                groups.append(PromptGroup(text, "n-gram", tuple(members), (), text))
                left = [i for i in left if i not in members]
    return groups + [PromptGroup(ends[i], "single", (i,), (), ends[i]) for i in left]


def last_word(tokens: Sequence[str]) -> str:
    r"""Return the word that ends a prompt, in lower case, with all its tokens; or the last token that has text.

    >>> last_word([" left", "most"]), last_word([" a", " ("]), last_word(["only", "\n"])
    ('leftmost', '(', 'only')
    """
    text = "".join(tokens).rstrip()
    found = list(_WORD.finditer(text))
    if found and found[-1].end() == len(text):
        return found[-1].group().lower()
    shown = next((t.strip() for t in reversed(tokens) if t.strip()), "")
    return visible(shown.lower())


def shared_ending(rows: Sequence[Sequence[str]]) -> str:
    """Return the longest n-gram with which all prompts end, in lower case; "" if there is none.

    >>> shared_ending([[" is", " the", " only"], [" at", " the", " Only"]])
    'the only'
    """
    cleaned = [[t.lower() for t in row] for row in rows]
    shortest = min(map(len, cleaned), default=0)
    size = 0
    while size < shortest and len({row[-size - 1].strip() for row in cleaned}) == 1:
        size += 1
    return visible(" ".join("".join(cleaned[0][len(cleaned[0]) - size :]).split())) if size else ""


def nearest_word(word: str, often: Iterable[str], known: Iterable[str]) -> str | None:
    """Return the word that an unknown word is a misspelling of; None if it is known, too short, or near none.

    One edit is allowed in words of up to five letters, and two in longer ones: a letter that is added, missing, another
    one, or exchanged with its neighbour.

    >>> nearest_word("onyl", ["only"], {"only"}), nearest_word("only", ["only"], {"only"}), nearest_word("onyl", [], [])
    ('only', None, None)
    """
    known = known if isinstance(known, (set, frozenset)) else set(known)
    if not known or word in known or len(word) < _SHORT or not _WORD.fullmatch(word):
        return None
    most = 1 if len(word) <= 5 else 2
    for pool in (often, known):
        near = [(edit_distance(word, w, most), w) for w in pool if w != word and abs(len(w) - len(word)) <= most]
        near = sorted((d, w) for d, w in near if d <= most and len(w) >= _SHORT and w in known)
        if near:
            return near[0][1]
    return None


def edit_distance(a: str, b: str, most: int = 99) -> int:
    """Return the number of edits between two words; `most` + 1 if there are more.

    >>> edit_distance("onyl", "only"), edit_distance("kitten", "sitting"), edit_distance("abcd", "wxyz", 2)
    (1, 3, 3)
    """
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        following = [i]
        for j, y in enumerate(b, 1):
            cost = min(row[j] + 1, following[j - 1] + 1, row[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, before[j - 2] + 1)
            following.append(cost)
        if min(following) > most:
            return most + 1
        before, row = row, following
    return min(row[-1], most + 1)


def vocabulary_words(pieces: Iterable[str], texts: Iterable[str] = ()) -> set[str]:
    """Return words in lower case: tokens that begin a word and are letters only, and all words of texts.

    Args:
        pieces: Text of each token of a vocabulary.
        texts: Further texts, such as windows of a corpus.

    >>> sorted(vocabulary_words([" The", "ing", " 3"], ["a dog's bone"]))
    ['a', 'bone', 'dog', 's', 'the']
    """
    words = {p.strip().lower() for p in pieces if p.startswith(" ") and _WORD.fullmatch(p.strip())}
    return words | {w.lower() for text in texts for w in _WORD.findall(text)}


def named_groups(
    groups: Sequence[PromptGroup], texts: Sequence[str], names: Mapping[str, str] | None, llm: Any
) -> list[PromptGroup]:
    """Return groups with names: the user's by key, or those that a language model gives; others keep their key.

    Args:
        groups: Groups.
        texts: Text of each prompt.
        names: Name of each group, by its key.
        llm: Function from a prompt to a reply, or a :class:`~dreamy_lens.analysis.ChatEndpoint`; None asks none. Groups
            with one prompt are not sent.

    Raises:
        SettingsError: `names` or `llm` is something else.
        LLMError: The language model does not answer.
    """
    if names is not None and not isinstance(names, Mapping):
        raise SettingsError(f"names is {quoted(names)}; it is a mapping from the keys of groups to names.")
    examinee = as_examinee(llm)
    given = dict(names or {})
    result = []
    for group in groups:
        name = given.get(group.key)
        if name is None and examinee is not None and len(group.members) > 1:
            shown = "\n".join(f"- {texts[i]}" for i in group.members[:_SHOWN])
            question = (
                "These texts drive the same unit of a language model. In at most six words, what do their endings have "
                f"in common? Answer with NAME: and the words.\n\n{shown}"
            )
            name = examinee.ask(question, _read_name)
        result.append(PromptGroup(group.key, group.kind, group.members, group.misspelt, name or group.name))
    return result


def as_examinee(llm: Any) -> Examinee | None:
    """Return a language model to ask; None for None.

    Raises:
        SettingsError: It is neither a function nor an endpoint.
    """
    if llm is None:
        return None
    if isinstance(llm, ChatEndpoint):
        return Examinee(llm, llm.name, llm.timeout * (llm.retries + 2))
    if not callable(llm):
        raise SettingsError(
            f"llm is {quoted(llm)}; it is a function that takes a prompt and returns a reply, or a "
            "dreamy_lens.analysis.ChatEndpoint."
        )
    asked: Callable[[str], Any] = llm
    return Examinee(asked, str(getattr(llm, "__name__", type(llm).__name__)), 120.0)


def _read_name(reply: str) -> str | None:
    found = re.search(r"NAME:\s*(\S[^\n]*)", reply)
    return visible(found.group(1).strip()[:_LONGEST]) if found else None
