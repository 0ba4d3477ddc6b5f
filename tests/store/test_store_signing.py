"""Signatures: nothing that was changed passes, and a private key stays where it is."""

from __future__ import annotations

import base64
import os
import pickle
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from retrainer.errors import ResourceError, RetrainerError, SignatureError, UserError
from retrainer.store import Cause, Keyring, Move, PublicKey, Signature, Signer
from retrainer.store.signing import VersionSignature, VersionStatement
from retrainer.store.signing_keys import (
    PUBLIC_KEYS,
    SIGNING_KEY,
    KeyPair,
    load_signer,
    make_key_pair,
    public_keys_from_environment,
    signer_of_pem,
)

# RFC 8032, section 7.1, tests 1 to 3: secret key, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]
# The order of the group of Ed25519 (RFC 8032, section 5.1): S and S + L are the same number to a careless verifier.
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493

SIGNER = Signer(ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(RFC_8032[0][0])))
OTHER = Signer(ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(RFC_8032[1][0])))
KEYRING = Keyring((SIGNER.public,))

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
VERSIONS = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)
DIGESTS = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
STATEMENTS = st.builds(VersionStatement, model=NAMES, version=VERSIONS, manifest_sha256=DIGESTS)
MOVES = st.builds(
    Move,
    model=NAMES,
    channel=NAMES,
    sequence=st.integers(2, 10**6),
    action=st.sampled_from(["publish", "promote", "rollback"]),
    from_version=VERSIONS,
    to_version=VERSIONS,
    manifest_sha256=DIGESTS,
    actor=st.text(st.characters(exclude_categories=["Cs"])),
    at=st.just("2026-03-31T14:05:00.000000+00:00"),
    cause=st.sampled_from(Cause),
    reason=st.text(st.characters(exclude_categories=["Cs"])),
    decision=st.none() | DIGESTS,
    anchor=VERSIONS,
    ledger=st.none() | DIGESTS,
    previous=DIGESTS,
    origin=DIGESTS,
    signature=st.none(),
)


# A busy machine is no fault of what is tested.
unhurried = settings(deadline=None)


def holds(signature: Signature | None, data: bytes) -> bool:
    try:
        KEYRING.check(signature, data, what="it", where="here")
    except SignatureError:
        return False
    return True


# The algorithm


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_the_vectors_of_rfc_8032(secret: str, public: str, message: str, signature: str) -> None:
    signer = Signer(ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))
    assert signer.public.raw.hex() == public
    made = signer.sign(bytes.fromhex(message))
    assert base64.b64decode(made.value).hex() == signature
    assert signer.public.holds(made, bytes.fromhex(message))


def test_openssl_agrees(tmp_path: Path) -> None:
    """The files and the signatures are the ones that other tools make and check."""
    pair = make_key_pair(tmp_path / "release")
    statement = VersionStatement(model="news", version="0" * 16, manifest_sha256="1" * 64)
    (tmp_path / "statement").write_bytes(statement.signed_bytes())
    signature = load_signer(f"file:{pair.private}").sign(statement.signed_bytes())
    (tmp_path / "signature").write_bytes(base64.b64decode(signature.value))
    public = subprocess.run(
        ["openssl", "pkey", "-in", pair.private, "-pubout"], capture_output=True, check=True, text=True
    ).stdout
    assert PublicKey.parse(public) == pair.key
    (tmp_path / "public.pem").write_text(public)
    assert PublicKey.parse(tmp_path / "public.pem") == pair.key
    command = "openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in statement -sigfile signature"
    answer = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


# Statements


@unhurried
@given(STATEMENTS, st.data())
def test_a_changed_byte_of_a_statement_is_refused(statement: VersionStatement, data: st.DataObject) -> None:
    signed = statement.signed_bytes()
    signature = SIGNER.sign(signed)
    assert holds(signature, signed)
    place = data.draw(st.integers(0, len(signed) - 1))
    mask = data.draw(st.integers(1, 255))
    assert not holds(signature, signed[:place] + bytes([signed[place] ^ mask]) + signed[place + 1 :])
    assert not holds(signature, signed[:place])
    assert not holds(signature, signed + b"\n")


@unhurried
@given(MOVES, st.data())
def test_a_changed_field_of_a_move_is_refused(move: Move, data: st.DataObject) -> None:
    signed = move.model_copy(update={"signature": SIGNER.sign(move.signed_bytes())})
    read = Move.from_json(signed.to_pretty_json(), where="here")
    assert holds(read.signature, read.signed_bytes())
    other = data.draw(MOVES)
    for name in Move.model_fields:
        if name not in {"format_version", "signature"} and getattr(other, name) != getattr(move, name):
            changed = read.model_copy(update={name: getattr(other, name)})
            assert not holds(changed.signature, changed.signed_bytes()), name


@unhurried
@given(STATEMENTS, st.data())
def test_a_changed_character_of_a_signature_is_refused(statement: VersionStatement, data: st.DataObject) -> None:
    """Also one that decodes to the same bytes: there is one spelling of each signature."""
    signed = statement.signed_bytes()
    signature = SIGNER.sign(signed)
    place = data.draw(st.integers(0, len(signature.value) - 1))
    character = data.draw(st.characters(exclude_characters=signature.value[place]))
    for value in (
        signature.value[:place] + character + signature.value[place + 1 :],
        signature.value[:place] + signature.value[place + 1 :],
        signature.value[:place] + character + signature.value[place:],
    ):
        assert not holds(signature.model_copy(update={"value": value}), signed) or value == signature.value


@unhurried
@given(STATEMENTS)
def test_the_second_form_of_a_signature_is_refused(statement: VersionStatement) -> None:
    """S + L in place of S, which RFC 8032 forbids in 5.1.7: else there were two signatures of each statement."""
    signature = SIGNER.sign(statement.signed_bytes())
    raw = base64.b64decode(signature.value)
    number = int.from_bytes(raw[32:], "little") + GROUP_ORDER
    second = base64.b64encode(raw[:32] + number.to_bytes(32, "little")).decode()
    assert not holds(signature.model_copy(update={"value": second}), statement.signed_bytes())


@unhurried
@given(MOVES, STATEMENTS)
def test_a_signature_of_one_kind_never_passes_for_the_other(move: Move, statement: VersionStatement) -> None:
    of_move, of_version = SIGNER.sign(move.signed_bytes()), SIGNER.sign(statement.signed_bytes())
    assert not holds(of_move, statement.signed_bytes())
    assert not holds(of_version, move.signed_bytes())
    # Not even of the same JSON.
    assert not holds(of_version, move.signed_bytes().partition(b"\n")[0] + b"\n" + statement.to_json())
    assert not holds(of_move, statement.signed_bytes().partition(b"\n")[0] + b"\n" + move.to_json())


@unhurried
@given(STATEMENTS, STATEMENTS)
def test_two_statements_never_share_their_bytes(one: VersionStatement, other: VersionStatement) -> None:
    assert (one == other) == (one.signed_bytes() == other.signed_bytes())


@unhurried
@given(STATEMENTS)
def test_records_of_signatures_keep_their_content(statement: VersionStatement) -> None:
    record = VersionSignature(statement=statement, signature=SIGNER.sign(statement.signed_bytes()))
    read = VersionSignature.from_json(record.to_pretty_json(), where="here")
    assert read == record
    assert holds(read.signature, read.statement.signed_bytes())


# Keyrings


def test_a_keyring_says_why_it_refuses() -> None:
    both = Keyring.of([str(SIGNER.public), str(OTHER.public)])
    assert both is not None
    for signer in (SIGNER, OTHER):
        both.check(signer.sign(b"data"), b"data", what="it", where="here")
    with pytest.raises(SignatureError, match="the thing is not signed"):
        KEYRING.check(None, b"data", what="the thing", where="here")
    with pytest.raises(SignatureError, match=f"signed by the key {OTHER.public.key_id}, which is not trusted"):
        KEYRING.check(OTHER.sign(b"data"), b"data", what="the thing", where="here")
    with pytest.raises(SignatureError, match="does not hold"):
        KEYRING.check(SIGNER.sign(b"data"), b"date", what="the thing", where="here")
    borrowed = OTHER.sign(b"data").model_copy(update={"key_id": SIGNER.public.key_id})
    with pytest.raises(SignatureError, match="does not hold"):
        KEYRING.check(borrowed, b"data", what="the thing", where="here")
    assert Keyring.of(None) is None
    assert Keyring.of([]) is None


def test_public_keys_as_people_give_them(tmp_path: Path) -> None:
    pair = make_key_pair(tmp_path / "release")
    raw = ed25519.Ed25519PublicKey.from_public_bytes(pair.key.raw)
    pem = raw.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for text in (str(pair.key), f" {pair.key}\n", pair.public, str(pair.public), pem):
        assert PublicKey.parse(text) == pair.key
    assert pair.public.read_text() == f"{pair.key}\n"


def test_what_is_no_public_key(tmp_path: Path) -> None:
    pair = make_key_pair(tmp_path / "release")
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "ec.pem").write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "empty").write_text("")
    os.mkfifo(tmp_path / "pipe")
    encoded = str(pair.key).removeprefix("ed25519:")
    not_canonical = encoded[:-2] + chr(ord(encoded[-2]) + 1) + "="
    for wrong, words in (
        ("ed25519:", "not an Ed25519 public key"),
        (f"ed25519:{encoded[:-4]}", "not an Ed25519 public key"),
        (f"ed25519:{not_canonical}", "not an Ed25519 public key"),
        ("ed25519:ключ", "not an Ed25519 public key"),
        (tmp_path / "ec.pem", "not an Ed25519 public key"),
        (tmp_path / "binary", "not an Ed25519 public key"),
        (tmp_path / "empty", "not an Ed25519 public key"),
        (tmp_path / "nothing", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "pipe", "cannot be read: a pipe or a device is there"),
        (pair.private, "this is a private key"),
        (pair.private.read_text(), "this is a private key"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            PublicKey.parse(wrong)
        assert_no_secret(pair, str(caught.value), repr(caught.value))


def test_public_keys_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_key_pair(tmp_path / "release")
    monkeypatch.delenv(PUBLIC_KEYS, raising=False)
    assert public_keys_from_environment() is None
    assert public_keys_from_environment({PUBLIC_KEYS: ""}) is None
    for text in (
        f"{SIGNER.public},{pair.public}",
        f"\n{SIGNER.public}\n{pair.public}\n",
        f"{SIGNER.public} , {pair.key}",
    ):
        monkeypatch.setenv(PUBLIC_KEYS, text)
        assert public_keys_from_environment() == Keyring((SIGNER.public, pair.key))
    for wrong in (" , ", "\n", f"{SIGNER.public},nowhere.pub"):  # a pin with a slip in it pins, it does not open
        with pytest.raises(UserError):
            public_keys_from_environment({PUBLIC_KEYS: wrong})


# Private keys


def secrets_of(pair: KeyPair) -> tuple[str, ...]:
    """A private key in all the forms that could show up somewhere: PEM body, raw and seed, in base64 and in hex."""
    pem = pair.private.read_text()
    body = "".join(line for line in pem.splitlines() if "-----" not in line)
    der = base64.b64decode(body)
    seed = der[-32:]
    return (body, body[-20:], base64.b64encode(seed).decode(), base64.urlsafe_b64encode(seed).decode(), seed.hex())


def assert_no_secret(pair: KeyPair, *texts: str) -> None:
    for text in texts:
        assert not [secret for secret in secrets_of(pair) if secret in text], "a private key was shown"


def test_a_new_pair_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)  # the worst case: the mode must not come from the umask
    try:
        pair = make_key_pair(tmp_path / "release")
    finally:
        os.umask(before)
    assert stat.S_IMODE(pair.private.stat().st_mode) == 0o600
    assert (pair.private.name, pair.public.name) == ("release.key", "release.pub")
    signer = load_signer(f"file:{pair.private}")
    assert signer.public == pair.key == PublicKey.parse(pair.public)
    assert make_key_pair(tmp_path / "v1.2").private.name == "v1.2.key"
    assert make_key_pair(tmp_path / "third.key").public.name == "third.pub"


@pytest.mark.parametrize("name", ["release.key", "release.pub"])
@pytest.mark.parametrize("link", [False, True])
def test_a_key_is_never_written_over(tmp_path: Path, name: str, link: bool) -> None:
    file = tmp_path / name
    if link:
        file.symlink_to(tmp_path / "elsewhere")
    else:
        file.write_text("kept")
    with pytest.raises(UserError, match="is there already"):
        make_key_pair(tmp_path / "release")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert link or file.read_text() == "kept"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot be written: No such file") as caught:
        make_key_pair(tmp_path / "no" / "release")
    assert caught.value.where == str(tmp_path / "no" / "release.key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o644, 0o700 | 0o001])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    pair = make_key_pair(tmp_path / "release")
    pair.private.chmod(mode)
    with pytest.raises(UserError, match="others may read this private key") as caught:
        load_signer(f"file:{pair.private}")
    assert f"{mode:04o}" in caught.value.message
    assert "chmod 600" in str(caught.value.hint)
    for sound in (0o600, 0o400):
        pair.private.chmod(sound)
        assert load_signer(f"file:{pair.private}").public == pair.key


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_mounted_key_of_another_owner_may_be_read_by_its_group(tmp_path: Path) -> None:
    pair = make_key_pair(tmp_path / "release")
    os.chown(pair.private, 12345, 0)
    pair.private.chmod(0o440)
    assert load_signer(f"file:{pair.private}").public == pair.key
    pair.private.chmod(0o444)
    with pytest.raises(UserError, match="others may read"):
        load_signer(f"file:{pair.private}")


def test_a_key_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_key_pair(tmp_path / "release")
    pem = pair.private.read_text()
    # Forms for passwords take line breaks out or make blanks of them, environment files have them as \n.
    for text in (pem, pem.replace("\n", ""), pem.replace("\n", " "), pem.replace("\n", "\\n"), f"\n{pem}\r\n"):
        monkeypatch.setenv("MY_KEY", text)
        assert load_signer("env:MY_KEY").public == pair.key
    assert "MY_KEY" in os.environ


@pytest.mark.parametrize("source", ["airflow:release_key", f"env:{SIGNING_KEY}"])
def test_the_key_of_the_operators_is_taken_out_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    pair = make_key_pair(tmp_path / "release")
    monkeypatch.setenv(SIGNING_KEY, pair.private.read_text())
    assert load_signer(source).public == pair.key
    assert SIGNING_KEY not in os.environ
    child = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    assert_no_secret(pair, child)
    with pytest.raises(UserError, match="there is no private key"):
        load_signer(source)


def test_the_key_of_the_operators_is_taken_out_even_when_it_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIGNING_KEY, "half a secret")
    with pytest.raises(UserError, match="not a private key") as caught:
        load_signer("airflow:release_key")
    assert SIGNING_KEY not in os.environ
    assert "half" not in str(caught.value)


def _pkcs8(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed448.Ed448PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


WRONG_KEYS: dict[str, tuple[Callable[[], bytes], str]] = {
    "rsa": (lambda: _pkcs8(rsa.generate_private_key(65537, 1024)), "another kind than Ed25519"),
    "ec": (lambda: _pkcs8(ec.generate_private_key(ec.SECP256R1())), "another kind than Ed25519"),
    "ed448": (lambda: _pkcs8(ed448.Ed448PrivateKey.generate()), "another kind than Ed25519"),
    "password": (
        lambda: ed25519.Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        ),
        "has a password",
    ),
    "openssh": (
        lambda: ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        "of OpenSSH",
    ),
    "public": (lambda: str(SIGNER.public).encode(), "this is a public key"),
    "cut": (lambda: pem_of_new()[:60], "not a private key"),
    "body cut": (lambda: b"-----BEGIN PRIVATE KEY-----\nMC4CAQA=\n-----END PRIVATE KEY-----", "not a private key"),
    "binary": (lambda: bytes(range(256)), "not a private key"),
    "empty": (lambda: b"", "not a private key"),
    "long": (lambda: b"x" * 100_000, "too long for a private key"),
}


def pem_of_new() -> bytes:
    return ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("wrong", WRONG_KEYS)
def test_what_is_no_private_key_is_one_error_that_does_not_quote_it(tmp_path: Path, wrong: str) -> None:
    make, words = WRONG_KEYS[wrong]
    content = make()
    file = tmp_path / "release.key"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(UserError, match=words) as caught:
        load_signer(f"file:{file}")
    assert caught.value.where == f"file:{file}"
    said = str(caught.value)
    lines = [line for line in content.decode("latin-1").split() if len(line) > 16 and "-----" not in line]
    assert not [line for line in lines if line in said]


@pytest.mark.parametrize(
    "source", ["", "release.key", "file:", "env:", "env:MY KEY", "env:1KEY", "ssh:agent", "env:NOT_SET", "airflow:x"]
)
def test_a_source_that_is_none(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SIGNING_KEY, raising=False)
    with pytest.raises(UserError) as caught:
        load_signer(source)
    assert caught.value.hint


def test_a_key_in_place_of_its_source_is_not_quoted(tmp_path: Path) -> None:
    """What people do: give the key itself where its place is asked for."""
    pair = make_key_pair(tmp_path / "release")
    pem = pair.private.read_text()
    (body,) = (line for line in pem.splitlines() if "-----" not in line)
    seed = base64.b64encode(base64.b64decode(body)[-32:]).decode()
    for source in (pem, body, seed, *(f"{kind}:{text}" for kind in ("file", "env") for text in (pem, body))):
        with pytest.raises(UserError) as caught:
            load_signer(source)
        assert_no_secret(pair, str(caught.value), repr(caught.value))
    with pytest.raises(UserError) as caught:
        load_signer(f"env:{seed}")
    assert_no_secret(pair, str(caught.value), repr(caught.value))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.key", mode=0o600)
    for path, words in (
        (tmp_path / "nothing.key", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "pipe.key", "a pipe or a device is there"),
        (Path("/dev/zero"), "a pipe or a device is there"),
    ):
        with pytest.raises(UserError, match=words):
            load_signer(f"file:{path}")


def test_a_signer_shows_nothing_and_does_not_travel(tmp_path: Path) -> None:
    pair = make_key_pair(tmp_path / "release")
    signer = load_signer(f"file:{pair.private}")
    assert_no_secret(pair, repr(signer), str(signer), repr(vars(signer)), f"{signer!r}", repr(pair))
    with pytest.raises(TypeError):
        pickle.dumps(signer)


def test_errors_travel_without_the_key(tmp_path: Path) -> None:
    """An error crosses from a step's process to its parent, pickled or as text."""
    pair = make_key_pair(tmp_path / "release")
    pem = pair.private.read_bytes()
    with pytest.raises(RetrainerError) as caught:
        signer_of_pem(pem.replace(b"PRIVATE KEY", b"PRIVATE KEX"), where="here")
    error = pickle.loads(pickle.dumps(caught.value))
    assert_no_secret(pair, str(error), repr(error), repr(caught.value.__context__), repr(caught.value.__cause__))
