"""Certificates and keys that somebody brings. Real files, written by the cryptography library."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from segformer3d.errors import ConfigurationError
from segformer3d.keys import hosts_of, issue_certificate, make_authority, read_certificate


def test_a_certificate_that_is_none_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.crt"
    with pytest.raises(ConfigurationError, match=f"^cannot read the certificate {path}: No such file or directory$"):
        read_certificate(path)
    path.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigurationError, match=f"^{path} holds no certificate in PEM form$"):
        read_certificate(path)


def test_a_certificate_may_be_for_no_host() -> None:
    key, name, now = ec.generate_private_key(ec.SECP384R1()), x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(1))
    assert hosts_of(builder.sign(key, hashes.SHA256())) == ()


def test_an_authority_whose_key_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    """Nothing is written then."""
    authority, key = tmp_path / "a.crt", tmp_path / "a.key"
    make_authority(authority, key)

    def refused(text: str) -> None:
        with pytest.raises(ConfigurationError, match=f"{key}{text}"):
            issue_certificate(tmp_path / "g.crt", tmp_path / "g.key", ["localhost"], authority, key)
        assert {path.name for path in tmp_path.iterdir()} <= {"a.crt", "a.key"}

    locked = serialization.BestAvailableEncryption(b"a passphrase")
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    key.unlink()
    refused(": No such file or directory")
    key.write_bytes(ec.generate_private_key(ec.SECP384R1()).private_bytes(*form, locked))
    refused(" holds no private key without a passphrase")
    plain = serialization.NoEncryption()
    key.write_bytes(rsa.generate_private_key(65537, 2048).private_bytes(*form, plain))
    refused(" must be an elliptic curve key")
