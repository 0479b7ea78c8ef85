//! Layers of a base image that need not be sent, because they are in another image of the same repository.

use e2e::registry::PASSWORD;
use e2e::{Body, Client};

use crate::{Tool, digest, registry, text};

/// What is asked to be mounted, and not there.
const ABSENT: &[u8] = b"a layer that nobody has";

/// kaniko, crane, ko and jib: a token for both images, by GET, and `origin` if they think of another host.
#[test]
fn kaniko_mounts_layers_of_its_base() {
    let registry = registry();
    let base = b"a layer of kaniko's base";
    Tool::new(&registry.client(registry.first), "crane").push_image("team/base", "1", base);
    let scopes = "scope=repository%3Ateam%2Fkaniko%3Apush%2Cpull&scope=repository%3Ateam%2Fbase%3Apull";
    let nobody = Client::tls(registry.first, &registry.ca());
    let challenge = nobody.get("/v2/").expect(401).unwrap().header("WWW-Authenticate").unwrap().to_owned();
    let service = challenge.split_once("service=\"").unwrap().1.split('"').next().unwrap().replace(':', "%3A");
    let given = registry.client(registry.first).get(&format!("/v2/token?{scopes}&service={service}")).expect(200).unwrap().json();
    let tool =
        Tool::new(&nobody.with("Authorization", &format!("Bearer {}", text(&given["token"]))), "kaniko go-containerregistry/v0.20.2");
    for (layer, origin, status) in [(&base[..], "", 201), (base, "&origin=index.docker.io", 201), (ABSENT, "", 202)] {
        let digest = digest(layer);
        let mount = format!("/v2/team/kaniko/blobs/uploads/?from=team%2Fbase&mount={}{origin}", digest.replace(':', "%3A"));
        let answer = tool.ask(&format!("POST {mount} {status}"), &[("Content-Type", "application/json")], b"");
        if status == 202 {
            tool.stream(answer.header("Location").unwrap(), &digest, layer);
        }
        tool.ask(&format!("HEAD /v2/team/kaniko/blobs/{digest} 200"), &[], b"");
    }
}

/// buildkit and containerd: a token for both images, by POST.
#[test]
fn buildkit_mounts_layers_of_its_base() {
    let registry = registry();
    let base = b"a layer of buildkit's base";
    Tool::new(&registry.client(registry.first), "buildkit/v0.12").push_image("team/base", "2", base);
    let nobody = Client::tls(registry.first, &registry.ca());
    let form = format!(
        "client_id=buildkit-client&grant_type=password&password={PASSWORD}&scope=repository%3Ateam%2Fbase%3Apull+repository%3Ateam%2Fbuilt%3Apull%2Cpush\
         &service=localhost%3A{}&username=admin",
        registry.first
    );
    let form_type = [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")];
    let given = nobody.send("POST", "/v2/token", &form_type, Body::Bytes(form.as_bytes())).expect(200).unwrap().json();
    let tool = Tool::new(&nobody.with("Authorization", &format!("Bearer {}", text(&given["access_token"]))), "buildkit/v0.12");
    for (layer, status) in [(&base[..], 201), (ABSENT, 202)] {
        let digest = digest(layer);
        tool.ask(&format!("HEAD /v2/team/built/blobs/{digest} 404"), &[("Accept", "*/*")], b"");
        let answer = tool.ask(&format!("POST /v2/team/built/blobs/uploads/?mount={digest}&from=team/base {status}"), &[], b"");
        assert!(answer.header("Location").is_some());
        // A mount that became an upload may be given up.
        if status == 202 {
            tool.ask(&format!("DELETE {} 204", answer.header("Location").unwrap()), &[], b"");
        }
    }
}
