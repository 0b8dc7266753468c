"""What libyaml says of malformed YAML, in words that help somebody who has never met libyaml."""

from __future__ import annotations

from modelway.strict import TABS

# libyaml's problem -> what is wrong here, what to do about it. A problem that is not in the table
# keeps libyaml's own words, so that a new version of the library is no worse than silence.
_WORDS = {
    "mapping keys are not allowed in this context": (
        "a key cannot stand here",
        "begin the key on a line of its own",
    ),
    "block sequence entries are not allowed in this context": (
        "a list entry '-' cannot stand here",
        "begin the entry on a line of its own, below its key",
    ),
    "could not find expected ':'": (
        "a ':' is missing after the key",
        "write 'key: value', with a space after the ':'",
    ),
    "did not find expected key": (
        "a key was expected here",
        "indent it like the keys above; quote a value that holds quotes, and close every bracket",
    ),
    "did not find expected '-' indicator": (
        "a list entry '-' was expected here",
        "indent it like the entries above; a key cannot stand beside list entries",
    ),
    "did not find expected ',' or ']'": ("a ',' or ']' was expected here", "close the list with ']'"),
    "did not find expected ',' or '}'": ("a ',' or '}' was expected here", "close the mapping with '}'"),
    "did not find expected node content": (
        "a value was expected here",
        "write a value, or quote the text if it is one",
    ),
    "did not find expected <document start>": (
        "a new document was expected here",
        "begin it with a line '---', and close every bracket and quote before",
    ),
    "found unexpected ':'": (
        "a ':' stands within a value",
        "put a space behind the ':' of a key, and quote a value that holds one",
    ),
    "found unexpected end of stream": ("the quotes are never closed", "close them"),
    "found unexpected document indicator": ("the quotes are never closed", "close them"),
    "found unknown escape character": (
        "a '\\' within double quotes is followed by a character that it does not escape",
        "write '\\\\' for one backslash, or use single quotes",
    ),
    "found invalid Unicode character escape code": (
        "an escape that is not a Unicode character",
        "write the character itself; the halves of a surrogate pair stand for nothing alone",
    ),
    "did not find expected hexdecimal number": (
        "an escape lacks hexadecimal digits",
        "'\\x' takes two digits, '\\u' four, '\\U' eight",
    ),
    "did not find expected alphabetic or numeric character": (
        "the name of an anchor or alias is missing",
        "quote the text if it is to begin with '&' or '*'",
    ),
    "did not find expected comment or line break": (
        "nothing but a comment can stand here",
        "begin the text of '|' and '>' on the next line",
    ),
    "found an indentation indicator equal to 0": (
        "0 is no indentation",
        "leave the digit after '|' or '>' out",
    ),
    "could not find expected directive name": ("a line that begins with '%'", "quote it, or remove it"),
    "found incompatible YAML document": (
        "%YAML asks for another version",
        "write '%YAML 1.2', or leave it out",
    ),
    "found duplicate %YAML directive": ("a second %YAML line", "remove one of the two"),
    "found unknown directive name": ("a line of directives that YAML does not know", "remove the line"),
}
_TABS = (
    "found a tab character that violates indentation",
    "found a tab character where an indentation space is expected",
)
_CANNOT_START = "found character that cannot start any token"
_NO_VALUE = "mapping values are not allowed in this context"
_CLOSING = (
    "did not find expected key",
    "did not find expected node content",
    "did not find expected <document start>",
)
_MAX_KEY = 1024  # of a key on one line, to libyaml and to the standard


def malformed(problem: str, before: str, char: str) -> tuple[str, str]:
    """(message, hint) for libyaml's problem at ``char`` ("" at a line's end), ``before`` it on its line."""
    if char == "\t" and (problem in _TABS or problem == _CANNOT_START):
        return "a tab stands where YAML wants spaces", TABS
    if problem == _CANNOT_START:
        return f"a plain value cannot begin with '{char}'", "quote the value"
    if problem == _NO_VALUE:
        return _second_colon(before)
    if problem in _CLOSING and char and char in "]}":
        return f"the '{char}' closes nothing", "remove it, or open the bracket before"
    return _WORDS.get(problem, (problem, ""))


def _second_colon(before: str) -> tuple[str, str]:
    if len(before) > _MAX_KEY:
        return f"a key of more than {_MAX_KEY} characters", "shorten it, or quote the text if it is a value"
    if ": " in before:
        return "a second ':' on one line", "quote the text if the ':' belongs to it, else begin a new line"
    message = "the key continues the value above it"
    return message, "indent it like the other keys, and end the line above with ':' if the key belongs to it"
