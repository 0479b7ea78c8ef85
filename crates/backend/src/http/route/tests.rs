use proptest::prelude::*;

use super::*;

const ROOT: &str = "/artifactory/api/docker/docker-local/";
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn parse(method: Method, tail: &str) -> Result<Route, Refusal> {
    let path = format!("{ROOT}{tail}");
    match target(&path).map_err(|(_, refusal)| refusal)? {
        Target::Docker(target) => target.route(&method),
        Target::Rest(path) | Target::Tree(path) | Target::Health(path) => panic!("{path}"),
    }
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

#[test]
fn both_prefixes_lead_to_the_repository() {
    for root in [ROOT, "/api/docker/docker-local/"] {
        let path = format!("{root}v2/");
        let Ok(Target::Docker(target)) = target(&path) else { panic!("{path}") };
        assert_eq!((target.root, target.place.label(), target.api), (root, "docker-local", Api::V2));
    }
}

#[test]
fn at_an_address_of_all_names_begin_with_a_repository() {
    let at = |method: Method, tail: &str| {
        let path = format!("/artifactory/api/docker/_all/{tail}");
        match target(&path).map_err(|(_, refusal)| refusal)? {
            Target::Docker(target) => {
                assert_eq!(target.root, "/artifactory/api/docker/_all/");
                Ok((target.place.clone(), target.route(&method)?))
            }
            target => panic!("{path} is {target:?}"),
        }
    };
    let keyed = |key: &str, route| Ok((Place::Keyed(key.parse().unwrap()), Route::V2(route)));
    let tags = |image: &str| V2::Tags { image: name(image) };
    for (method, tail, expected) in [
        (Method::GET, "v2", Ok((Place::All, Route::V2(V2::Base)))),
        (Method::HEAD, "v2/", Ok((Place::All, Route::V2(V2::Base)))),
        (Method::POST, "v2/token", Ok((Place::All, Route::V2(V2::Token)))),
        (Method::GET, "v2/_catalog", Ok((Place::All, Route::V2(V2::Catalog)))),
        (Method::GET, "v2/docker-local/team/app/tags/list", keyed("docker-local", tags("team/app"))),
        (Method::GET, "v2/Docker.Local_2/app/tags/list", keyed("Docker.Local_2", tags("app"))),
        // Keys and images may be called like anything else.
        (Method::GET, "v2/token/token/tags/list", keyed("token", tags("token"))),
        (Method::GET, "v2/v2/v2/tags/list", keyed("v2", tags("v2"))),
        (Method::GET, "v2/jobs/v2/tags/list", keyed("jobs", tags("v2"))),
        (Method::POST, "v2/a/blobs/uploads/blobs/uploads/", keyed("a", V2::StartUpload { image: name("blobs/uploads") })),
        // What is asked of an address as a whole can't be asked of a repository.
        (Method::GET, "v2/docker-local", Err(Refusal::NoImage)),
        (Method::GET, "v2/docker-local/", Err(Refusal::NoImage)),
        (Method::GET, "v2/docker-local/token", Err(Refusal::NoImage)),
        (Method::GET, "v2/docker-local/_catalog", Err(Refusal::NoImage)),
        (Method::GET, "v2/ubuntu/manifests/latest", Err(Refusal::NoImage)),
        (Method::GET, "v2/promote", Err(Refusal::NoImage)),
        (Method::POST, "v2/jobs/promote", Err(Refusal::NoImage)),
        (Method::GET, "v2/-a/app/tags/list", Err(Refusal::InvalidName)),
        (Method::GET, "v2/_all/app/tags/list", Err(Refusal::InvalidName)),
        (Method::GET, "v2/docker-local/App/tags/list", Err(Refusal::InvalidName)),
        (Method::PUT, "v2/_catalog", Err(Refusal::MethodNotAllowed)),
        (Method::GET, "v1/_ping", Err(Refusal::OnlyV2)),
        (Method::POST, "v1/promote", Err(Refusal::OnlyV2)),
        (Method::GET, "v3/", Err(Refusal::NotFound)),
    ] {
        assert_eq!(at(method, tail), expected, "{tail}");
    }
}

#[test]
fn an_image_may_be_called_like_a_part_of_a_path() {
    let latest: Reference = "latest".parse().unwrap();
    for (method, tail, expected) in [
        (Method::GET, "v2/tags/tags/list", V2::Tags { image: name("tags") }),
        (Method::GET, "v2/tags/list/tags/list", V2::Tags { image: name("tags/list") }),
        (Method::POST, "v2/blobs/uploads/blobs/uploads/", V2::StartUpload { image: name("blobs/uploads") }),
        (Method::POST, "v2/a/blobs/uploads", V2::StartUpload { image: name("a") }),
        (Method::GET, "v2/manifests/manifests/latest", V2::GetManifest { image: name("manifests"), reference: latest.clone() }),
        (Method::HEAD, "v2/a/b/c/manifests/latest", V2::GetManifest { image: name("a/b/c"), reference: latest }),
        (Method::GET, "v2", V2::Base),
        (Method::GET, "v2/_catalog", V2::Catalog),
    ] {
        assert_eq!(parse(method, tail), Ok(Route::V2(expected)), "{tail}");
    }
    let one: Tag = "1.0".parse().unwrap();
    for (method, tail, expected) in [
        (Method::GET, "v1/repositories/tags/tags", V1::GetTags { image: name("library/tags") }),
        (Method::GET, "v1/repositories/library/tags/tags/tags", V1::GetTags { image: name("library/tags/tags") }),
        (Method::GET, "v1/repositories/library/tags/tags/1.0", V1::GetTag { image: name("library/tags"), tag: one }),
        (Method::GET, "v1/repositories/images/images", V1::GetRepositoryImages { image: name("library/images") }),
        (Method::PUT, "v1/repositories/foo/", V1::PutRepository { image: name("library/foo") }),
        (Method::PUT, "v1/repositories/foo", V1::PutRepository { image: name("library/foo") }),
        (Method::PUT, "v1/repositories/jfrog/ubuntu/", V1::PutRepository { image: name("jfrog/ubuntu") }),
        (Method::GET, "v1/repositories/a/json", V1::GetRepositoryJson { image: name("library/a") }),
        (Method::POST, "v1/users/", V1::CreateUser),
        (Method::GET, "v1/_ping", V1::Ping),
    ] {
        assert_eq!(parse(method, tail), Ok(Route::V1(expected)), "{tail}");
    }
    let tag = |text: &str| text.parse::<Tag>().unwrap();
    for (method, tail, expected) in [
        // docker's push of images and tags that are called like a part of a path.
        (Method::PUT, "v1/repositories/foo/tags/", V1::PutRepository { image: name("foo/tags") }),
        (Method::PUT, "v1/repositories/foo/images/", V1::PutRepository { image: name("foo/images") }),
        (Method::PUT, "v1/repositories/foo/json/", V1::PutRepository { image: name("foo/json") }),
        (Method::PUT, "v1/repositories/foo/properties", V1::PutRepository { image: name("foo/properties") }),
        (Method::PUT, "v1/repositories/foo/images", V1::PutRepositoryImages { image: name("library/foo") }),
        (Method::PUT, "v1/repositories/foo/images/images", V1::PutRepositoryImages { image: name("foo/images") }),
        (Method::PUT, "v1/repositories/foo/tags/tags", V1::PutTag { image: name("library/foo"), tag: tag("tags") }),
        (Method::PUT, "v1/repositories/foo/tags/json", V1::PutTag { image: name("library/foo"), tag: tag("json") }),
        (Method::PUT, "v1/repositories/a/b/tags/properties", V1::PutTag { image: name("a/b"), tag: tag("properties") }),
        // Read, the last suffix decides.
        (Method::GET, "v1/repositories/foo/tags/tags", V1::GetTags { image: name("foo/tags") }),
        (Method::GET, "v1/repositories/foo/tags/json", V1::GetRepositoryJson { image: name("foo/tags") }),
        (Method::GET, "v1/repositories/foo/tags/", V1::GetTags { image: name("library/foo") }),
    ] {
        assert_eq!(parse(method, tail), Ok(Route::V1(expected)), "{tail}");
    }
    assert!(matches!(parse(Method::PUT, &format!("v1/images/{ID}/checksum")), Ok(Route::V1(V1::PutChecksum { .. }))));
}

#[test]
fn what_is_wrong_is_named() {
    for (method, tail, refusal) in [
        (Method::GET, "v2/A/tags/list", Refusal::InvalidName),
        (Method::GET, "v2/a/manifests/-x", Refusal::InvalidTag),
        (Method::GET, "v2/a/manifests/sha256:0", Refusal::InvalidDigest),
        (Method::GET, "v2/a/blobs/sha256:0", Refusal::InvalidDigest),
        (Method::PATCH, "v2/a/blobs/uploads/x", Refusal::UnknownUpload),
        (Method::POST, "v2/a/manifests/latest", Refusal::MethodNotAllowed),
        (Method::GET, "v2/a", Refusal::NotFound),
        (Method::GET, "v3/", Refusal::NotFound),
        (Method::GET, "v1/images/..x/json", Refusal::UnknownV1Image),
        (Method::GET, "v1/images/0123456789abcdef/json", Refusal::UnknownV1Image),
        (Method::PUT, "v1/repositories/foo/tags/-x", Refusal::InvalidTag),
        (Method::PUT, "v1/repositories/Foo/", Refusal::InvalidName),
        (Method::DELETE, "v1/_ping", Refusal::MethodNotAllowed),
        (Method::DELETE, "v1/repositories/foo/images", Refusal::MethodNotAllowed),
        (Method::POST, "v1/repositories/foo/tags/1.0", Refusal::MethodNotAllowed),
        (Method::GET, "v1/repositories/foo/", Refusal::MethodNotAllowed),
    ] {
        assert_eq!(parse(method, tail), Err(refusal), "{tail}");
    }
}

#[test]
fn what_a_proxy_could_read_differently_is_refused() {
    for tail in [
        "v2/a/../b/tags/list",
        "v2/./a",
        "v2//a/tags/list",
        "v2/a%2fb/tags/list",
        "v2/%2e%2e/x",
        "v2/a\\b/tags/list",
        "v2/a%00/tags/list",
        "v1/images/../json",
        "v2/a\u{e9}/tags/list",
        "v2/..",
        "v2/a b/tags/list",
    ] {
        assert_eq!(parse(Method::GET, tail), Err(Refusal::UnsafePath), "{tail}");
    }
    assert_eq!(target("/v2/").unwrap_err(), (Api::Rest, Refusal::NotFound));
    assert_eq!(target("//v2/").unwrap_err(), (Api::Rest, Refusal::UnsafePath));
    // What is done to a repository is REST's, though the path looks like docker's.
    assert_eq!(target("/api/docker/a%2Cb/v1/promote").unwrap_err(), (Api::Rest, Refusal::UnsafePath));
    assert_eq!(target("/api/docker/a%2Cb/v1/_ping").unwrap_err(), (Api::V1, Refusal::UnsafePath));
    assert_eq!(target("/artifactory/api/docker/-x/v2/").unwrap_err(), (Api::V2, Refusal::NotFound));
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(tail in "\\PC{0,80}", method in prop::sample::select(vec![Method::GET, Method::PUT, Method::POST, Method::PATCH, Method::DELETE])) {
        let _ = parse(method, &tail);
        match target(&tail) {
            Ok(Target::Docker(target)) => drop(target.route(&Method::GET)),
            Ok(target) => drop(super::super::rest::find(&target, &Method::GET)),
            Err(_) => {}
        }
    }

    #[test]
    fn every_image_name_survives_every_v2_path(image in "[a-z0-9]{1,4}(/(tags|list|blobs|uploads|manifests|referrers|[a-z0-9]{1,4})){0,3}", tag in "[A-Za-z0-9_][A-Za-z0-9._-]{0,8}") {
        let expected = V2::GetManifest { image: name(&image), reference: tag.parse().unwrap() };
        prop_assert_eq!(parse(Method::GET, &format!("v2/{image}/manifests/{tag}")), Ok(Route::V2(expected)));
        prop_assert_eq!(parse(Method::GET, &format!("v2/{image}/tags/list")), Ok(Route::V2(V2::Tags { image: name(&image) })));
        prop_assert_eq!(parse(Method::POST, &format!("v2/{image}/blobs/uploads/")), Ok(Route::V2(V2::StartUpload { image: name(&image) })));
    }
    #[test]
    fn every_image_name_survives_a_v1_push_and_pull(image in "[a-z0-9]{1,4}(/(tags|images|json|properties|[a-z0-9]{1,4})){0,3}", tag in "[A-Za-z0-9_][A-Za-z0-9._-]{0,8}") {
        // As a tag these are read as the last suffix; the table above has them.
        prop_assume!(!["tags", "images", "json", "properties"].contains(&tag.as_str()));
        let (named, tagged) = (ImageName::from_v1(&image).unwrap(), tag.parse::<Tag>().unwrap());
        for (method, tail, expected) in [
            (Method::PUT, format!("{image}/"), V1::PutRepository { image: named.clone() }),
            (Method::PUT, format!("{image}/tags/{tag}"), V1::PutTag { image: named.clone(), tag: tagged.clone() }),
            (Method::PUT, format!("{image}/images"), V1::PutRepositoryImages { image: named.clone() }),
            (Method::GET, format!("{image}/images"), V1::GetRepositoryImages { image: named.clone() }),
            (Method::GET, format!("{named}/tags"), V1::GetTags { image: named.clone() }),
            (Method::HEAD, format!("{named}/tags/{tag}"), V1::GetTag { image: named.clone(), tag: tagged.clone() }),
            (Method::GET, format!("{named}/tags/{tag}/json"), V1::GetTagJson { image: named.clone(), tag: tagged }),
        ] {
            prop_assert_eq!(parse(method, &format!("v1/repositories/{tail}")), Ok(Route::V1(expected)), "{}", tail);
        }
    }
}
