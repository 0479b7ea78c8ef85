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
