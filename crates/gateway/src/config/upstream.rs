//! `[upstream]`: one backend, or several.

use std::ops::Range;
use std::path::PathBuf;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use toml::Spanned;

use super::Files;
use super::problem::Problems;
use super::table::{Address as TcpAddress, ServerTable, UpstreamTable};
use crate::upstream::{Address, Pool, Server, Tls};

/// Longest path of a Unix socket, in bytes (the kernel's `sun_path`, less its NUL).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The backends. What is wrong with them is a problem.
pub(super) fn read(table: Spanned<UpstreamTable>, files: &mut Files<'_>, problems: &mut Problems<'_>) -> Vec<Server> {
    let span = table.span();
    let UpstreamTable { unix, tcp, servers, .. } = table.into_inner();
    if servers.is_empty() {
        let address = address(unix.as_ref(), tcp, span, files, problems);
        return address.map(|address| Server { address, tls: None }).into_iter().collect();
    }
    if unix.is_some() || tcp.is_some() {
        problems.add(span.clone(), "with [[upstream.server]] every backend has its address there: remove `unix` or `tcp` here");
    }
    let servers: Vec<_> = servers.into_iter().filter_map(|server| self::server(server, files, problems)).collect();
    if problems.is_empty()
        && let Err(error) = Pool::new(&servers)
    {
        problems.add(span, error.to_string());
    }
    servers
}

fn server(table: Spanned<ServerTable>, files: &mut Files<'_>, problems: &mut Problems<'_>) -> Option<Server> {
    let span = table.span();
    let table = table.into_inner();
    let address = address(table.unix.as_ref(), table.tcp, span.clone(), files, problems)?;
    let tls = match (&address, table.tls, table.server_name, table.ca) {
        (_, false, None, None) => None,
        (Address::Tcp(tcp), true, name, Some(ca)) => {
            let name = name.map_or_else(|| tcp.ip().to_string(), Spanned::into_inner);
            match tls(&name, &ca, files) {
                Ok(tls) => Some(tls),
                Err(message) => {
                    problems.add(ca.span(), message);
                    return None;
                }
            }
        }
        (Address::Tcp(_), true, _, None) => {
            problems.add(span, "`tls = true` needs `ca`, the authority that signed the backend's certificate");
            return None;
        }
        (Address::Unix(_), true, ..) => {
            problems.add(span, "a Unix socket needs no TLS: nobody else can read it");
            return None;
        }
        (_, false, ..) => {
            problems.add(span, "`server_name` and `ca` belong to `tls = true`");
            return None;
        }
    };
    Some(Server { address, tls })
}

fn address(
    unix: Option<&Spanned<PathBuf>>,
    tcp: Option<TcpAddress>,
    span: Range<usize>,
    files: &Files<'_>,
    problems: &mut Problems<'_>,
) -> Option<Address> {
    match (unix, tcp) {
        (Some(path), None) => {
            let socket = files.directory.join(path.get_ref());
            if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
                problems.add(path.span(), format!("a Unix socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes: {}", socket.display()));
            }
            Some(Address::Unix(socket))
        }
        (None, Some(address)) => Some(Address::Tcp(address.into())),
        (Some(_), Some(_)) => {
            problems.add(span, "the backend has one address: write either `unix` or `tcp`");
            None
        }
        (None, None) => {
            problems.add(span, "where is the backend? Write `unix = \"/run/berth/backend.sock\"` or `tcp = \"127.0.0.1:8081\"`");
            None
        }
    }
}

fn tls(name: &str, ca: &Spanned<PathBuf>, files: &mut Files<'_>) -> Result<Tls, String> {
    let path = files.resolve(ca.get_ref());
    let unusable = || format!("{:?} holds no PEM certificate", path.display().to_string());
    let roots: Vec<_> = CertificateDer::pem_file_iter(&path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?
        .collect::<Result<_, _>>()
        .map_err(|_| unusable())?;
    Tls::new(name, &roots).map_err(|error| error.to_string())
}
