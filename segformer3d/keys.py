"""Key pairs of sites and certificates of the coordinator: EC P-384, made where they are needed.

A private key is written with mode 0600 before anything else can read it, and never sent anywhere.
"""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from segformer3d.addresses import is_ip
from segformer3d.errors import ConfigurationError
from segformer3d.files import write_bytes, write_secret

AUTHORITY_YEARS, CERTIFICATE_DAYS = 20, 825
_EARLIER = timedelta(days=1)  # clocks differ
_OPENSSH, _PKCS8 = serialization.PrivateFormat.OpenSSH, serialization.PrivateFormat.PKCS8


def make_key_pair(private: Path, public: Path) -> None:
    """A site's key pair, in OpenSSH's format as Flower reads it.

    Raises:
        StorageError: a file cannot be written, or the private key is there already.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    write_secret(private, _private_bytes(key, _OPENSSH))
    write_bytes(public, public_text(key.public_key()))


def public_text(key: ec.EllipticCurvePublicKey) -> bytes:
    """One line: `ecdsa-sha2-nistp384 AAAA...`."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH) + b"\n"


def read_public_key(text: bytes, where: str) -> ec.EllipticCurvePublicKey:
    """A site's public key.

    Raises:
        ConfigurationError: it is none, or not on the curve P-384.
    """
    try:
        key = serialization.load_ssh_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"{where} is no public key; take the line that `segfed site init` prints (ecdsa-sha2-nistp384 ...)"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigurationError(f"{where} must be a key on the curve P-384; take the one that `segfed site init` made")
    return key


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """What two people compare on the telephone: SHA256:..., as `ssh-keygen -l` prints it."""
    raw = public_text(key).split()[1]
    return "SHA256:" + b64encode(hashlib.sha256(b64decode(raw)).digest()).decode().rstrip("=")


def make_authority(certificate: Path, private: Path) -> None:
    """A certificate authority of the coordinator's own.

    Raises:
        StorageError: a file cannot be written, or the private key is there already.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "segfed coordinator")])
    limits = x509.BasicConstraints(ca=True, path_length=0)
    builder = _builder(name, name, key.public_key(), key.public_key(), timedelta(days=365 * AUTHORITY_YEARS))
    usage = _usage(signs_certificates=True)
    made = builder.add_extension(limits, critical=True).add_extension(usage, critical=True)
    write_secret(private, _private_bytes(key, _PKCS8))
    write_bytes(certificate, made.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM))


def issue_certificate(
    certificate: Path, private: Path, hosts: Sequence[str], authority: Path, authority_key: Path
) -> None:
    """A server's certificate for these names and addresses, from the coordinator's authority; replaces an older one.

    Raises:
        ConfigurationError: the authority cannot be read.
        StorageError: a file cannot be written.
    """
    issuer, issuer_key = read_certificate(authority), _read_private(authority_key)
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    names = x509.SubjectAlternativeName(
        [x509.IPAddress(ip_address(host)) if is_ip(host) else x509.DNSName(host) for host in hosts]
    )
    made = (
        _builder(name, issuer.subject, key.public_key(), issuer_key.public_key(), timedelta(days=CERTIFICATE_DAYS))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    private.unlink(missing_ok=True)
    write_secret(private, _private_bytes(key, _PKCS8))
    write_bytes(certificate, made.sign(issuer_key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM))


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot read the certificate {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} holds no certificate in PEM form") from error


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The names and addresses that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    found = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return tuple(found)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    valid: timedelta,
) -> x509.CertificateBuilder:
    """With both key identifiers, as RFC 5280 (4.2.1) asks; Python 3.13 takes no certificate without them."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + valid)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _read_private(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigurationError(f"cannot read the key {path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path} holds no private key without a passphrase") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(f"{path} must be an elliptic curve key")
    return key


def _private_bytes(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
