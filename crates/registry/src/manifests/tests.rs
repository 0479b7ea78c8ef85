//! Schema 1: signatures that somebody else can verify, a strict parser, and what is made of newer images.

use std::collections::BTreeMap;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::schema1::{SIGNED, Schema1, UNSIGNED, manifest_digest};
use super::signature::{Key, Signed, pretty};
use super::*;
use crate::hash::digest_of;

fn id(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

fn unsigned() -> Value {
    json!({
        "schemaVersion": 1, "name": "team/app", "tag": "1", "architecture": "amd64",
        "fsLayers": [{ "blobSum": Digest::sha256([1; 32]) }, { "blobSum": Digest::sha256([2; 32]) }, { "blobSum": Digest::sha256([1; 32]) }],
        "history": [
            { "v1Compatibility": format!(r#"{{"id":"{}","parent":"{}","created":"2015-01-01T00:00:00Z"}}"#, id(3), id(2)) },
            { "v1Compatibility": format!(r#"{{"id":"{}","parent":"{}"}}"#, id(2), id(1)) },
            { "v1Compatibility": format!(r#"{{"id":"{}"}}"#, id(1)) },
        ],
    })
}

fn signed(document: &Value) -> Vec<u8> {
    let key = Key::read(&Key::generate().unwrap()).unwrap();
    key.sign(&pretty(document).unwrap(), "2015-06-01T00:00:00Z").unwrap()
}

#[test]
fn what_is_signed_can_be_verified_by_somebody_else() {
    let bytes = signed(&unsigned());
    let document: Value = serde_json::from_slice(&bytes).unwrap();
    let signature = &document["signatures"][0];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let decode = |value: &Value| URL_SAFE_NO_PAD.decode(value.as_str().unwrap()).unwrap();
    let protected: Value = serde_json::from_slice(&decode(&signature["protected"])).unwrap();
    assert_eq!(protected["time"], "2015-06-01T00:00:00Z");
    let mut payload = bytes[..protected["formatLength"].as_u64().unwrap() as usize].to_vec();
    payload.extend(decode(&protected["formatTail"]));
    assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap(), unsigned());
    let message = format!("{}.{}", text(&signature["protected"]), URL_SAFE_NO_PAD.encode(&payload));
    let jwk = &signature["header"]["jwk"];
    let key = jsonwebtoken::DecodingKey::from_ec_components(jwk["x"].as_str().unwrap(), jwk["y"].as_str().unwrap()).unwrap();
    let verify = |message: &[u8]| {
        jsonwebtoken::crypto::verify(signature["signature"].as_str().unwrap(), message, &key, jsonwebtoken::Algorithm::ES256).unwrap()
    };
    assert!(verify(message.as_bytes()) && !verify(&message.as_bytes()[1..]));
    // What libtrust calls the key: the beginning of the hash of its X.509 form.
    let kid = text(&jwk["kid"]);
    assert_eq!((kid.len(), kid.split(':').count()), (59, 12));
}

#[test]
fn a_signed_manifest_is_read_and_its_digest_is_that_of_what_was_signed() {
    let bytes = signed(&unsigned());
    let document = Document::parse(None, &bytes).unwrap();
    assert_eq!((document.media_type.as_str(), document.needs.len()), (SIGNED, 2));
    let payload = pretty(&unsigned()).unwrap();
    assert_eq!(manifest_digest(Algorithm::Sha256, SIGNED, &bytes), digest_of(Algorithm::Sha256, &payload));
    // Without its signatures it is another kind of document with the same digest.
    assert_eq!(Document::parse(Some(UNSIGNED), &payload).unwrap().media_type, UNSIGNED);
    assert_eq!(manifest_digest(Algorithm::Sha256, UNSIGNED, &payload), digest_of(Algorithm::Sha256, &payload));
    // Whoever sends it as JSON, or as the other of the two, gets it taken for what it is.
    for sent_as in ["application/json; charset=utf-8", UNSIGNED, SIGNED] {
        assert_eq!(Document::parse(Some(sent_as), &bytes).unwrap().media_type, SIGNED);
    }
}

#[test]
fn signatures_of_every_kind_that_libtrust_makes_are_verified() {
    let payload = pretty(&unsigned()).unwrap();
    let front = payload.strip_suffix(b"\n}").unwrap();
    let protected = json!({ "formatLength": front.len(), "formatTail": URL_SAFE_NO_PAD.encode("\n}") }).to_string();
    let protected = URL_SAFE_NO_PAD.encode(protected);
    let message = format!("{protected}.{}", URL_SAFE_NO_PAD.encode(&payload));
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let curve = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    let (x, y) = curve.public_key().as_ref()[1..].split_at(48);
    let rsa = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let mut of_rsa = vec![0; rsa.public_modulus_len()];
    rsa.sign(&aws_lc_rs::signature::RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut of_rsa).unwrap();
    let public = rsa.public_key();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let of_curve = curve.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    let signatures = json!([
        { "header": { "alg": "ES384", "jwk": { "kty": "EC", "crv": "P-384", "x": encode(x), "y": encode(y) } },
          "signature": encode(of_curve.as_ref()), "protected": protected },
        { "header": { "alg": "RS256", "jwk": { "kty": "RSA", "n": encode(public.modulus().big_endian_without_leading_zero()),
                                              "e": encode(public.exponent().big_endian_without_leading_zero()) } },
          "signature": encode(&of_rsa), "protected": protected },
    ]);
    let document = [front, b", \"signatures\": ", signatures.to_string().as_bytes(), b"}"].concat();
    assert_eq!(Schema1::parse(&document).unwrap().1, SIGNED);
    let forged = String::from_utf8(document).unwrap().replace(&encode(&of_rsa), &encode(&vec![1; of_rsa.len()]));
    assert_eq!(Schema1::parse(forged.as_bytes()).unwrap_err(), "a signature does not fit the document");
}

/// The JSON of a V1 image.
fn chained(number: u8, parent: Option<u8>) -> String {
    match parent {
        Some(parent) => format!(r#"{{"id":"{}","parent":"{}"}}"#, id(number), id(parent)),
        None => format!(r#"{{"id":"{}"}}"#, id(number)),
    }
}

#[test]
fn what_is_not_as_it_was_signed_or_makes_no_sense_is_refused() {
    let text = String::from_utf8(signed(&unsigned())).unwrap();
    let other = String::from_utf8(signed(&unsigned())).unwrap();
    let signatures = |text: &str| text[text.find("\"signatures\"").unwrap()..].to_owned();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut document = unsigned();
        change(&mut document);
        String::from_utf8(signed(&document)).unwrap()
    };
    let elsewhere = with(&|document| document["tag"] = json!("2"));
    let mut many = unsigned();
    many["fsLayers"] = (0..1025).map(|_| json!({ "blobSum": Digest::sha256([1; 32]) })).collect();
    many["history"] = (0..1025).map(|_| json!({ "v1Compatibility": format!(r#"{{"id":"{}"}}"#, id(1)) })).collect();
    for (document, why) in [
        (text.replace("team/app", "team/apq"), "does not fit the document"),
        (text.replace("amd64", "arm64"), "does not fit the document"),
        (text.replace(&signatures(&text), &signatures(&elsewhere)), "does not fit the document"),
        // What follows the signed part must not say anything else.
        (text.replacen('{', r#"{"name":"x","#, 1), "duplicate field"),
        (text.replacen("\"signatures\"", "\"name\":\"x\",\"signatures\"", 1), "duplicate field"),
        (text.replacen("\"signatures\"", "\"FSLayers\":[],\"signatures\"", 1), "more than its signatures"),
        (with(&|document| document["history"][2] = json!({ "v1Compatibility": chained(1, Some(9)) })), "last entry has a parent"),
        (
            with(&|document| {
                document["history"] = [(1, Some(2)), (2, Some(1)), (1, None)]
                    .map(|(number, parent)| json!({ "v1Compatibility": chained(number, parent) }))
                    .into_iter()
                    .collect();
            }),
            "in it twice",
        ),
        (text.replace(r#""alg": "ES256""#, r#""alg": "none""#), "of another kind"),
        (text.replace("\"jwk\"", "\"jku\""), "its key"),
        (text.replace("\"protected\": \"", "\"protected\": \"!"), "protected header"),
        (text[..text.find("\"signatures\"").unwrap()].to_owned() + "\"signatures\":[]}", "no signatures"),
        (text[..text.find("\"signatures\"").unwrap()].to_owned() + "\"signatures\":7}", "can't be read"),
        (with(&|document| document["fsLayers"] = json!([])), "of one length"),
        (with(&|document| drop(document["history"].as_array_mut().unwrap().pop())), "of one length"),
        (with(&|document| document["history"][1]["v1Compatibility"] = json!("{}")), "no V1 image's JSON"),
        (with(&|document| document["history"][1] = document["history"][2].clone()), "no chain"),
        (with(&|document| document["fsLayers"][0]["blobSum"] = json!("tarsum.v1+sha256:00")), "digest"),
        (with(&|document| document["layers"] = json!([])), "later schemas"),
        (with(&|document| document["mediaType"] = json!(SIGNED)), "another media type"),
        (with(&|document| document["signatures"] = json!([])), "duplicate field"),
        (String::from_utf8(signed(&many)).unwrap(), "1024 layers"),
    ] {
        match Document::parse(None, document.as_bytes()) {
            Err(Error::ManifestInvalid(said)) => assert!(said.contains(why), "{said}, not {why}"),
            read => panic!("{why}: {read:?}"),
        }
    }
    assert!(Document::parse(None, other.as_bytes()).is_ok());
    let unsigned = unsigned().to_string();
    for media_type in [SIGNED, "application/vnd.docker.distribution.manifest.v2+json"] {
        assert!(Document::parse(Some(media_type), unsigned.as_bytes()).is_err());
    }
}

#[test]
fn a_v1_image_may_stand_twice_in_a_row_as_old_dockers_pushed_it() {
    let mut document = unsigned();
    document["history"][1] = document["history"][0].clone();
    document["history"][2] = json!({ "v1Compatibility": format!(r#"{{"id":"{}"}}"#, id(2)) });
    assert!(Document::parse(None, &signed(&document)).is_ok());
}

fn made(config: &Value, layers: &[u8]) -> std::result::Result<Value, &'static str> {
    let layers: Vec<Digest> = layers.iter().map(|number| Digest::sha256([*number; 32])).collect();
    let payload = as_schema1::document("team/app", "1", config.to_string().as_bytes(), &layers)?;
    assert!(Document::parse(None, &payload).is_ok(), "what is made here can be pushed here");
    Ok(serde_json::from_slice(&payload).unwrap())
}

#[test]
fn a_config_becomes_a_chain_of_v1_images_top_first() {
    let config = json!({
        "architecture": "arm64", "os": "linux", "created": "2020-01-02T03:04:05Z", "config": { "Cmd": ["sh"] }, "unknown": [1],
        "rootfs": { "type": "layers", "diff_ids": [Digest::sha256([8; 32]), Digest::sha256([9; 32])] },
        "history": [
            { "created": "2020-01-01T00:00:00.5Z", "created_by": "ADD x", "author": "A", "comment": "c" },
            { "created": "yesterday", "created_by": "ENV a=b", "empty_layer": true },
            { "created": "2020-01-02T03:04:05Z", "created_by": "RUN y" },
        ],
    });
    let hash = |text: String| digest_of(Algorithm::Sha256, text.as_bytes()).hex();
    let (one, two, empty) = (Digest::sha256([1; 32]), Digest::sha256([2; 32]), empty_layer::digest());
    let root = hash(format!("{} ", one.hex()));
    let middle = hash(format!("{} {root}", empty.hex()));
    let top = hash(format!("{} {middle} {config}", two.hex()));
    let manifest = made(&config, &[1, 2]).unwrap();
    assert_eq!(manifest["fsLayers"], json!([{ "blobSum": two }, { "blobSum": empty }, { "blobSum": one }]));
    assert_eq!((&manifest["architecture"], &manifest["name"], &manifest["tag"]), (&json!("arm64"), &json!("team/app"), &json!("1")));
    let texts = [0, 1, 2].map(|at| manifest["history"][at]["v1Compatibility"].as_str().unwrap().to_owned());
    let read = texts.each_ref().map(|text| serde_json::from_str::<Value>(text).unwrap());
    assert_eq!(
        read[0],
        json!({ "architecture": "arm64", "os": "linux", "created": "2020-01-02T03:04:05Z", "config": { "Cmd": ["sh"] }, "unknown": [1],
                "id": top, "parent": middle })
    );
    assert_eq!(
        texts[1],
        format!(
            r#"{{"id":"{middle}","parent":"{root}","created":"0001-01-01T00:00:00Z","container_config":{{"Cmd":["ENV a=b"]}},"throwaway":true}}"#
        )
    );
    assert_eq!(
        texts[2],
        format!(
            r#"{{"id":"{root}","comment":"c","created":"2020-01-01T00:00:00.5Z","container_config":{{"Cmd":["ADD x"]}},"author":"A"}}"#
        )
    );
}

#[test]
fn an_id_stands_for_one_layer_and_one_chain_whatever_a_config_claims() {
    let config = |claimed: u8, parent: &str| {
        json!({ "os": "linux", parent: "f".repeat(64), "history": [{}, { "empty_layer": true }, {}],
            "rootfs": { "diff_ids": [Digest::sha256([claimed; 32]), Digest::sha256([9; 32])] } })
    };
    // Ids and what they stand for, top first.
    let images = |config: &Value, layers: &[u8]| -> Vec<(String, Value, Value)> {
        let manifest = made(config, layers).unwrap();
        let read = |at: usize| -> Value { serde_json::from_str(manifest["history"][at]["v1Compatibility"].as_str().unwrap()).unwrap() };
        let image = |at: usize| (read(at)["id"].as_str().unwrap().to_owned(), manifest["fsLayers"][at].clone(), read(at)["parent"].clone());
        (0..3).map(image).collect()
    };
    let mut known = BTreeMap::new();
    for (config, layers) in [
        (config(8, "x"), [1, 2]),
        (config(8, "x"), [1, 3]),
        (config(8, "x"), [3, 2]),
        (config(8, "x"), [2, 1]),
        (config(7, "x"), [1, 2]),
        (config(8, "parent"), [1, 2]),
    ] {
        for (id, layer, below) in images(&config, &layers) {
            let (first_layer, first_below) = known.entry(id.clone()).or_insert((layer.clone(), below.clone()));
            assert_eq!((&*first_layer, &*first_below), (&layer, &below), "{id}");
        }
    }
    // The two below the top that begin with the same layer are one each; all tops differ.
    assert_eq!(known.len(), 3 * 2 + 6);
    let manifest = made(&config(8, "parent"), &[1, 2]).unwrap();
    assert!(!manifest.to_string().contains(&"f".repeat(64)), "a config can't say what its image stands on");
    assert_eq!(made(&config(8, "PARENT"), &[1, 2]), Err("its config can't be read"), "nor in another case, which docker reads too");
}

#[test]
fn a_config_that_does_not_fit_its_layers_makes_no_manifest() {
    let diff_ids = json!([Digest::sha256([8; 32])]);
    let bare = json!({ "created": "2020-01-02T03:04:05Z", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let manifest = made(&bare, &[1]).unwrap();
    assert_eq!((manifest["history"].as_array().unwrap().len(), &manifest["architecture"]), (1, &json!("amd64")));
    assert_eq!(made(&bare, &[1, 2]), Err("its config is of other layers than its manifest"));
    let too_long: Vec<Value> = (0..1025).map(|_| json!({ "empty_layer": true })).collect();
    for (config, layers) in [
        (json!({}), &[1][..]),
        (json!([]), &[1]),
        (json!({ "rootfs": null }), &[]),
        (json!({ "rootfs": { "diff_ids": [] } }), &[1]),
        (json!({ "rootfs": { "diff_ids": diff_ids }, "history": [{}, {}] }), &[1]),
        (json!({ "rootfs": { "diff_ids": diff_ids }, "history": [{ "empty_layer": true }] }), &[1]),
        (json!({ "rootfs": { "diff_ids": [] }, "history": too_long }), &[]),
    ] {
        assert!(made(&config, layers).is_err(), "{config}");
    }
}

proptest! {
    #[test]
    fn any_config_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), empty in prop::collection::vec(any::<bool>(), 0..8), text in "\\PC{0,30}") {
        let _ = as_schema1::document("a", "1", &bytes, &[]);
        let layers: Vec<u8> = (0..empty.iter().filter(|empty| !**empty).count() as u8).collect();
        let diff_ids: Vec<Digest> = layers.iter().map(|number| Digest::sha256([*number; 32])).collect();
        let history: Vec<Value> = empty.iter().map(|empty| json!({ "created_by": text, "comment": text, "empty_layer": empty })).collect();
        let config = json!({ "author": text, "rootfs": { "diff_ids": diff_ids }, "history": history });
        // Every image, also one without layers, can be made one that this registry's own parser takes.
        prop_assert!(made(&config, &layers).is_ok());
    }

    #[test]
    fn any_document_can_be_signed_and_comes_back(text in "\\PC{0,40}", number in any::<u32>()) {
        let document = json!({ "a": text, "b": { "c": [number] } });
        let bytes = signed(&document);
        let read = Signed::read(&bytes).unwrap();
        prop_assert!(read.verify().is_ok());
        prop_assert_eq!(serde_json::from_slice::<Value>(&read.payload).unwrap(), document);
    }

    #[test]
    fn a_signed_manifest_with_one_byte_changed_is_refused_or_says_the_same(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let bytes = signed(&unsigned());
        let mut changed = bytes.clone();
        changed[at.index(bytes.len())] = byte;
        if let Ok((manifest, media_type)) = Schema1::parse(&changed) {
            // Only in what is not signed: names of unknown fields of a signature, white space, the key's name.
            prop_assert_eq!(manifest, Schema1::parse(&bytes).unwrap().0);
            if media_type == SIGNED {
                prop_assert_eq!(Signed::read(&changed).unwrap().payload, Signed::read(&bytes).unwrap().payload);
            }
        }
    }

    #[test]
    fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), protected in "\\PC{0,60}", length in any::<u64>()) {
        let _ = Schema1::parse(&bytes);
        let _ = Signed::read(&bytes);
        for protected in [URL_SAFE_NO_PAD.encode(&protected), URL_SAFE_NO_PAD.encode(json!({ "formatLength": length, "formatTail": protected }).to_string())] {
            let signature = json!({ "header": { "alg": "ES256", "jwk": { "kty": "EC", "crv": "P-256", "x": "", "y": protected } }, "signature": "", "protected": protected });
            if let Ok(read) = Signed::read(json!({ "signatures": [signature] }).to_string().as_bytes()) {
                prop_assert!(read.verify().is_err());
            }
        }
    }
}
