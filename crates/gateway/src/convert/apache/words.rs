//! Apache's directives that nothing has been made of, each with the reason.

use super::super::Verdict::{self, Decide, Unneeded};
use super::super::ledger::{Directive, Ledger};

/// Judges whatever is still open.
pub(super) fn judge(directives: &[Directive], ledger: &mut Ledger) {
    let mut conditions: Vec<&Directive> = Vec::new();
    for directive in directives {
        // Conditions belong to the rule behind them and share its fate.
        if directive.is("rewritecond") {
            conditions.push(directive);
            continue;
        }
        let belonging = std::mem::take(&mut conditions);
        let (verdict, reason, is_whole) = match judgement(directive).filter(|_| ledger.is_open(directive.id)) {
            Some(judgement) => judgement,
            None => {
                judge(directive.children(), ledger);
                continue;
            }
        };
        ledger.note(directive.id, verdict, reason);
        belonging.iter().filter(|_| directive.is("rewriterule")).for_each(|condition| ledger.note(condition.id, verdict, reason));
        match is_whole {
            true => ledger.cover(directive.children()),
            false => judge(directive.children(), ledger),
        }
    }
}

/// The verdict, its reason, and whether it holds for everything in the directive's section.
fn judgement(directive: &Directive) -> Option<(Verdict, &'static str, bool)> {
    let whole = |verdict, reason| Some((verdict, reason, true));
    match directive.name.as_str() {
        "requestheader" => {
            let (verdict, reason) = header(&directive.argument(1).to_ascii_lowercase(), directive.argument(0))?;
            Some((verdict, reason, false))
        }
        "<virtualhost" => None,
        "<directory" | "<directorymatch" | "<files" | "<filesmatch" => whole(Unneeded, "no files are served"),
        "<location" | "<locationmatch" | "<proxy" | "<proxymatch" if is_about_access(directive) => Some((Unneeded, "see its lines", false)),
        "<requireall" | "<requireany" | "<requirenone" => Some((Unneeded, "see its lines", false)),
        "<location" | "<locationmatch" => whole(Decide, "leads to nothing that a binding was made of, and bindings pass on nothing else"),
        "<proxy" | "<proxymatch" => whole(Decide, "no host that was translated uses these backends"),
        "<limit" | "<limitexcept" => {
            whole(Decide, "methods are the backend's to allow, by the permissions of its users; `read_only = true` refuses all that write")
        }
        "<if" | "<elseif" | "<else" => whole(Decide, "conditions are not evaluated: what it does is missing from the result"),
        "<macro" | "use" => whole(Decide, "macros are not expanded: what it does is missing from the result"),
        name => single(name, directive).map(|(verdict, reason)| (verdict, reason, false)),
    }
}

fn is_about_access(section: &Directive) -> bool {
    let is_access = |inner: &Directive| {
        matches!(inner.name.as_str(), "require" | "allow" | "deny" | "order" | "satisfy" | "<requireall" | "<requireany" | "<requirenone")
    };
    section.children().iter().any(is_access)
}

/// Headers on the way to the backend.
fn header(name: &str, action: &str) -> Option<(Verdict, &'static str)> {
    Some(match name.trim_end_matches(':') {
        "host" => (Unneeded, "host and port are passed as the client used them; the port is kept by itself"),
        "x-forwarded-for" | "x-real-ip" => (Unneeded, "the client's address is passed by itself"),
        "x-forwarded-proto" | "x-forwarded-ssl" | "x-forwarded-scheme" | "front-end-https" => (Unneeded, "the scheme is passed by itself"),
        "x-forwarded-port" => (Unneeded, "the port is kept by itself"),
        "x-forwarded-host" | "x-forwarded-server" | "x-forwarded-prefix" | "forwarded" => (Unneeded, "the host is passed by itself"),
        "x-artifactory-override-base-url" | "x-jfrog-override-base-url" => {
            (Unneeded, "the backend makes its URLs from scheme, host and port")
        }
        "x-request-id" | "x-unique-id" => (Unneeded, "every request gets an id by itself"),
        "upgrade" if action == "unset" => (Unneeded, "registry clients upgrade to nothing: it is not passed on"),
        "authorization" if action == "unset" => (Decide, "the backend checks passwords itself: `Authorization` is passed on"),
        "authorization" => (Decide, "a fixed login is not added: give anonymous users the permission instead"),
        _ => return None,
    })
}

#[rustfmt::skip]
fn single(name: &str, directive: &Directive) -> Option<(Verdict, &'static str)> {
    Some(match name {
        "proxypreservehost" => (Unneeded, "host and port are passed as the client used them"),
        "proxyrequests" => (Unneeded, "only what is bound is passed on"),
        "proxyvia" | "proxyaddheaders" | "usecanonicalname" | "usecanonicalphysicalport" => (Unneeded, "host and port are passed as the client used them"),
        "proxypassreverse" | "proxypassreversecookiepath" | "proxypassreversecookiedomain" | "proxyerroroverride" | "proxyhtmlenable" =>
            (Unneeded, "answers pass unchanged, and their URLs are right from the start"),
        "allowencodedslashes" => (Unneeded, "registry paths have no encoded characters; those that do are refused"),
        "limitrequestbody" | "limitxmlrequestbody" => (Unneeded, "bodies are never limited"),
        "limitrequestfields" | "limitrequestfieldsize" | "limitrequestline" =>
            (Unneeded, "`header_bytes` and `header_fields` in [limits] are the bounds"),
        "timeout" | "proxytimeout" | "requestreadtimeout" =>
            (Unneeded, "a transfer lasts as long as bytes move; see [limits] for the timeouts"),
        "keepalive" | "keepalivetimeout" | "maxkeepaliverequests" => (Unneeded, "`keepalive_timeout_s` in [limits] is the bound, 75 s by default"),
        "setenv" | "setenvif" | "setenvifnocase" | "unsetenv" | "passenv" if is_transfer(directive) =>
            (Unneeded, "bodies are passed as they come, with or without a length"),
        "browsermatch" => (Unneeded, "no client is treated specially"),
        "setenv" | "setenvif" | "setenvifnocase" | "unsetenv" | "passenv" => (Decide, "variables are not evaluated: look at what uses it"),
        "proxyiobuffersize" | "proxyreceivebuffersize" | "proxymaxforwards" | "proxybadheader" | "proxyset" | "proxystatus" | "balancerinherit"
        | "balancerpersist" | "balancergrowth" | "proxydomain" | "proxyblock" | "proxyremote" | "noproxy" => (Unneeded, "the least busy backend is taken, in HTTP/1.1"),
        "sslprotocol" => (Unneeded, "TLS 1.2 and 1.3 only"),
        "sslciphersuite" | "sslhonorcipherorder" | "sslopensslconfcmd" | "sslcompression" | "sslinsecurerenegotiation" | "sslstrictsnivhostcheck" | "sslrandomseed" | "sslcryptodevice" =>
            (Unneeded, "authenticated ciphers with forward secrecy only"),
        "sslsessioncache" | "sslsessioncachetimeout" | "sslsessiontickets" | "sslsessionticketkeyfile" => (Unneeded, "TLS sessions are resumed by themselves"),
        "sslusestapling" | "sslstaplingcache" | "sslstaplingrespondertimeout" | "sslstaplingreturnrespondererrors" => (Unneeded, "nothing is looked up while serving"),
        "ssloptions" | "sslverifydepth" | "sslcacertificatefile" | "sslcacertificatepath" | "sslcadnrequestfile" => (Unneeded, "client certificates are not asked for"),
        "sslcarevocationfile" | "sslcarevocationpath" | "sslcarevocationcheck" => (Decide, "revoked client certificates are not looked up: use short-lived ones"),
        "sslpassphrasedialog" => (Decide, "the key must be stored without a password: `openssl pkey` removes it"),
        "sslcertificatefile" | "sslcertificatekeyfile" | "sslcertificatechainfile" => (Unneeded, "no TLS address that was translated uses it"),
        "sslproxyengine" => (Unneeded, "TLS to the backend follows from its address"),
        "sslproxyverify" | "sslproxycheckpeercn" | "sslproxycheckpeername" | "sslproxycheckpeerexpire" | "sslproxycacertificatefile" | "sslproxyprotocol" | "sslproxyciphersuite" =>
            (Decide, "a backend's certificate is always checked: write `server_name` and `ca` beside its `tcp`"),
        "authtype" | "authname" | "authuserfile" | "authbasicprovider" | "authgroupfile" | "authldapurl" | "authldapbinddn" | "authldapbindpassword" =>
            (Decide, "the backend knows the users: create them there (`berth-backend user add`)"),
        "require" | "allow" | "deny" | "order" | "satisfy" => (Decide, "`allow` and `deny` of a binding take addresses and hold for the whole of it; users are the backend's"),
        "header" => (Decide, "answers pass unchanged: this header will be missing or stay"),
        "errordocument" => (Unneeded, "errors are answered in the form of the API that was called"),
        "rewriterule" if is_setter(directive) => (Unneeded, "scheme, host and port are taken from the connection"),
        "rewriterule" | "redirect" | "redirectmatch" | "redirectpermanent" if points_to_interface(directive) =>
            (Unneeded, "browsers find the user interface on the binding with `console = true`"),
        "rewriterule" | "redirect" | "redirectmatch" | "redirectpermanent" | "redirecttemp" => (Decide, "has no part in what today's registry clients get to: look at whom it is for"),
        "rewriteoptions" if directive.arguments.iter().any(|option| option.to_ascii_lowercase().starts_with("inherit")) =>
            (Decide, "the rules of the server around were not taken over: look at what they do"),
        "rewriteengine" | "rewriteoptions" | "rewritebase" | "rewritelog" | "rewriteloglevel" => (Unneeded, "the rules were followed"),
        "rewritemap" => (Decide, "maps are not evaluated: write a binding for each repository"),
        "proxypass" | "proxypassmatch" => (Decide, "leads to nothing that a binding was made of"),
        "remoteipheader" | "remoteipproxiesheader" | "remoteipproxyprotocolexceptions" =>
            (Unneeded, "`trusted_proxies` alone may say who the client is, by PROXY protocol or X-Forwarded-For"),
        "customlog" | "logformat" | "transferlog" | "globallog" | "bufferedlogs" => (Unneeded, "every request is one line of the log; [access_log] takes `format = \"combined\"` and a `path`"),
        "errorlog" | "loglevel" | "errorlogformat" => (Unneeded, "the log goes to standard error, and BERTH_LOG sets its level"),
        "serveradmin" | "serversignature" | "servertokens" | "traceenable" | "hostnamelookups" | "fileetag" | "addoutputfilterbytype" | "namevirtualhost"
        | "extendedstatus" | "servername" | "serveralias" | "serverpath" | "protocolshonororder" | "h2direct" | "h2push" | "accesslilename" | "contentdigest" => (Unneeded, "there is nothing to set"),
        "documentroot" | "directoryindex" | "options" | "allowoverride" | "alias" | "scriptalias" | "indexoptions" | "addtype" | "addhandler" | "sethandler"
        | "addencoding" | "addicon" | "typesconfig" | "mimemagicfile" | "adddefaultcharset" | "enablesendfile" | "enablemmap" | "accessfilename"
        | "setoutputfilter" | "deflatecompressionlevel" | "addoutputfilter" => (Unneeded, "no files are served, and bodies pass as they are"),
        "user" | "group" | "pidfile" | "mutex" | "loadmodule" | "startservers" | "minsparethreads" | "maxsparethreads" | "threadlimit" | "threadsperchild"
        | "maxrequestworkers" | "maxclients" | "maxconnectionsperchild" | "serverlimit" | "defaultruntimedir" | "coredumpdirectory" | "minspareservers" | "maxspareservers"
        | "listenbacklog" | "gracefulshutdowntimeout" | "asyncrequestworkerfactor" => (Unneeded, "the service manager and the number of processors decide"),
        _ => return None,
    })
}

/// Whether a variable only says how mod_proxy sends bodies.
fn is_transfer(directive: &Directive) -> bool {
    let names = [
        "proxy-sendcl",
        "proxy-sendchunked",
        "proxy-sendchunks",
        "proxy-nokeepalive",
        "proxy-initial-not-pooled",
        "force-proxy-request-1.0",
        "nokeepalive",
    ];
    directive.arguments.iter().any(|argument| names.iter().any(|name| argument.starts_with(name)))
}

/// Whether a rule only keeps what the client says of scheme, host and port for a header.
fn is_setter(directive: &Directive) -> bool {
    let flags = directive.argument(2).to_ascii_lowercase();
    let name = flags.split_once("e=").map_or("", |(_, setting)| setting.split([':', ',', ']']).next().unwrap_or_default());
    directive.argument(1) == "-" && ["proto", "scheme", "https", "ssl", "port", "host"].iter().any(|part| name.contains(part))
}

/// Whether a rule sends browsers to Artifactory's own pages.
fn points_to_interface(directive: &Directive) -> bool {
    directive.arguments.iter().any(|argument| argument.contains("webapp") || argument.starts_with("/ui"))
}
