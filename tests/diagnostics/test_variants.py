"""The other ways to raise a code: what is said, and that the caret stands below what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from modelway.diagnostics import Diagnostic
from modelway.pipeline import compile_specs
from modelway.sources import SourceFile
from modelway.spec.schema import schemas
from tests.support.small_shop import ALERT, CPU, HEAD, LOCAL, MODEL, PROD, ZEROS

PATTERNS = "patterns: {slower: {metric: latency}}"
DETECTOR = "detector: {publish: {repository: shop/models}}"
GPU = CPU.replace("cpu-small", "gpu").replace("4Gi,", "4Gi, gpu: {product: l4, count: 2},")
BASE = {"local": LOCAL, "prod": PROD, "cpu": CPU, "model": MODEL, "alert": ALERT}

Told = tuple[str, str, str]  # code, the text below which the caret stands, a part of the message


def compiled(files: dict[str, str]) -> list[Diagnostic]:
    sources = [SourceFile(f"specs/{name}.yaml", text.encode()) for name, text in files.items()]
    return list(compile_specs(sources).diagnostics)


def marked(one: Diagnostic, files: dict[str, str]) -> str:
    """The text that a diagnostic points at; of several lines the first."""
    line = files[one.span.path.removeprefix("specs/").removesuffix(".yaml")].split("\n")[one.span.line - 1]
    end = one.span.end_column - 1 if one.span.end_line == one.span.line else None
    return line[one.span.column - 1 : end]


def change(name: str, old: str, new: str, **more: str) -> dict[str, str]:
    assert old in BASE[name], f"{old!r} is not in {name}"
    return {**BASE, name: BASE[name].replace(old, new, 1), **more}


def serving(more: str) -> dict[str, str]:
    return change("model", "cpu-small}", f"cpu-small, {more}}}")


def below(name: str, more: str) -> dict[str, str]:
    return {**BASE, name: f"{BASE[name]}  {more}\n"}


def watching(more: str = "", detector: str = DETECTOR) -> dict[str, str]:
    """prod has a detector, and the alert patterns there."""
    files = change("alert", "spec:\n", f"spec:\n  targets: [prod]\n  {PATTERNS}\n")
    files["alert"] += f"  {more}\n" if more else ""
    return files | {"prod": f"{PROD}  {detector}\n"}


def other(name: str, team: str = "search") -> str:
    return MODEL.replace("name: ranker, team: search", f"name: {name}, team: {team}")


CASES: dict[str, tuple[dict[str, str], list[Told]]] = {
    "right": (BASE, []),
    # References.
    "no-resource": (change("model", "small", "larg"), [("MW202", "cpu-larg", 'no resource "cpu-larg"')]),
    "resource-elsewhere": (
        change("cpu", "spec: {", "spec: {targets: [prod], "),
        [("MW202", "cpu-small", 'is not for the environment "local"')],
    ),
    "no-standby": (serving("standby: {model: lite}"), [("MW202", "lite", 'no model "search/lite"')]),
    "standby-of-others": (
        serving("standby: {model: ads/lite}") | {"lite": other("lite", "ads")},
        [("MW202", "ads/lite", "belongs to another team")],
    ),
    "standby-elsewhere": (
        serving("standby: {model: lite}")
        | {"lite": other("lite").replace("spec:\n", "spec:\n  targets: [prod]\n", 1)},
        [("MW202", "lite", 'is not for the environment "local"')],
    ),
    "standby-by-its-full-name": (serving("standby: {model: search/lite}") | {"lite": other("lite")}, []),
    "its-own-standby": (serving("standby: {model: ranker}"), [("MW204", "ranker", "is its own standby")]),
    "standby-of-a-standby": (
        serving("standby: {model: b}")
        | {"b": other("b").replace("cpu-small}", "cpu-small, standby: {model: c}}"), "c": other("c")},
        [("MW204", "c", 'is the standby of "search/ranker"')],
    ),
    "alert-of-nothing": (change("alert", "model: ranker", "model: rankr"), [("MW202", "rankr", "no model")]),
    "alert-of-both": (
        change("alert", "model: ranker", "model: ranker, labels: {a: b}"),
        [("MW213", "target", "either a model or labels")],
    ),
    "alert-of-neither": (
        change("alert", "{model: ranker}", "{}"),
        [("MW213", "target", "either a model or labels")],
    ),
    "alert-of-labels-that-none-has": (
        change("alert", "model: ranker", "labels: {tier: critical}"),
        [("MW213", "{tier: critical}", "has the labels tier=critical")],
    ),
    "alert-that-says-nothing": (
        change("alert", "objectives: {availability: {target: 99.9}}", "severity: info"),
        [("MW213", "spec", 'says nothing in "local"'), ("MW213", "spec", 'says nothing in "prod"')],
    ),
    "no-such-target": (
        change("model", "spec:\n", "spec:\n  targets: [prod, lokal]\n"),
        [("MW203", "lokal", 'no environment "lokal"')],
    ),
    "broken-environment-hides-nothing": (
        change("local", "requireDigests", "requiresDigests")
        | {"b": other("b") + "  environments: {local: {}}\n"},
        [("MW104", "requiresDigests", 'unknown field "requiresDigests"')],
    ),
    "broken-resource-raises-no-second-error": (
        change("cpu", "4Gi", "4GB"),
        [("MW108", "4GB", '"4GB" is not a size')],
    ),
    "unreadable-file-raises-no-second-error": (
        change("cpu", "{cpu", "{cpu: 'x"),
        [("MW006", "", "")],
    ),
    # Names.
    "namespaces-meet": (
        BASE
        | {
            "c": LOCAL.replace("name: local", "name: c"),
            "b-c": LOCAL.replace("name: local", "name: b-c"),
            "one": other("x", "a-b"),
            "two": other("y", "a"),
        },
        [("MW205", "a-b", 'share the namespace "a-b-c"')],
    ),
    "hosts-meet": (
        BASE | {"b": other("ranker-grpc")},
        [("MW205", "ranker-grpc", "would both answer at ranker-grpc.models.shop.example")],
    ),
    "namespace-too-long": (
        BASE | {"b": other("b", "t" * 60)},
        [("MW406", "prod", "65 characters")],
    ),
    # Rollouts.
    "canary-without-steps": (
        below("model", "rollout: {strategy: canary}"),
        [("MW207", "canary", "needs steps")],
    ),
    "gates-of-a-rolling-update": (
        below("model", "rollout: {gates: {errorRatio: {max: 0.1}}}"),
        [("MW207", "gates", "has no gates")],
    ),
    "weights-stay": (
        below("model", "rollout: {strategy: canary, steps: [{weight: 50}, {weight: 50}, {weight: 60}]}"),
        [("MW206", "50", "does not rise above 50")],
    ),
    "weights-out-of-range": (
        below("model", "rollout: {strategy: canary, steps: [{weight: 0}, {weight: 100}]}"),
        [("MW109", "0", "too small"), ("MW109", "100", "too large")],
    ),
    # GPUs.
    "gpus-of-a-node": (
        {**BASE, "gpu": GPU.replace("count: 2", "count: 8")},
        [("MW208", "8", 'a node of "prod" has 4')],
    ),
    "gpus-of-all": (
        change("model", "cpu-small}", "gpu, scaling: {minReplicas: 3}}") | {"gpu": GPU},
        [("MW216", "4", "need 6 of 4")],
    ),
    "no-gpus": (
        change("prod", "  gpus: {l4: {nodeLabel: NVIDIA-L4, count: 4, perNode: 4}}\n", "") | {"gpu": GPU},
        [("MW208", "l4", 'has no GPU "l4"')],
    ),
    # Digests.
    "weights-undigested": (
        change("model", f', digest: "{ZEROS}"', ""),
        [("MW209", "artifact", "takes no weights")],
    ),
    "image-undigested": (
        change("model", "s3://shop-models/ranker.onnx", "oci://registry.example/m:1.0"),
        [("MW209", '"oci://registry.example/m:1.0"', "takes no image")],
    ),
    "server-undigested": (
        change("prod", f"@{ZEROS}", ":1.0"),
        [("MW209", '"registry.example/modelway/runtime:1.0"', "has no digest")],
    ),
    # Windows.
    "windows": (
        below("alert", "thresholds: {latency: {above: 1s, window: 31d, for: 32d}}") | {"prod": ""},
        [
            ("MW210", "31d", "the alert's period"),
            ("MW210", "31d", 'keeps in "local"'),
            ("MW210", "32d", "the alert's period"),
            ("MW210", "32d", 'keeps in "local"'),
            ("MW018", "", "no document"),
        ],
    ),
    "window-of-no-samples": (
        below("alert", "thresholds: {latency: {above: 1s, window: 1m}}") | {"prod": ""},
        [("MW210", "1m", "fewer than 4 samples"), ("MW018", "", "no document")],
    ),
    "scraped-too-rarely": (
        change("prod", "retention: 30d", "retention: 30d, scrapeInterval: 2m"),
        [("MW210", "2m", "a rate over 5m is mostly empty")],
    ),
    "absence": (
        below("alert", "absence: {for: 31d}") | {"prod": ""},
        [("MW210", "31d", 'keeps in "local"'), ("MW018", "", "no document")],
    ),
    # Limits.
    "preferred-rows": (
        serving("batching: {maxRows: 64, preferredRows: [8, 128]}"),
        [("MW212", "128", "above maxRows 64")],
    ),
    "rows-none": (
        change("model", "cpu-small}", "cpu-small, batching: {maxRows: 64}}\n  interface: {rows: none}"),
        [("MW222", "64", "whose rows are none")],
    ),
    "rows-in-capitals": (
        change("model", "cpu-small}", "cpu-small}\n  interface: {rows: None}"),
        [("MW222", "None", 'the name of a dimension, "None"')],
    ),
    "queue": (
        serving("batching: {maxRows: 64}, concurrency: {queueRows: 2}"),
        [("MW212", "2", "never fills a batch of 64")],
    ),
    "delay": (
        serving("batching: {maxRows: 8, maxDelay: 1s}"),
        [("MW212", "1s", "is not below the queue's timeout 200ms")],
    ),
    "no-protocol": (
        serving("protocols: {rest: false, grpc: false}"),
        [("MW212", "protocols", "nobody can call")],
    ),
    "cache": (serving("cache: {size: 5Gi}"), [("MW212", "5Gi", "does not fit in 4Gi")]),
    # Overlays: the place is that of the layer that is wrong.
    "overlay-contradicts": (
        below("model", "environments: {local: {serving: {scaling: {minReplicas: 5, maxReplicas: 2}}}}"),
        [("MW212", "2", "maxReplicas 2 is below minReplicas 5")],
    ),
    "overlay-deletes-what-is-required": (
        below("model", "environments: {local: {serving: {resource: null}}}"),
        [("MW105", "serving", 'lacks "resource"')],
    ),
    "overlay-of-an-unknown-field": (
        below("model", "environments: {local: {serving: {resourc: x}}}"),
        [("MW104", "resourc", 'unknown field "resourc" in spec.environments.local.serving')],
    ),
    "overlay-of-the-wrong-type": (
        below("model", "environments: {local: {version: 46.10}}"),
        [("MW106", "46.10", "is a number, not a string")],
    ),
    "overlay-of-targets": (
        below("model", "environments: {local: {targets: [prod]}}"),
        [("MW104", "targets", "in spec.environments.local")],
    ),
    "overlay-of-nothing": (below("model", "environments: {local: {}}"), []),
    "defaults-contradict": (
        serving("scaling: {maxReplicas: 2}")
        | {"local": LOCAL.replace("{req", "{defaults: {model: {serving: {scaling: {minReplicas: 4}}}}, req")},
        [("MW212", "2", "maxReplicas 2 is below minReplicas 4")],
    ),
    "defaults-of-an-unknown-field": (
        change("local", "requireDigests", "defaults: {model: {serving: {foo: 0}}}, requireDigests"),
        [("MW104", "foo", 'unknown field "foo" in spec.defaults.model.serving')],
    ),
    "overlay-mends": (
        change("model", "cpu-small}", "cpu-smal}\n  environments: {local: {serving: {resource: cpu-small}}}"),
        [("MW202", "cpu-smal", 'no resource "cpu-smal"')],
    ),
    # The words for values.
    "null": (change("model", "cpu-small", "null"), [("MW106", "null", "null is nothing, not a string")]),
    "number": (change("model", "46.1.0", "46.10"), [("MW106", "46.10", "is a number, not a string")]),
    "boolean": (change("model", "46.1.0", "true"), [("MW106", "true", "true is a boolean, not a string")]),
    "empty-list": (
        below("model", "interface: {inputs: {x: {datatype: FP32, shape: []}}}"),
        [("MW110", "[]", "0 entries are too few")],
    ),
    "key-of-the-wrong-form": (
        below("model", "interface: {inputs: {a b: {datatype: FP32, shape: [1]}}}"),
        [("MW108", "a b", "spec.interface.inputs: the key \"a b\" is not a tensor's name")],
    ),
    "case": (
        below("model", "interface: {inputs: {x: {datatype: fp32, shape: [1]}}}"),
        [("MW107", "fp32", '"fp32" is not allowed')],
    ),
    "all-required-fields": (
        {**BASE, "b": f"{HEAD}kind: Alert\nspec: {{}}\n"},
        [
            ("MW105", "apiVersion: modelway.dev/v1alpha1", 'the document lacks "metadata"'),
            ("MW105", "spec", 'spec lacks "target"'),
        ],
    ),
    # Detectors.
    "a-detector": (watching(), []),
    "a-detector-that-is-only-asked": (
        watching(detector='detector: {schedule: never, gate: {publicUrl: "https://d.example"}}'),
        [],
    ),
    "a-detector-for-nothing": (
        watching(detector="detector: {schedule: never}"),
        [("MW212", "never", "never looks, and nobody can ask it")],
    ),
    "no-hour": (watching(detector="detector: {schedule: 0 24 * * *}"), [("MW108", "0 24", '"24" is no hour')]),
    "no-step": (watching(detector="detector: {schedule: '*/0 * * * *'}"), [("MW108", "'*/0", "no minute")]),
    "no-range": (watching(detector="detector: {schedule: 0 0 5-2 * *}"), [("MW108", "0 0", '"5-2" is no day')]),
    "cron": (watching(detector="detector: {schedule: '0-50/10 1,2-4 */2 12 0,7'}"), []),
    "image-of-a-detector-without-digest": (
        watching(detector="detector: {image: registry.example/detector:1}"),
        [("MW209", "registry.example/detector:1", "the image has no digest")],
    ),
    "team-of-the-detector": (
        watching() | {"b": other("b", "modelway")},
        [("MW205", "modelway", "that of the environment's detector")],
    ),
    "namespace-of-a-detector": (
        watching() | {"b": other("b", "modelway-x"), "x-prod": PROD.replace("prod", "x-prod", 1) + "  detector: {}\n"},
        [
            ("MW205", "modelway-x", 'share the namespace "modelway-x-prod"'),
            ("MW205", "models.shop.example", "have the same domain"),
            ("MW412", "detector", 'no alert in "x-prod" has patterns'),
        ],
    ),
    "standby-of-two": (
        watching()
        | {
            "model": MODEL.replace("cpu-small}", "cpu-small, standby: {model: lite}}"),
            "b": other("b").replace("cpu-small}", "cpu-small, standby: {model: lite}}"),
            "lite": other("lite"),
            "alert": ALERT.replace("objectives: {availability: {target: 99.9}}", PATTERNS)
            .replace("spec:\n", "spec:\n  targets: [prod]\n")
            .replace("model: ranker", "model: lite"),
        },
        [("MW411", "patterns", 'is watched as "b-standby" alone, not as ranker-standby')],
    ),
    "patterns-without-a-detector": (
        change("alert", "spec:\n", f"spec:\n  {PATTERNS}\n"),
        [("MW411", "patterns", f'"{place}" has no detector') for place in ("local", "prod")],
    ),
    "quantile-of-no-time": (
        change("alert", "spec:\n", "spec:\n  patterns: {a: {metric: memory, quantile: 0.5}}\n"),
        [
            ("MW212", "0.5", "memory has no quantiles"),
            *(("MW411", "patterns", f'"{place}" has no detector') for place in ("local", "prod")),
        ],
    ),
    "a-short-window-of-a-pattern": (
        change("alert", "spec:\n", "spec:\n  patterns: {a: {metric: memory, window: 4m}}\n"),
        [
            ("MW210", "4m", "shorter than 10m"),
            *(("MW411", "patterns", f'"{place}" has no detector') for place in ("local", "prod")),
        ],
    ),
    "a-long-window-of-a-pattern": (
        change("alert", "spec:\n", "spec:\n  patterns: {a: {metric: memory, window: 31d}}\n"),
        [
            ("MW210", "31d", "longer than 30d is kept"),
            *(("MW411", "patterns", f'"{place}" has no detector') for place in ("local", "prod")),
        ],
    ),
    "a-response-to-nothing": (
        below("alert", "response: {rollback: true}"),
        [("MW219", "response", "follows a pattern, and there is none")],
    ),
    "no-response-at-all": (
        watching("response: {notify: false}"),
        [("MW219", "response", "nothing at all would follow")],
    ),
    "nothing-to-restart": (
        watching("response: {restart: true}") | {"prod": PROD.split("  cluster")[0] + f"  monitoring: {{retention: 30d}}\n  {DETECTOR}\n"},
        [("MW219", "true", "no cluster in which anything could be restarted")],
    ),
    "no-standby-to-fail-over-to": (
        watching("response: {failover: true}"),
        [("MW219", "true", '"search/ranker" has no standby')],
    ),
    "no-repository-for-a-failover": (
        watching("response: {failover: true}", detector="detector: {}")
        | {
            "model": MODEL.replace("cpu-small}", "cpu-small, standby: {model: b}}"),
            "b": other("b"),
        },
        [("MW219", "true", "failover is a pull request")],
    ),
    "the-same-pattern-twice": (
        watching() | {"again": ALERT.replace("objectives: {availability: {target: 99.9}}", PATTERNS)
                      .replace("ranker-slo", "again").replace("spec:\n", "spec:\n  targets: [prod]\n")},
        [],
    ),
    "little-history": (
        watching() | {"prod": PROD.replace("retention: 30d", "retention: 8d") + f"  {DETECTOR}\n", "alert":
                      ALERT.replace("objectives: {availability: {target: 99.9}}", PATTERNS)
                      .replace("spec:\n", "spec:\n  targets: [prod]\n")},
        [("MW221", "8d", "it takes 9d to know a week")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_said_and_where(name: str) -> None:
    files, expected = CASES[name]
    found = compiled(files)
    said = [(one.code, marked(one, files), one.message) for one in found]
    left = list(said)
    for code, text, words in expected:
        fits = [
            one
            for one in left
            if one[0] == code and words in one[2] and (one[1].startswith(text) if text else True)
        ]
        assert fits, f"not said: {code} at {text!r}: …{words}…; said: {said}"
        left.remove(fits[0])
    assert not left, f"said too: {left}"


def test_every_keyword_of_the_schemas_has_words() -> None:
    """``validate`` raises for a keyword that it has no words for."""
    silent = {
        "title",
        "description",
        "default",
        "examples",
        "properties",
        "items",
        "$defs",
        "$ref",
        "$schema",
        "$id",
    }
    worded = {
        *("additionalProperties", "required", "propertyNames", "type", "enum", "const", "pattern"),
        *(
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
            "minItems",
            "maxItems",
            "maxProperties",
        ),
        *("minLength", "maxLength"),
    }
    for kind in schemas():
        assert keywords(schemas()[kind]) <= silent | worded, kind


def keywords(schema: dict[str, Any]) -> set[str]:
    found = set(schema)
    for key in ("properties", "$defs"):
        for inner in schema.get(key, {}).values():
            found |= keywords(inner)
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(schema.get(key), dict):
            found |= keywords(schema[key])
    return found
