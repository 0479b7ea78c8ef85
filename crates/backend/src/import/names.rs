//! Names in archives, as docker writes them: with the registry that the image came from, or without.

use berth_names::{ApiVersion, ImageName, Tag};

/// The tag of a name without one.
const DEFAULT_TAG: &str = "latest";

/// The text names no image and tag that could be stored.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name of an image and a tag")]
pub(super) struct InvalidName(String);

/// The image and tag that `host:port/namespace/name:tag` means here. The host goes, as docker takes it off too.
pub(super) fn parse(text: &str, api_version: ApiVersion) -> Result<(ImageName, Tag), InvalidName> {
    let invalid = || InvalidName(text.chars().take(300).collect());
    let (name, tag) = match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (text, DEFAULT_TAG),
    };
    let name = match name.split_once('/') {
        // Docker Hub's own images have no namespace in docker's short names.
        Some(("docker.io" | "index.docker.io", rest)) => rest.strip_prefix("library/").unwrap_or(rest),
        Some((host, rest)) if is_host(host) => rest,
        _ => name,
    };
    let image = match api_version {
        ApiVersion::V1 => ImageName::from_v1(name),
        ApiVersion::V2 => name.parse(),
    };
    Ok((image.map_err(|_| invalid())?, tag.parse().map_err(|_| invalid())?))
}

/// What docker takes for a host rather than a namespace.
fn is_host(text: &str) -> bool {
    text == "localhost" || (text.contains(['.', ':']) && text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '['))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_host_goes_and_the_rest_stays() {
        for (text, image, tag) in [
            ("busybox", "busybox", "latest"),
            ("busybox:1.36", "busybox", "1.36"),
            ("team/app:1", "team/app", "1"),
            ("localhost/team/app:1", "team/app", "1"),
            ("localhost:5000/app", "app", "latest"),
            ("r.example:444/jfrog/ubuntu:12.04", "jfrog/ubuntu", "12.04"),
            ("r.example/a/b/c:x", "a/b/c", "x"),
            ("docker.io/library/busybox:latest", "busybox", "latest"),
            ("docker.io/team/app:1", "team/app", "1"),
        ] {
            let (found, with) = parse(text, ApiVersion::V2).unwrap();
            assert_eq!((found.as_str(), with.as_str()), (image, tag), "{text}");
        }
        assert_eq!(parse("r.example:444/ubuntu:1", ApiVersion::V1).unwrap().0.as_str(), "library/ubuntu");
        for text in ["", ":", "a:", "App:1", "a//b", "../x:1", "r.example/:1", "<none>:<none>", "a:b:c", "r.example"] {
            let parsed = parse(text, ApiVersion::V2);
            assert!(parsed.is_err() || text == "r.example", "{text}: {parsed:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}") {
            let _ = parse(&text, ApiVersion::V1);
            let _ = parse(&text, ApiVersion::V2);
        }
    }
}
