"""What the compiler has to say about its input: diagnostics, where they point, and their codes."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Severity(enum.IntEnum):
    """How bad a diagnostic is; only an error stops a compile (and a warning, with ``--strict``)."""

    NOTE = 1
    WARNING = 2
    ERROR = 3

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A place in a file: 1-based lines and columns counted in code points, the end exclusive."""

    path: str
    line: int = 1
    column: int = 1
    end_line: int = 1
    end_column: int = 1


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. ``message`` holds the wrong value, ``hint`` says what to do about it.

    ``more`` findings like it, in the same document, are counted here and not listed.
    """

    code: str
    severity: Severity
    message: str
    span: Span
    hint: str = ""
    related: tuple[tuple[Span, str], ...] = ()
    more: int = 0


@dataclass(frozen=True, slots=True)
class Code:
    """An entry of the table of codes; ``docs/reference/diagnostics.md`` is made from it."""

    severity: Severity
    title: str


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

# A code is never reused. MW0xx: reading a file. MW1xx: the schema. MW2xx: what specs say of each
# other. MW4xx: what an environment can take. MW5xx: the folder of generated files.
CODES: dict[str, Code] = {
    "MW001": Code(_E, "The file cannot be read"),
    "MW002": Code(_E, "The file is too large"),
    "MW003": Code(_E, "A symbolic link leads out of the folder of specs"),
    "MW004": Code(_E, "The file is not UTF-8"),
    "MW005": Code(_E, "The file holds a character that YAML does not allow"),
    "MW006": Code(_E, "The YAML is malformed"),
    "MW007": Code(_E, "The YAML is nested too deeply"),
    "MW008": Code(_E, "Aliases expand to too much"),
    "MW009": Code(_E, "An alias contains itself"),
    "MW010": Code(_E, "A tag is not allowed"),
    "MW011": Code(_E, "A merge key is not allowed"),
    "MW012": Code(_E, "A key stands twice in one mapping"),
    "MW013": Code(_E, "A key is not a string"),
    "MW014": Code(_E, "A plain word that readers do not agree about"),
    "MW015": Code(_E, "A plain number that readers do not agree about"),
    "MW016": Code(_E, "A plain date or time"),
    "MW017": Code(_E, "A number that is not finite or too long"),
    "MW018": Code(_N, "The file holds no document"),
    "MW101": Code(_E, "The document is not a spec"),
    "MW102": Code(_E, "Unknown kind"),
    "MW103": Code(_E, "Unknown apiVersion"),
    "MW104": Code(_E, "Unknown field"),
    "MW105": Code(_E, "A required field is missing"),
    "MW106": Code(_E, "A value of the wrong type"),
    "MW107": Code(_E, "A value that is not one of the allowed ones"),
    "MW108": Code(_E, "A value of the wrong form"),
    "MW109": Code(_E, "A value out of range"),
    "MW110": Code(_E, "Too many or too few entries"),
    "MW120": Code(_E, "modelway.yaml asks for another version of Modelway"),
    "MW121": Code(_E, "A field that has moved"),
    "MW201": Code(_E, "Two specs have the same name"),
    "MW202": Code(_E, "A reference to nothing"),
    "MW203": Code(_E, "An unknown environment"),
    "MW204": Code(_E, "A standby that has, or is, a standby of its own"),
    "MW205": Code(_E, "Names of two teams meet"),
    "MW206": Code(_E, "Rollout weights do not rise"),
    "MW207": Code(_E, "A setting of another rollout strategy"),
    "MW208": Code(_E, "The GPU is not in the environment's inventory"),
    "MW209": Code(_E, "A digest is required here"),
    "MW210": Code(_E, "A window that is too long or too short for its data"),
    "MW211": Code(_E, "Two alerts hold the same objective"),
    "MW212": Code(_E, "Limits that contradict each other"),
    "MW213": Code(_E, "The alert targets nothing"),
    "MW214": Code(_E, "An environment lacks an address that an add-on needs"),
    "MW216": Code(_E, "The inventory holds fewer GPUs than the models ask for"),
    "MW217": Code(_E, "The standby does not answer like its primary"),
    "MW218": Code(_E, "There is no environment"),
    "MW219": Code(_E, "A response that has no means"),
    "MW220": Code(_E, "Two alerts give one name to different patterns"),
    "MW221": Code(_W, "Too little history for a verdict"),
    "MW222": Code(_E, "Rows that the model does not have"),
    "MW227": Code(_E, "A certificate that a reader of Prometheus cannot show"),
    "MW401": Code(_W, "A canary or blue-green rollout becomes a plain one"),
    "MW402": Code(_W, "A scaled model gets a fixed number of replicas"),
    "MW403": Code(_N, "Weights are fetched by an init container"),
    "MW404": Code(_N, "Metrics and rules without the Prometheus operator"),
    "MW405": Code(_W, "Weighted traffic without the Gateway API"),
    "MW406": Code(_E, "A name is too long once suffixed"),
    "MW407": Code(_E, "Two specs give the same object"),
    "MW408": Code(_E, "The weights cannot reach the server"),
    "MW409": Code(_N, "Scaled by the metrics adapter"),
    "MW410": Code(_N, "A threshold on GPUs that no watched model has"),
    "MW411": Code(_N, "Patterns that nobody looks for"),
    "MW412": Code(_N, "A detector that has nothing to look for"),
    "MW413": Code(_W, "A count of pods changes hands"),
    "MW414": Code(_W, "The inventory holds fewer GPUs than a release asks for"),
    "MW415": Code(_N, "A CA that a reader of Prometheus must be given by hand"),
    "MW416": Code(_N, "Too few pods for the detector to judge a canary by"),
    "MW501": Code(_E, "A file that Modelway does not own stands in its way"),
    "MW502": Code(_E, "The folder of generated files cannot be used"),
    "MW503": Code(_E, "A generated file is stale"),
    "MW504": Code(_E, "A generated file is missing"),
    "MW505": Code(_E, "A generated file that no spec gives any more"),
}


def diagnostic(
    code: str,
    span: Span,
    message: str,
    hint: str = "",
    related: tuple[tuple[Span, str], ...] = (),
) -> Diagnostic:
    """A diagnostic with the severity that the table of codes gives its code."""
    return Diagnostic(code, CODES[code].severity, message, span, hint, related)


def sort_unique(found: Iterable[Diagnostic]) -> list[Diagnostic]:
    """By place, then code, then text; the same finding (one per environment, say) stands once."""
    return sorted(set(found), key=_order)


def _order(one: Diagnostic) -> tuple[str, int, int, int, int, str, str, str]:
    span = one.span  # field by field: comparing spans as wholes took a third of the time for many findings
    place = (span.path, span.line, span.column, span.end_line, span.end_column)
    return (*place, one.code, one.message, one.hint)


def has_errors(found: Iterable[Diagnostic]) -> bool:
    return any(d.severity is Severity.ERROR for d in found)
