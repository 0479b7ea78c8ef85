//! Clients that read files out of layers without fetching the layers.

use crate::{Tool, digest, registry};

fn layer() -> Vec<u8> {
    (0..200_000_u32).map(|i| (i / 7) as u8).collect()
}

/// stargz-snapshotter: how large the layer is, its footer, the table that it points to, and the chunks of a file.
#[test]
fn estargz_is_read_in_pieces() {
    let registry = registry();
    let tool = Tool::new(&registry.client(registry.first), "containerd/1.7");
    let layer = layer();
    tool.push_image("team/lazy", "1", &layer);
    let path = format!("/v2/team/lazy/blobs/{}", digest(&layer));
    let size = layer.len();
    let range = |range: String| {
        let part = tool.ask(&format!("GET {path} 206"), &[("Accept-Encoding", "identity"), ("Range", &range)], b"");
        (part.header("Content-Range").unwrap().to_owned(), part.bytes())
    };
    assert_eq!(range("bytes=0-1".to_owned()), (format!("bytes 0-1/{size}"), layer[..2].to_vec()));
    let footer = size - 51;
    assert_eq!(range(format!("bytes={footer}-{}", size - 1)), (format!("bytes {footer}-{}/{size}", size - 1), layer[footer..].to_vec()));
    assert_eq!(range(format!("bytes={}-{footer}", size - 2_000)).1, layer[size - 2_000..=footer]);
    let head = tool.ask(&format!("HEAD {path} 200"), &[("Accept-Encoding", "identity")], b"");
    assert_eq!((head.header("Content-Length"), head.header("Accept-Ranges")), (Some(size.to_string().as_str()), Some("bytes")));
}

/// podman and CRI-O of `zstd:chunked` ask for many chunks at once.
#[test]
fn zstd_chunked_is_read_in_several_pieces_at_once() {
    let registry = registry();
    let tool = Tool::new(&registry.client(registry.first), "containers/5.32.2 (github.com/containers/image)");
    let layer = layer();
    tool.push_image("team/chunked", "1", &layer);
    let path = format!("/v2/team/chunked/blobs/{}", digest(&layer));
    let reply = tool.ask(&format!("GET {path} 206"), &[("Range", "bytes=10-19,1000-1999,150000-150000")], b"");
    let content_type = reply.header("Content-Type").unwrap().to_owned();
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap_or_else(|| panic!("{content_type}"));
    let body = reply.bytes();
    let mut found = Vec::new();
    for (first, last) in [(10, 19), (1000, 1999), (150_000, 150_000)] {
        let head = format!("Content-Range: bytes {first}-{last}/{}\r\n\r\n", layer.len());
        let start =
            body.windows(head.len()).position(|window| window.eq_ignore_ascii_case(head.as_bytes())).unwrap_or_else(|| panic!("no {head}"))
                + head.len();
        found.push((start, body[start..].starts_with(&layer[first..=last])));
    }
    assert!(found.iter().all(|(_, is_right)| *is_right) && found.is_sorted());
    assert!(body.trim_ascii_end().ends_with(format!("--{boundary}--").as_bytes()));
}
