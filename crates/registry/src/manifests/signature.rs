//! Signatures as docker's libtrust writes them into a document: JWS whose payload is the document without them.
//!
//! The payload is the document up to `formatLength`, and then `formatTail`; both stand in each signature's protected header
//! (protocol reference §6.5). Any key may have signed: what a signature proves is that its payload is what was signed.

use std::collections::BTreeMap;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaKeyPair,
    EcdsaVerificationAlgorithm, KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::ser::{PrettyFormatter, Serializer};
use sha2::{Digest as _, Sha256};

use crate::json::{check_names, shapes};

/// The most signatures that are looked at.
const SIGNATURES_MAX: usize = 16;

/// How deep docker indents.
const INDENT: &str = "   ";

/// What stands in front of a point of P-256 in an X.509 public key.
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01,
    0x07, 0x03, 0x42, 0x00,
];

/// Bytes of SHA-256 that libtrust calls a key by.
const KEY_ID_BYTES: usize = 30;

/// A document with its signatures.
pub(super) struct Signed {
    /// The document without them.
    pub(super) payload: Vec<u8>,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Outer {
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    header: Header,
    signature: String,
    protected: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    jwk: Option<Jwk>,
}

/// A public key: of a curve (`crv`, `x`, `y`) or RSA (`n`, `e`).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Format {
    format_length: usize,
    format_tail: String,
}

impl Signed {
    /// Takes a signed document apart. Nothing is verified yet.
    pub(super) fn read(document: &[u8]) -> Result<Self, &'static str> {
        let Outer { signatures } = serde_json::from_slice(document).map_err(|_| "its signatures can't be read")?;
        if signatures.is_empty() || signatures.len() > SIGNATURES_MAX {
            return Err("it has no signatures, or too many");
        }
        let formats: Option<Vec<Format>> =
            signatures.iter().map(|signature| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&signature.protected).ok()?).ok()).collect();
        let formats = formats.ok_or("a signature's protected header can't be read")?;
        let Some(format) = formats.first().filter(|first| formats.iter().all(|format| format == *first)) else {
            return Err("its signatures are of different documents");
        };
        let front = document.get(..format.format_length).ok_or("a signature's formatLength is beyond the end")?;
        let tail = URL_SAFE_NO_PAD.decode(&format.format_tail).map_err(|_| "a signature's formatTail can't be read")?;
        let behind = document.get(format.format_length..).unwrap_or_default();
        if !is_signatures_alone(behind) {
            return Err("it says more than its signatures behind what was signed");
        }
        Ok(Self { payload: [front, &tail].concat(), signatures })
    }

    /// Verifies every signature with the key that it names, and that everybody finds the same signed document.
    pub(super) fn verify(&self) -> Result<(), &'static str> {
        let payload = URL_SAFE_NO_PAD.encode(&self.payload);
        self.signatures.iter().try_for_each(|one| {
            let protected = URL_SAFE_NO_PAD.decode(&one.protected).unwrap_or_default();
            check_names(&protected, &shapes::PROTECTED).map_err(|_| "a signature's protected header can be read in two ways")?;
            one.verify(&payload)
        })
    }
}

impl Signature {
    fn verify(&self, payload: &str) -> Result<(), &'static str> {
        let jwk = self.header.jwk.as_ref().ok_or("a signature does not have its key with it, as jwk")?;
        let message = format!("{}.{payload}", self.protected);
        let signature = URL_SAFE_NO_PAD.decode(&self.signature).map_err(|_| "a signature can't be read")?;
        let bytes = |text: &Option<String>| text.as_ref().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).ok_or("a key can't be read");
        let curve: (&EcdsaVerificationAlgorithm, usize) = match (jwk.kty.as_str(), jwk.crv.as_deref(), self.header.alg.as_str()) {
            ("EC", Some("P-256"), "ES256") => (&ECDSA_P256_SHA256_FIXED, 32),
            ("EC", Some("P-384"), "ES384") => (&ECDSA_P384_SHA384_FIXED, 48),
            ("EC", Some("P-521"), "ES512") => (&ECDSA_P521_SHA512_FIXED, 66),
            ("RSA", _, "RS256") => {
                let (n, e) = (bytes(&jwk.n)?, bytes(&jwk.e)?);
                let key = RsaPublicKeyComponents { n: without_zeros(&n), e: without_zeros(&e) };
                let verified = key.verify(&RSA_PKCS1_2048_8192_SHA256, message.as_bytes(), &signature);
                return verified.map_err(|_| "a signature does not fit the document");
            }
            _ => return Err("a signature is of another kind than ES256, ES384, ES512 and RS256"),
        };
        let (algorithm, size) = curve;
        let point = [vec![4], padded(&bytes(&jwk.x)?, size)?, padded(&bytes(&jwk.y)?, size)?].concat();
        let verified = UnparsedPublicKey::new(algorithm, &point).verify(message.as_bytes(), &signature);
        verified.map_err(|_| "a signature does not fit the document")
    }
}

/// Whether text behind what was signed adds nothing to the document but its signatures. Nobody has signed it, and clients that
/// match names more loosely than we do could read something else in it.
fn is_signatures_alone(behind: &[u8]) -> bool {
    let Some(members) = behind.trim_ascii_start().strip_prefix(b",") else { return false };
    let added: Result<BTreeMap<String, IgnoredAny>, _> = serde_json::from_slice(&[b"{", members].concat());
    added.is_ok_and(|added| added.len() == 1 && added.contains_key("signatures"))
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// A coordinate at its full length.
fn padded(number: &[u8], size: usize) -> Result<Vec<u8>, &'static str> {
    let missing = size.checked_sub(number.len()).ok_or("a key can't be read")?;
    Ok([vec![0; missing], number.to_vec()].concat())
}

#[derive(Serialize)]
struct NewSignature<'a> {
    header: NewHeader<'a>,
    signature: String,
    protected: String,
}

#[derive(Serialize)]
struct NewHeader<'a> {
    jwk: NewJwk<'a>,
    alg: &'a str,
}

#[derive(Serialize)]
struct NewJwk<'a> {
    crv: &'a str,
    kid: String,
    kty: &'a str,
    x: String,
    y: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Protected<'a> {
    format_length: usize,
    format_tail: String,
    time: &'a str,
}

/// A key that documents are signed with: ECDSA on P-256.
pub(super) struct Key(EcdsaKeyPair);

impl Key {
    /// A new key, as PKCS #8.
    pub(super) fn generate() -> Option<Vec<u8>> {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        made.ok().map(|document| document.as_ref().to_vec())
    }

    /// The key that [`Key::generate`] made.
    pub(super) fn read(pkcs8: &[u8]) -> Option<Self> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).ok().map(Self)
    }

    /// Signs a document that ends with a line of its own for the closing brace, as of `time` (RFC 3339).
    ///
    /// Only the signature's own 86 letters differ from one time to the next: ECDSA takes a random number.
    pub(super) fn sign(&self, payload: &[u8], time: &str) -> Option<Vec<u8>> {
        let front = payload.strip_suffix(b"\n}")?;
        let protected = Protected { format_length: front.len(), format_tail: URL_SAFE_NO_PAD.encode("\n}"), time };
        let protected = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&protected).ok()?);
        let message = format!("{protected}.{}", URL_SAFE_NO_PAD.encode(payload));
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).ok()?;
        let point = self.0.public_key().as_ref();
        let (x, y) = point.get(1..)?.split_at_checked(32)?;
        let jwk = NewJwk { crv: "P-256", kid: key_id(point), kty: "EC", x: URL_SAFE_NO_PAD.encode(x), y: URL_SAFE_NO_PAD.encode(y) };
        let header = NewHeader { jwk, alg: "ES256" };
        let signature = NewSignature { header, signature: URL_SAFE_NO_PAD.encode(signature.as_ref()), protected };
        let signatures = String::from_utf8(pretty(&[signature])?).ok()?;
        // Text in JSON has no line ends of its own.
        let signatures = signatures.replace('\n', &format!("\n{INDENT}"));
        Some([front, b",\n", INDENT.as_bytes(), b"\"signatures\": ", signatures.as_bytes(), b"\n}"].concat())
    }
}

/// JSON as docker lays it out.
pub(super) fn pretty(value: &impl Serialize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(INDENT.as_bytes()))).ok()?;
    Some(bytes)
}

/// What libtrust calls a key: the beginning of its hash in base 32, in groups of four.
fn key_id(point: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let hash = Sha256::digest([&P256_SPKI, point].concat());
    let mut id = String::new();
    for five in hash[..KEY_ID_BYTES].chunks_exact(5) {
        let bits = five.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        for at in 0..8 {
            if at % 4 == 0 && !id.is_empty() {
                id.push(':');
            }
            id.push(LETTERS[(bits >> (35 - 5 * at) & 31) as usize] as char);
        }
    }
    id
}
