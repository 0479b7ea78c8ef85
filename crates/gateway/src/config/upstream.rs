//! `[upstream]`: where the backend is.

use toml::Spanned;

use super::problem::Problems;
use super::table::UpstreamTable;
use super::{Files, Upstream};

/// Longest path of a Unix socket, in bytes (the kernel's `sun_path`, less its NUL).
const SOCKET_PATH_BYTES_MAX: usize = 107;

pub(super) fn read(table: Spanned<UpstreamTable>, files: &mut Files<'_>, problems: &mut Problems<'_>) -> Option<Upstream> {
    let span = table.span();
    match table.into_inner() {
        UpstreamTable { unix: Some(path), tcp: None, .. } => {
            let socket = files.directory.join(path.get_ref());
            if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
                problems.add(path.span(), format!("a Unix socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes: {}", socket.display()));
            }
            Some(Upstream::Unix(socket))
        }
        UpstreamTable { unix: None, tcp: Some(address), .. } => Some(Upstream::Tcp(address.into())),
        UpstreamTable { unix: Some(_), tcp: Some(_), .. } => {
            problems.add(span, "the backend has one address: write either `unix` or `tcp`");
            None
        }
        UpstreamTable { unix: None, tcp: None, .. } => {
            problems.add(span, "where is the backend? Write `unix = \"/run/berth/backend.sock\"` or `tcp = \"127.0.0.1:8081\"`");
            None
        }
    }
}
