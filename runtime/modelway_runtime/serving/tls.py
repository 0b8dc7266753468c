"""Certificates of the server, and of its clients where it asks for them; both may be rotated.

A pair that does not fit, as in the middle of a rotation, is refused as a whole: nothing that is in use
changes before the new files have been loaded with success.
"""

from __future__ import annotations

import ssl

import grpc

from modelway_runtime.serving.watch import ConfigError, read_file
from modelway_runtime.settings import Tls


def server_context(tls: Tls) -> ssl.SSLContext:
    """For the HTTP listener: TLS 1.2 or newer; with a client CA 1.3 and the clients' certificates.

    Raises ConfigError, with what to do. Whoever changes the context by hand loses that at ``reload``.
    """
    for path, setting in _named(tls):  # for a message that names the file; OpenSSL's does not
        read_file(path, setting)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.certificate_file, tls.key_file, password=_refuse_passphrase)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"`tls`: {tls.certificate_file} and {tls.key_file} are not a certificate and its key "
            f"({_reason(error)}); give the PEM chain, leaf first, and the unencrypted PEM key of the leaf"
        ) from None
    if tls.client_ca_file is not None:
        _require_client(context, tls.client_ca_file)
    return context


def reload(context: ssl.SSLContext, tls: Tls) -> None:
    """Use the files as they are now, client CA included, for new connections of the context.

    Raises ConfigError when they cannot be used; the context is then as before. Loading into the context
    itself would leave it without a usable pair when the two do not fit, and could only add client CAs
    (``load_verify_locations``); so each handshake is handed to a context of its own instead. Whether
    client certificates are asked for at all stays as at the start.
    """
    fresh = server_context(tls)

    def hand_over(
        connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _base: ssl.SSLContext
    ) -> None:
        connection.context = fresh

    context.sni_callback = hand_over


def grpc_credentials(tls: Tls) -> grpc.ServerCredentials:
    """For the gRPC listener: each new connection gets the files as they are then.

    Raises ConfigError. Later, files that cannot be used leave the ones before in force; gRPC gives no
    way to report it, ``server_context(tls)`` does.
    """
    in_use = _usable(tls)

    def newer() -> grpc.ServerCertificateConfiguration | None:
        nonlocal in_use
        try:
            files = _usable(tls, in_use)
        except ConfigError:
            return None
        if files == in_use:
            return None
        in_use = files
        return _grpc_configuration(files)

    return grpc.dynamic_ssl_server_credentials(
        _grpc_configuration(in_use), newer, require_client_authentication=tls.client_ca_file is not None
    )


def _require_client(context: ssl.SSLContext, ca_file: str) -> None:
    try:
        context.load_verify_locations(ca_file)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"`tls.client_ca_file`: {ca_file} holds no CA certificates ({_reason(error)}); give them as PEM"
        ) from None
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session would not be verified against the CA of today. TLS 1.3 resumes by tickets only; 1.2
    # also by the session's id, and Python cannot switch OpenSSL's cache of those off.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0


def _usable(tls: Tls, known: tuple[bytes, ...] = ()) -> tuple[bytes, ...]:
    """The files' contents, of which OpenSSL has said that they can be used; raises ConfigError."""
    files = _contents(tls)
    if files != known:
        server_context(tls)
        if _contents(tls) != files:  # what was checked must be what is used
            raise ConfigError("`tls`: the files are being replaced; try again")
    return files


def _contents(tls: Tls) -> tuple[bytes, ...]:
    return tuple(read_file(path, setting) for path, setting in _named(tls))


def _named(tls: Tls) -> list[tuple[str, str]]:
    named = [(tls.certificate_file, "tls.certificate_file"), (tls.key_file, "tls.key_file")]
    return named + ([(tls.client_ca_file, "tls.client_ca_file")] if tls.client_ca_file is not None else [])


def _grpc_configuration(files: tuple[bytes, ...]) -> grpc.ServerCertificateConfiguration:
    certificate, key, *ca = files
    return grpc.ssl_server_certificate_configuration([(key, certificate)], ca[0] if ca else None)


def _refuse_passphrase() -> str:
    raise ConfigError("`tls.key_file` is encrypted, and nobody is here to type the passphrase; decrypt it")


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error)
