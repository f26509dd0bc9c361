"""A certificate authority that can also make what a correct one refuses.

Written on python3-cryptography, so that nothing of Postern's own code is on
both sides of a test.
"""

import datetime
import os
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

UTC = datetime.timezone.utc


def _now():
    return datetime.datetime.now(UTC).replace(tzinfo=None)


def make_key(kind="p256"):
    """A private key: p256, p384, rsa2048, rsa1024, ed25519."""
    if kind == "p256":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "p384":
        return ec.generate_private_key(ec.SECP384R1())
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, int(kind[3:]))


def _digest(key):
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def _usage(**on):
    names = ("digital_signature", "content_commitment", "key_encipherment",
             "data_encipherment", "key_agreement", "key_cert_sign",
             "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{n: on.get(n, False) for n in names})


class Svid:
    """Leaf, the rest of its chain, and its key."""

    def __init__(self, leaf, chain, key, spiffe_id):
        self.leaf, self.chain, self.key = leaf, chain, key
        self.id = spiffe_id

    @property
    def serial(self):
        return "%x" % self.leaf.serial_number

    def chain_der(self):
        return b"".join(c.public_bytes(serialization.Encoding.DER)
                        for c in [self.leaf, *self.chain])

    def key_der(self):
        return self.key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption())

    def pem_files(self, folder):
        """Paths of chain and key as PEM, for peers that read files."""
        fd, cert = tempfile.mkstemp(dir=folder, suffix=".crt")
        with os.fdopen(fd, "wb") as f:
            for c in [self.leaf, *self.chain]:
                f.write(c.public_bytes(serialization.Encoding.PEM))
        fd, key = tempfile.mkstemp(dir=folder, suffix=".key")
        with os.fdopen(fd, "wb") as f:
            f.write(self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption()))
        return cert, key


class CA:
    """One authority of one trust domain, or an intermediate below PARENT."""

    def __init__(self, trust_domain="example.org", key_kind="p256",
                 parent=None, days=1):
        self.trust_domain, self.parent = trust_domain, parent
        self.key = make_key(key_kind)
        self.name = x509.Name([
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, os.urandom(8).hex())])
        issuer = parent.name if parent else self.name
        signer = parent.key if parent else self.key
        now = _now()
        ski = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(
            signer.public_key())
        self.cert = (
            x509.CertificateBuilder()
            .subject_name(self.name).issuer_name(issuer)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(True, None), True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), True)
            .add_extension(x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier("spiffe://" + trust_domain)]),
                False)
            .add_extension(ski, False).add_extension(aki, False)
            .sign(signer, _digest(signer)))

    def der(self):
        return self.cert.public_bytes(serialization.Encoding.DER)

    def pem(self):
        return self.cert.public_bytes(serialization.Encoding.PEM)

    def svid(self, spiffe_id, key_kind="p256", key=None, before=-60, life=3600,
             uris=None, ca=False, usage=None, eku=None, dns=()):
        """An SVID; BEFORE and LIFE in seconds from now."""
        key = key or make_key(key_kind)
        now = _now()
        uris = [spiffe_id] if uris is None else uris
        usage = usage or {"digital_signature": True, "key_encipherment": True,
                          "key_agreement": True}
        eku = eku or [ExtendedKeyUsageOID.SERVER_AUTH,
                      ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test")]))
            .issuer_name(self.name).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(seconds=before))
            .not_valid_after(now + datetime.timedelta(seconds=life))
            .add_extension(x509.BasicConstraints(ca, None), True)
            .add_extension(_usage(**usage), True)
            .add_extension(x509.ExtendedKeyUsage(eku), False))
        if uris:
            builder = builder.add_extension(x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(u) for u in uris]
                + [x509.DNSName(n) for n in dns]), False)
        leaf = builder.sign(self.key, _digest(self.key))
        chain, up = [], self
        while up.parent:
            chain.append(up.cert)
            up = up.parent
        return Svid(leaf, chain, key, spiffe_id)

    def crl(self, serials=(), life=3600):
        """A revocation list as DER."""
        now = _now()
        builder = (x509.CertificateRevocationListBuilder()
                   .issuer_name(self.name)
                   .last_update(now - datetime.timedelta(seconds=60))
                   .next_update(now + datetime.timedelta(seconds=life)))
        for serial in serials:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial)
                .revocation_date(now).build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(
            serialization.Encoding.DER)
