"""The reference shop: what is tracked is what compiles, and what compiles its consumers accept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from modelway import tree
from modelway.diagnostics import Severity
from modelway.spec import generate, schema
from tests.support import promtool, shop
from tests.support.alert_proofs import failures, prove
from tests.support.checking import every, no_exception
from tests.support.kube_schemas import VERSIONS, errors, is_custom, need_crds

Groups = list[dict[str, Any]]


def test_it_compiles_without_a_warning() -> None:
    loud = [one for one in shop.compiled().diagnostics if one.severity is not Severity.NOTE]
    assert loud == []
    assert shop.compiled().files


def test_generated_is_what_the_specs_compile_to() -> None:
    comparison = tree.compare(shop.ROOT / "generated", shop.compiled().files, environments=None)
    assert comparison.clean, comparison


def test_kept_schemas_are_those_of_the_types() -> None:
    assert generate.kept() == schema.FILE.read_bytes(), "run: make generated"


@pytest.mark.parametrize("kind", sorted(schema.schemas()))
def test_schemas_for_editors_are_kept(kind: str) -> None:
    from modelway.lower.objects import json_text

    path = shop.ROOT / "policies" / "schemas" / f"{kind.lower()}.json"
    assert path.read_text(encoding="utf-8") == json_text(schema.schemas()[kind]), "run: make generated"


def test_it_is_the_shop_that_was_asked_for() -> None:
    teams = {path.split("/")[1] for path in shop.objects()} - {"_platform"}
    assert teams == {"search", "recommendation"}
    assert shop.compiled().environments == ("dev", "local", "prod", "staging")


BUILT_IN = sorted(path for path, value in shop.objects().items() if not is_custom(value))
CUSTOM = sorted(path for path, value in shop.objects().items() if is_custom(value))


@pytest.mark.parametrize("version", VERSIONS)
def test_built_in_objects_pass_the_strict_schema(version: str) -> None:
    """Of every version: no object of the shop uses what only one of them has."""
    wrong = {path: found for path in BUILT_IN if (found := errors(shop.objects()[path], version))}
    assert wrong == {}
    assert len(BUILT_IN) > 100


def test_custom_objects_pass_their_published_schema() -> None:
    need_crds()
    wrong = {path: found for path in CUSTOM if (found := errors(shop.objects()[path], "1.37"))}
    assert wrong == {}
    assert len(CUSTOM) > 40


def test_an_unknown_field_would_be_found() -> None:
    need_crds()
    for path in ("prod/search/ranker/rollout-ranker.yaml", "dev/search/ranker/deployment-ranker.yaml"):
        value = yaml.safe_load(yaml.dump(shop.objects()[path]))
        value["spec"]["template"]["spec"]["containers"][0]["imagePullpolicy"] = "Always"
        assert errors(value, "1.37")


def rule_groups() -> dict[str, Groups]:
    """Path -> groups, in each of the three forms: PrometheusRule, ConfigMap, plain file."""
    found: dict[str, Groups] = {}
    for file in shop.compiled().files:
        name = file.path.rpartition("/")[2]
        if name.startswith("prometheusrule-"):
            found[file.path] = yaml.safe_load(file.data)["spec"]["groups"]
        elif name.startswith("configmap-") and name.endswith("-rules.yaml"):
            (text,) = yaml.safe_load(file.data)["data"].values()
            found[file.path] = yaml.safe_load(text)["groups"]
        elif name.startswith("rules-"):
            found[file.path] = yaml.safe_load(file.data)["groups"]
    return found


RULES = rule_groups()


def test_every_alert_has_rules_where_it_is_for() -> None:
    assert len([path for path in RULES if path.startswith("prod/")]) == 6 + 1  # and the detector's own
    assert len([path for path in RULES if path.startswith("dev/")]) == 1


@pytest.mark.parametrize("path", sorted(RULES))
def test_promtool_takes_the_rules(path: str, tmp_path: Path) -> None:
    promtool.check_rules(RULES[path], tmp_path)


@pytest.mark.parametrize("path", sorted(path for path in RULES if path.startswith(("prod/", "dev/"))))
def test_every_alert_fires_when_it_must_and_only_then(path: str, tmp_path: Path) -> None:
    proofs = prove(RULES[path])
    assert {proof.name.split("-")[0] for proof in proofs} >= {
        rule["alert"] for group in RULES[path] for rule in group["rules"] if "alert" in rule
    }
    assert failures(proofs, RULES[path], tmp_path) == []


@pytest.mark.parametrize("path", sorted(RULES))
def test_every_expression_parses(path: str) -> None:
    rules = [rule for group in RULES[path] for rule in group["rules"]]
    with no_exception():
        for rule in every(rules):
            promql_parser.parse(rule["expr"])
