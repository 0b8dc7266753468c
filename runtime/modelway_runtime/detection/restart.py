"""The response ``restart``: the workload's pods are replaced, the way its controller offers it."""

from __future__ import annotations

from typing import Any

from modelway_runtime.detection.settings import Watched
from modelway_runtime.extras import lacking

TIMEOUT_S = (5, 20)
"""To connect, and until the answer."""
_KINDS = {"Rollout": ("argoproj.io", "v1alpha1", "rollouts"), "Deployment": ("apps", "v1", "deployments")}


class RestartFailed(Exception):
    """The API server did not take it; the text says what it said, without the token."""


def respond_restart(watched: Watched, at: str) -> None:
    """Patch ``spec.restartAt`` of a Rollout, or the annotation of a Deployment that kubectl sets.

    ``at`` is RFC 3339; the same ``at`` again restarts nothing. The pod's service account is used, elsewhere
    the current context of the kubeconfig. Raises RestartFailed.
    """
    try:
        import urllib3
        from kubernetes import client
    except ImportError as error:
        raise RestartFailed(lacking(error, "the response `restart`") or str(error)) from None

    assert watched.workload is not None, "the settings see to it"
    group, version, plural = _KINDS[watched.workload]
    annotations = {"kubectl.kubernetes.io/restartedAt": at}
    body: Any = (
        {"spec": {"restartAt": at}}
        if watched.workload == "Rollout"
        else {"spec": {"template": {"metadata": {"annotations": annotations}}}}
    )
    what = f"{watched.workload} {watched.namespace}/{watched.job}"
    configuration = _configuration()
    try:
        with client.ApiClient(configuration) as connection:
            client.CustomObjectsApi(connection).patch_namespaced_custom_object(
                group,
                version,
                watched.namespace,
                plural,
                watched.job,
                body,
                field_manager="modelway-detector",
                _content_type="application/merge-patch+json",
                _request_timeout=TIMEOUT_S,
            )
    except client.ApiException as error:
        advice = {403: "; its Role does not allow it", 404: "; there is none"}.get(error.status, "")
        raise RestartFailed(
            f"the API server answered {error.status} to a restart of {what}{advice}"
        ) from None
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise RestartFailed(f"{what} was not restarted: {type(error).__name__}") from None


def _configuration() -> Any:
    from kubernetes import client, config
    from urllib3 import Retry

    configuration = client.Configuration()
    try:
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            config.load_kube_config(client_configuration=configuration)
    except (config.ConfigException, OSError) as error:
        raise RestartFailed(f"no way to the API server is known: {type(error).__name__}") from None
    # A connection that cannot be made, and a busy server; a patch that is made twice is one.
    configuration.retries = Retry(
        3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None,
        raise_on_status=False,
    )  # fmt: skip
    return configuration
