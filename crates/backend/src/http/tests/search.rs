//! Search through the front door.

use serde_json::{Value, json};

use super::life::id;
use super::*;

const STORAGE: &str = "https://r.example:444/artifactory/api/storage";

/// Where the results are, behind `api/storage/`.
fn places(answer: &Value) -> Vec<String> {
    let uri = |result: &Value| result["uri"].as_str().unwrap().strip_prefix(STORAGE).unwrap()[1..].to_owned();
    answer["results"].as_array().unwrap().iter().map(uri).collect()
}

impl Backend {
    async fn find(&self, query: &str) -> Vec<String> {
        let found = self.get(&format!("/artifactory/api/search/{query}")).await;
        assert_eq!(found.status, 200, "{query}: {}", found.text());
        places(&found.json())
    }

    async fn say(&self, place: &str, properties: &str) {
        let put = self.send("PUT", &format!("/api/storage/{place}?properties={properties}"), &[], b"").await;
        assert_eq!(put.status, 204, "{}", put.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn things_are_found_by_what_is_said_about_them() {
    let backend = Backend::start().await;
    backend.push_v1_chain().await;
    for (image, tag) in [("team/app", "1"), ("team/app", "2"), ("team/web", "1"), ("library/ubuntu", "1")] {
        backend.push_image("docker-v2", image, tag).await;
    }
    backend.push_image("docker-open", "team/app", "1").await;
    let tag = |repository: &str, image: &str, tag: &str| format!("{repository}/{image}/{tag}/manifest.json");
    // The vendor's own example.
    assert_eq!(backend.find("prop?docker.repoName=library/busybox&repos=docker-v1").await, ["docker-v1/repositories/library/busybox"]);
    assert_eq!(
        backend.find("prop?docker.repoName=library/*").await,
        ["docker-v1/repositories/library/busybox".to_owned(), tag("docker-v2", "library/ubuntu", "1")]
    );
    assert_eq!(backend.find(&format!("prop?docker.imageId={}", id('2'))).await, [format!("docker-v1/.images/22/{}", id('2'))]);
    assert_eq!(
        backend.find(&format!("prop?docker.tag.content={}", id('1'))).await,
        ["docker-v1/repositories/library/busybox/latest/tag.json"]
    );
    // AND, lists, wildcards, repositories.
    assert_eq!(
        backend.find("prop?docker.repoName=team/app&docker.manifest=1").await,
        [tag("docker-open", "team/app", "1"), tag("docker-v2", "team/app", "1")]
    );
    assert_eq!(
        backend.find("prop?docker.repoName=team/app&docker.manifest=1,2&repos=docker-v2").await,
        [tag("docker-v2", "team/app", "1"), tag("docker-v2", "team/app", "2")]
    );
    assert_eq!(
        backend.find("prop?docker.repoName=team/w?b,team/a*&docker.manifest=&repos=docker-v2,docker-v1,nowhere").await,
        [tag("docker-v2", "team/web", "1"), tag("docker-v2", "team/app", "1"), tag("docker-v2", "team/app", "2")]
    );
    assert_eq!(backend.find("prop?docker.repoName=team/app&docker.manifest=3").await, Vec::<String>::new());
    assert_eq!(backend.find("prop?docker.repoName=team").await, Vec::<String>::new());
    // What fits in several ways is found once.
    backend.say("docker-v2/team/app/1", "qa=done,dusted").await;
    backend.say("docker-v2/team/web/1", "qa=dusted").await;
    let both = [tag("docker-v2", "team/app", "1"), tag("docker-v2", "team/web", "1")];
    for query in ["prop?qa=d*", "prop?qa=done,dusted", "prop?qa=*&docker.manifest=1", "prop?qa=d*,dusted,*e*", "prop?qa="] {
        assert_eq!(backend.find(query).await, both, "{query}");
    }
    // What is no longer said, or no longer there, is no longer found.
    assert_eq!(backend.send("DELETE", "/api/storage/docker-v2/team/app/1?properties=qa", &[], b"").await.status, 204);
    assert_eq!(backend.send("DELETE", "@docker-v2/v2/team/web/manifests/1", &[], b"").await.status, 202);
    assert_eq!(backend.find("prop?qa=d*").await, Vec::<String>::new());
    for (query, status) in [
        ("prop", 404),
        ("prop?repos=docker-v2", 400),
        ("prop?qa=*", 400),
        ("prop?qa=*,??&x=*", 400),
        ("prop?qa=1&repos=-x", 400),
        ("prop?qa=1&limit=0", 400),
        ("prop?qa=1&from=AAAA", 400),
        ("prop?qa=a%5C", 400),
        // What the index itself puts between names and values.
        ("prop?qa=%00", 400),
        ("prop?qa=a%00*", 400),
        ("prop?qa%00a=1", 400),
        ("artifact?name=a%00", 400),
        ("artifact", 400),
        ("artifact?name=*", 400),
    ] {
        assert_eq!(backend.get(&format!("/api/search/{query}")).await.status, status, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_say_more_if_the_client_asks_and_come_in_pages() {
    let backend = Backend::start().await;
    for n in 0..7 {
        backend.push_image("docker-v2", "team/app", &format!("t{n}")).await;
    }
    let headers = [("X-Result-Detail", "info, properties")];
    let found = backend.send("GET", "/api/search/prop?docker.manifest=t3", &headers, b"").await.json();
    let result = &found["results"][0];
    assert_eq!((&result["properties"]["docker.manifest"], &result["mimeType"]), (&json!(["t3"]), &json!(MANIFEST)));
    assert_eq!(result["path"], json!("/team/app/t3/manifest.json"));
    let (mut all, mut from) = (Vec::new(), String::new());
    for expected in [3, 3, 1] {
        let page = backend.get(&format!("/api/search/prop?docker.repoName=team/app&docker.size=*&limit=3{from}")).await.json();
        let found = places(&page);
        assert_eq!(found.len(), expected);
        all.extend(found);
        match page["next"].as_str() {
            Some(next) => from = format!("&from={next}"),
            None => assert_eq!(expected, 1),
        }
    }
    let tags: Vec<String> = (0..7).map(|n| format!("docker-v2/team/app/t{n}/manifest.json")).collect();
    assert_eq!(all, tags);
    // A place in one search tells nobody what is in it.
    use base64::Engine as _;
    let page = backend.get("/api/search/prop?docker.repoName=team/app&limit=1").await.json();
    let sealed = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(page["next"].as_str().unwrap()).unwrap();
    assert!(!String::from_utf8_lossy(&sealed).contains("team"));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_found_too() {
    let backend = Backend::start().await;
    backend.push_v1_chain().await;
    backend.push_image("docker-v2", "team/ubuntu", "12.04").await;
    assert_eq!(backend.find("artifact?name=ubuntu").await, ["docker-v1/repositories/jfrog/ubuntu", "docker-v2/team/ubuntu"]);
    assert_eq!(backend.find("artifact?name=ubuntu&repos=docker-v2").await, ["docker-v2/team/ubuntu"]);
    assert_eq!(backend.find("artifact?name=jfrog/*").await, ["docker-v1/repositories/jfrog/ubuntu"]);
    assert_eq!(
        backend.find("artifact?name=12.*").await,
        ["docker-v2/team/ubuntu/12.04/manifest.json", "docker-v1/repositories/jfrog/ubuntu/12.04/tag.json"]
    );
    assert_eq!(backend.find(&format!("artifact?name={}", &id('2')[..12])).await, Vec::<String>::new());
    assert_eq!(backend.find(&format!("artifact?name={}*", &id('2')[..12])).await, [format!("docker-v1/.images/22/{}", id('2'))]);
    let some = backend.get("/api/search/artifact?name=*u*&limit=1").await.json();
    assert_eq!((places(&some).len(), &some["incomplete"]), (1, &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_finds_only_what_its_caller_may_read() {
    let backend = Backend::start().await;
    backend.push_v1_chain().await;
    for image in ["secret/app", "team/app"] {
        backend.push_image("docker-v2", image, "1").await;
    }
    backend.push_image("docker-bearer", "team/app", "1").await;
    let bob = backend.add_bob("docker-v2", "team/**", "r").await;
    backend.permit("bobs-v1", "docker-v1", "library/**", "bob", "r").await;
    let find = async |query: &str| places(&backend.as_user(&bob, "GET", &format!("/api/search/{query}"), b"").await.json());
    assert_eq!(find("prop?docker.manifest=1").await, ["docker-v2/team/app/1/manifest.json"]);
    assert_eq!(find("prop?docker.manifest=1&repos=docker-bearer").await, Vec::<String>::new());
    assert_eq!(find("prop?docker.imageId=*1,*2").await, [format!("docker-v1/.images/11/{}", id('1'))]);
    assert_eq!(find("prop?docker.repoName=*o*").await, ["docker-v1/repositories/library/busybox"]);
    assert_eq!(find("artifact?name=*app").await, ["docker-v2/team/app"]);
    assert_eq!(find("artifact?name=222*").await, Vec::<String>::new());
    // Whoever has not logged in finds what anybody may read.
    backend.push_image("docker-open", "app", "1").await;
    let found = backend.as_user("", "GET", "/api/search/prop?docker.manifest=1", b"").await;
    assert_eq!(places(&found.json()), ["docker-open/app/1/manifest.json"]);
}
