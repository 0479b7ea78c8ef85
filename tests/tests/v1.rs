//! Docker V1 through the gateway, as docker 1.5, 1.9 and 1.12 speak it.

use std::process::Command;

use e2e::image::Layer;
use e2e::v1::{Docker, Image, Pushed, Version, chain};
use e2e::{Body, Registry};

fn layers() -> Vec<Layer> {
    vec![
        Layer::of_package("busybox-static"),
        Layer::of_package("coreutils"),
        Layer::new(Vec::new()),
        Layer::of_oddities("gnu"),
        Layer::of_oddities("pax"),
    ]
}

fn assert_same(chain: &[Image], pulled: &[(String, String, Vec<u8>)]) {
    assert_eq!(chain.len(), pulled.len());
    for (pushed, (id, json, layer)) in chain.iter().zip(pulled) {
        assert_eq!((&pushed.id, &pushed.json), (id, json));
        assert!(pushed.layer.packed == *layer, "the layer of {id} came back changed");
    }
}

#[test]
fn docker_1_5_1_9_and_1_12_push_and_pull_and_the_second_push_skips() {
    let registry = Registry::start();
    let layers = layers();
    for version in [Version::V1_5, Version::V1_9, Version::V1_12] {
        let docker = Docker::new(version, registry.client(registry.v1), registry.v1);
        docker.login().unwrap();
        let chain = chain(version, &layers, &format!("{version:?}"));
        let image = format!("jfrog/ubuntu-{version:?}").to_lowercase().replace("-v", "-");
        assert_eq!(docker.push(&image, "12.04", &chain).unwrap(), Pushed { uploaded: chain.len(), skipped: 0 });
        assert_eq!(docker.push(&image, "12.04", &chain).unwrap(), Pushed { uploaded: 0, skipped: chain.len() });
        assert_same(&chain, &docker.pull(&image, "12.04").unwrap());
    }
    // A name without a namespace is the same in both spellings.
    let docker = Docker::new(Version::V1_9, registry.client(registry.v1), registry.v1);
    let short = chain(Version::V1_9, &layers[..2], "short");
    docker.push("foo", "latest", &short).unwrap();
    assert_same(&short, &docker.pull("foo", "latest").unwrap());
    assert_same(&short, &docker.pull("library/foo", "latest").unwrap());
}

#[test]
fn each_checksum_alone_completes_an_image_and_a_wrong_one_lets_it_be_sent_again() {
    let registry = Registry::start();
    let client = registry.client(registry.v1);
    for (image, sum) in chain(Version::V1_9, &layers(), "sums").iter().flat_map(|image| [(image, "payload"), (image, "tarsum")]) {
        // Every round another id, so that each checksum has an image of its own to complete.
        let id = e2e::sha256(format!("{}{sum}", image.id).as_bytes());
        let image = Image { json: format!("{{\"id\":\"{id}\"}}"), id, layer: image.layer.clone() };
        let path = |what: &str| format!("/v1/images/{}/{what}", image.id);
        client.send("PUT", &path("json"), &[], Body::Bytes(image.json.as_bytes())).expect(200).unwrap();
        client.send("PUT", &path("layer"), &[], Body::Chunked(&mut &b"broken"[..])).expect(200).unwrap();
        let (name, value) = match sum {
            "payload" => ("X-Docker-Checksum-Payload", image.payload_checksum()),
            _ => ("X-Docker-Checksum", image.tarsum()),
        };
        let wrong = client.send("PUT", &path("checksum"), &[(name, &value)], Body::None);
        assert_eq!((wrong.status, wrong.text().as_str()), (400, r#"{"error":"Checksum mismatch"}"#));
        client.send("PUT", &path("layer"), &[], Body::Chunked(&mut image.layer.packed.as_slice())).expect(200).unwrap();
        client.send("PUT", &path("checksum"), &[(name, &value)], Body::None).expect(200).unwrap();
        let again = client.send("PUT", &path("json"), &[], Body::Bytes(image.json.as_bytes()));
        assert_eq!((again.status, again.text().as_str()), (409, r#"{"error":"Image already exists"}"#));
    }
}

#[test]
fn two_dockers_that_push_one_chain_at_once_both_succeed() {
    let registry = Registry::start();
    let chain = chain(Version::V1_9, &layers(), "race");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| Docker::new(Version::V1_9, registry.client(registry.v1), registry.v1).push("a/race", "1", &chain).unwrap());
        }
    });
    let docker = Docker::new(Version::V1_5, registry.client(registry.v1), registry.v1);
    assert_same(&chain, &docker.pull("a/race", "1").unwrap());
}

#[test]
fn a_python_client_of_the_time_reads_what_docker_pushed() {
    let registry = Registry::start();
    let docker = Docker::new(Version::V1_9, registry.client(registry.v1), registry.v1);
    let chain = chain(Version::V1_9, &layers()[..2], "python");
    docker.push("jfrog/ubuntu", "12.04", &chain).unwrap();
    let python = std::env::var("BERTH_TEST_PYTHON")
        .expect("BERTH_TEST_PYTHON is the python that has docker-registry-client 0.5.2; `make test` sets it");
    let script = std::env::var("CARGO_MANIFEST_DIR").unwrap() + "/clients/v1_read.py";
    let read = Command::new(python)
        .args([&script, &format!("https://localhost:{}", registry.v1), &e2e::registry::PASSWORD.to_owned()])
        .env("REQUESTS_CA_BUNDLE", registry.ca())
        .output()
        .unwrap();
    let printed = e2e::engine::finished(&["v1_read.py"], read);
    assert_eq!(printed.trim(), format!("jfrog/ubuntu 12.04 {}", chain[1].id));
}
