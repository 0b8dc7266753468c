"""Bodies that are cheap to send and dear to parse, decoded in a process of their own.

python -m tests.runtime.rest.hostile_bodies PLACE    the peak of each, as JSON
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from random import Random

from modelway_runtime.serving.errors import InferenceError
from modelway_runtime.serving.rest_codec import Decoder, decode_response
from modelway_runtime.serving.tensors import MAX_TEXTS
from tests.support.memory import peak_growth

SIZE = 4 * 2**20
FEW = 65_000  # bytes; twice as much is parsed whole
TOKENS = (
    "[]", "{}", "[[]]", "[[],[]]", '{"":0}', '""', '"a"', '"ab"', '"abcdefgh"', '"\\n"', '"\\u0041"', '"é"',
    '"😀"', "0", "1", "300", "-1", "0.5", "1e1", "1e400", "12345678901234567890123456789", "true", "null",
    "0.12345678901234567", '"' + "x" * 100 + '"', "[1]", "[1,2]", '["a"]', '[""]',
)  # fmt: skip
Place = Callable[[str, int], str]


def tensor(data: str, datatype: str = "FP32", count: int = 1) -> str:
    return f'{{"name":"x","datatype":"{datatype}","shape":[{count}],"data":{data}}}'


def _data(datatype: str) -> Place:
    return lambda content, count: f'{{"inputs":[{tensor(content, datatype, count)}]}}'


PLACES: dict[str, Place] = {
    **{f"data of {d}": _data(d) for d in ("FP32", "FP64", "INT8", "INT64", "UINT64", "BOOL", "BYTES")},
    "top": lambda content, _: content,
    "inputs": lambda content, _: f'{{"inputs":{content}}}',
    "outputs": lambda content, _: f'{{"inputs":[{tensor("[1]")}],"outputs":{content}}}',
    "parameters": lambda content, _: f'{{"inputs":[{tensor("[1]")}],"parameters":{{"a":{content}}}}}',
    "id": lambda content, _: f'{{"inputs":[{tensor("[1]")}],"id":{content}}}',
    "an unknown key": lambda content, _: f'{{"inputs":[{tensor("[1]")}],"more":{content}}}',
    "shape": lambda content, _: (
        f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":{content},"data":[1]}}]}}'
    ),
    "name": lambda content, _: (
        f'{{"inputs":[{{"name":{content},"datatype":"FP32","shape":[1],"data":[1]}}]}}'
    ),
    "parameters of a tensor": lambda content, _: (
        f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1],"parameters":{{"a":{content}}}}}]}}'
    ),
}


def bodies(place: Place) -> Iterator[tuple[str, bytes]]:
    """Hostile contents in one place of a request, with a name each."""
    for token in TOKENS:
        count = SIZE // (len(token.encode()) + 1)
        yield f"many {token[:20]}", place(f"[{','.join([token] * count)}]", count).encode()
    random = Random(7)
    for _ in range(6):
        some = random.sample(TOKENS, random.randint(2, 4))
        count = SIZE // sum(len(token.encode()) + 1 for token in some)
        yield f"many {some}", place(f"[{','.join(some * count)}]", count * len(some)).encode()
    for letter in ("x", "é", "\\n", "\\u00e9", "\\ud83d\\ude00"):
        long = letter * (SIZE // len(letter.encode()))
        yield f"a long text of {letter}", place(f'["{long}"]', 1).encode()
        yield f"a long text of {letter} and one beyond", place(f'["{long}😀\\n"]', 1).encode()
    short = ",".join(['"a"'] * (FEW // 5))
    for length in (100, FEW // 2, FEW):
        yield f"short texts and one of {length}", place(f'[{short},"{"x" * length}"]', FEW // 5 + 1).encode()
    texts = ",".join(f'"{number:05x}"' for number in range(MAX_TEXTS))
    yield "as many short texts as may be", place(f"[{texts}]", MAX_TEXTS).encode()
    keys = ",".join(f'"{number:x}":0' for number in range(SIZE // 9))
    yield "many keys", place(f"{{{keys}}}", 1).encode()
    for depth in (500, 2000, SIZE // 2):
        yield f"{depth} deep", place("[" * depth + "1" + "]" * depth, 1).encode()
    yield "one number", place(f"[{'1' * SIZE}]", 1).encode()
    yield "one fraction", place(f"[0.{'1' * SIZE}]", 1).encode()
    yield "space", place(f"[{' ' * SIZE}1]", 1).encode()
    head = '{"name":"%x","datatype":"","shape":0}'
    yield "many tensors", place(f"[{','.join(head % n for n in range(SIZE // 40))}]", 1).encode()


def growth(body: bytes) -> int:
    """Of decoding it as a request, and as the answer of a standby; whichever is more."""
    decoder = Decoder()
    answer = body.replace(b'{"inputs":', b'{"outputs":', 1)
    return max(
        peak_growth(lambda: _outcome(lambda: decoder.decode(body, None, "m", None))),
        peak_growth(lambda: _outcome(lambda: decode_response(answer, None))),
    )


def _outcome(decode: Callable[[], object]) -> object:
    try:
        return decode()
    except InferenceError as error:  # whatever is wrong, it is no other exception
        return error.message


def main() -> None:
    place = PLACES[sys.argv[1]]
    growth(next(bodies(place))[1])  # what is imported and made once
    print(json.dumps([(name, len(body), growth(body)) for name, body in bodies(place)]))


if __name__ == "__main__":
    main()
