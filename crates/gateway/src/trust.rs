//! An authority of one's own, and how to make every kind of client trust it: what the console serves beside the API.
//!
//! The certificate alone is no proof: whoever can change the download can change the fingerprint beside it. The text
//! says so, and names the command that prints the fingerprint on the gateway's own machine.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::cert;

/// The authority that signed this gateway's certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Its certificate, as PEM.
    pub pem: Bytes,
    /// SHA-256 of the certificate, in hexadecimal with colons.
    pub fingerprint: String,
}

impl Authority {
    /// Reads a PEM file of one certificate.
    ///
    /// # Errors
    /// If it can't be read, or holds none.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let pem = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let certificate =
            CertificateDer::from_pem_slice(&pem).map_err(|_| anyhow::anyhow!("{} holds no PEM certificate", path.display()))?;
        Ok(Self { fingerprint: cert::fingerprint(&certificate), pem: pem.into() })
    }
}

/// Instructions for every client, for the registries at `registries` (`host` or `host:port`). `console` is the URL of
/// the console, as the reader used it.
pub fn explain(authority: &Authority, console: &str, registries: &[String]) -> String {
    let example = registries.first().map_or("registry.company.com:443", String::as_str);
    let certificate = format!("{console}{}", crate::rewrite::AUTHORITY_PATH);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "How to trust this registry's certificate authority\n\
         ==================================================\n\n\
         The authority's certificate:  {certificate}\n\
         Its SHA-256 fingerprint:      {}\n\n\
         Compare the fingerprint with what `berth-gateway cert self-signed` printed on the gateway's machine before you\n\
         trust the file: a download over a connection that is not yet trusted proves nothing by itself.\n\n\
         \x20   curl -k -o berth-ca.pem {certificate}\n\
         \x20   openssl x509 -in berth-ca.pem -noout -fingerprint -sha256\n\n\
         Registries of this gateway:\n",
        authority.fingerprint
    );
    for registry in registries {
        let _ = writeln!(text, "    {registry}");
    }
    let _ = write!(
        text,
        "\ndocker (1.7 and later; pull and push of 1.3 to 1.6 too; no restart needed)\n\
         \x20   mkdir -p /etc/docker/certs.d/{example}\n\
         \x20   cp berth-ca.pem /etc/docker/certs.d/{example}/ca.crt\n\
         \x20 One directory per registry, named exactly as in `docker pull {example}/…`, the port included unless it is 443.\n\n\
         docker before 1.7: the trust store of the operating system (below), then restart docker. Before 1.3 there is nothing\n\
         \x20 else; `docker login` of 1.3 to 1.6 looks only there, and so does 1.6 when it asks for a token before a pull or push.\n\n\
         docker without checking certificates (an attacker in between can read and change everything)\n\
         \x20 /etc/docker/daemon.json, docker 1.12 and later, then restart docker:\n\
         \x20   {{ \"insecure-registries\": [\"{example}\"] }}\n\
         \x20 /etc/default/docker, docker 1.3.1 to 1.11 on Debian and Ubuntu, then restart docker:\n\
         \x20   DOCKER_OPTS=\"--insecure-registry {example}\"\n\
         \x20 /etc/sysconfig/docker, docker 1.3.1 to 1.11 on RHEL and CentOS, then restart docker:\n\
         \x20   INSECURE_REGISTRY='--insecure-registry {example}'\n\n\
         containerd (with config_path = \"/etc/containerd/certs.d\" in its configuration; no restart needed)\n\
         \x20   mkdir -p /etc/containerd/certs.d/{example}\n\
         \x20   cp berth-ca.pem /etc/containerd/certs.d/{example}/ca.crt\n\
         \x20   printf 'server = \"https://{example}\"\\n[host.\"https://{example}\"]\\n  ca = \"ca.crt\"\\n' \\\n\
         \x20     > /etc/containerd/certs.d/{example}/hosts.toml\n\n\
         podman, buildah, skopeo\n\
         \x20   mkdir -p /etc/containers/certs.d/{example}\n\
         \x20   cp berth-ca.pem /etc/containers/certs.d/{example}/ca.crt\n\n\
         curl\n\
         \x20   curl --cacert berth-ca.pem https://{example}/v2/\n\n\
         Debian and Ubuntu, every program\n\
         \x20   cp berth-ca.pem /usr/local/share/ca-certificates/berth-ca.crt && update-ca-certificates\n\n\
         RHEL, Fedora, CentOS, every program\n\
         \x20   cp berth-ca.pem /etc/pki/ca-trust/source/anchors/berth-ca.pem && update-ca-trust\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_is_told_its_own_file_for_the_registry_as_it_is_called() {
        let authority = Authority { pem: Bytes::from_static(b"pem"), fingerprint: "AB:CD".to_owned() };
        let text = explain(&authority, "https://r.example:8443", &["r.example:444".to_owned(), "d.example".to_owned()]);
        for line in [
            "https://r.example:8443/_ca.pem",
            "AB:CD",
            "/etc/docker/certs.d/r.example:444/ca.crt",
            "{ \"insecure-registries\": [\"r.example:444\"] }",
            "DOCKER_OPTS=\"--insecure-registry r.example:444\"",
            "/etc/containerd/certs.d/r.example:444/hosts.toml",
            "/etc/containers/certs.d/r.example:444/ca.crt",
            "update-ca-certificates",
            "update-ca-trust",
            "    d.example\n",
            "docker before 1.7: the trust store of the operating system",
            "`docker login` of 1.3 to 1.6 looks only there",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
