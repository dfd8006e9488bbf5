"""A private certificate authority: root, intermediate, one leaf per address.

The intermediate is there so that a proxy that sends only its leaf is noticed: clients trust the root alone.
"""

import datetime
import ipaddress
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Authority:
    """Issues certificates; `root` is the file that clients and homeservers trust."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._key = ec.generate_private_key(ec.SECP256R1())
        root_name = common_name("ringfence test root")
        self._name = common_name("ringfence test intermediate")
        root = authority(root_name, self._root_key, root_name, self._root_key)
        self._intermediate = authority(self._name, self._key, root_name, self._root_key)
        self.root = folder / "root.pem"
        self.root.write_bytes(pem(root))

    def issue(self, address: str) -> tuple[pathlib.Path, pathlib.Path]:
        """Files of a chain and its key for an IP address (as subject alternative name: there is no DNS here)."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        leaf = (
            builder(common_name(address), key, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .add_extension(usage, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        chain_file, key_file = self._folder / f"{address}.chain.pem", self._folder / f"{address}.key.pem"
        chain_file.write_bytes(pem(leaf) + pem(self._intermediate))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        key_file.chmod(0o600)
        return chain_file, key_file


def authority(name: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, issuer_key) -> x509.Certificate:
    """A certificate that may sign others."""
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        builder(name, key, issuer, issuer_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def builder(name: x509.Name, key, issuer: x509.Name, issuer_key) -> x509.CertificateBuilder:
    """What every certificate here has. Valid since yesterday: machines' clocks differ."""
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
