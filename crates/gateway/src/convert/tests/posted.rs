//! Configurations as people post them, each of which was once read wrongly.

use super::*;

/// What is bound: `address host -> target`, with what else is worth telling.
fn bound(imported: &Imported) -> Vec<String> {
    let one = |binding: &Binding| {
        let Binding { listen, server_name, target, tls, public, read_only, .. } = binding;
        let name = server_name.as_deref().unwrap_or("*");
        let target = match target {
            Target::Repository(key) => key.to_string(),
            Target::RepositoryFromHost => "host".to_owned(),
            Target::RepositoryFromPath => "path".to_owned(),
            Target::Console => "console".to_owned(),
            Target::Nothing => "nothing".to_owned(),
        };
        let tls = if tls.is_some() { "" } else { " plain" };
        let public = match public {
            Public::AsListened => String::new(),
            Public::Port(port) => format!(" port {port}"),
            Public::Url(url) => format!(" {url}"),
        };
        format!("{listen} {name} -> {target}{tls}{public}{}", if *read_only { " read-only" } else { "" })
    };
    imported.site.bindings.iter().map(one).collect()
}

/// What `check` has against it, but for files that are not here.
fn objections(imported: &Imported) -> Vec<&str> {
    imported.objections.iter().filter(|objection| !objection.is_about_file).map(|objection| objection.problem.message.as_str()).collect()
}

/// Artifactory's own, for sub-domains behind Apache.
const APACHE_SUBDOMAINS: &str = r#"Listen 5001
<VirtualHost *:5001>
    ProxyPreserveHost On
    ServerName art.example.com
    ServerAlias *.art.example.com
    SSLEngine on
    SSLCertificateFile "/etc/ssl/art.pem"
    SSLCertificateKeyFile "/etc/ssl/art.key"
    RewriteEngine on
    RewriteCond %{SERVER_PORT} (.*)
    RewriteRule (.*) - [E=my_server_port:%1]
    RewriteCond %{REQUEST_SCHEME} (.*)
    RewriteRule (.*) - [E=my_scheme:%1]
    RewriteCond "%{REQUEST_URI}" "^/(v1|v2)/"
    RewriteCond "%{HTTP_HOST}" "^(.*)\.art\.example\.com"
    RewriteRule "^/(v1|v2)/(.*)$" "/artifactory/api/docker/%1/$1/$2" [PT]
    RewriteRule ^/$ /artifactory/webapp/ [R,L]
    RequestHeader set X-Artifactory-Override-Base-Url %{my_scheme}e://art.example.com:%{my_server_port}e/artifactory
    ProxyPass /artifactory/ http://127.0.0.1:8081/artifactory/
</VirtualHost>
"#;

#[test]
fn apaches_generated_subdomains_give_what_check_accepts() {
    let imported = import_text(APACHE_SUBDOMAINS).unwrap();
    assert_eq!(bound(&imported), ["0.0.0.0:5001 art.example.com -> console", "0.0.0.0:5001 *.art.example.com -> host"]);
    assert_eq!(objections(&imported), [""; 0]);
    // What is said of a port is kept where it is another one.
    let mapped = import_text(&APACHE_SUBDOMAINS.replace(":%{my_server_port}e/", ":444/")).unwrap();
    assert_eq!(bound(&mapped)[1], "0.0.0.0:5001 *.art.example.com -> host port 444");
    assert_eq!(objections(&mapped), [""; 0]);
}

#[test]
fn every_name_of_a_server_has_its_binding_or_a_word() {
    let server = |names: &str, rules: &str| {
        format!(
            "server {{ listen 443 ssl; server_name {names}; ssl_certificate c.pem; ssl_certificate_key c.key; {rules} \
             location /artifactory/ {{ proxy_pass http://127.0.0.1:8081/artifactory/; }} }}"
        )
    };
    // The repository in the path under one name, in the host under the others.
    let both = "if ($repo = '') { rewrite ^/v2/(.*)$ /artifactory/api/docker/v2/$1 last; } rewrite ^/(v1|v2)/(.*)$ /artifactory/api/docker/$repo/$1/$2;";
    let imported = import_text(&server(r"~^(?<repo>.+)\.art\.example\.com$ art.example.com", both)).unwrap();
    assert_eq!(bound(&imported), ["0.0.0.0:443 *.art.example.com -> host", "0.0.0.0:443 art.example.com -> path"]);
    // As Artifactory's chart writes the same, with a slash too many.
    let chart = "if ( $repo != \"\" ) { rewrite ^/(v1|v2)/(.*) /artifactory/api/docker/$repo/$1/$2 break; } \
         rewrite ^/(v1|v2)/([^/]+)(.*)$ /artifactory/api/docker/$2/$1/$3; rewrite ^/(v1|v2)/ /artifactory/api/docker/$1/; \
         if ($http_content_type = \"application/grpc\") { grpc_pass grpcs://127.0.0.1:8046; }";
    let imported = import_text(&server(r"~(?<repo>.+)\.art.example.com art.example.com", chart)).unwrap();
    assert_eq!(bound(&imported), ["0.0.0.0:443 *.art.example.com -> host", "0.0.0.0:443 art.example.com -> path"]);
    assert_eq!(noted(&imported, Verdict::NotUnderstood), [""; 0]);
    // One name for images and one for management.
    let one = "if ($host = docker.example.com) { rewrite ^/(v1|v2)/(.*)$ /artifactory/api/docker/docker-local/$1/$2; }";
    let imported = import_text(&server("docker.example.com art.example.com", one)).unwrap();
    assert_eq!(bound(&imported), ["0.0.0.0:443 docker.example.com -> docker-local", "0.0.0.0:443 art.example.com -> console"]);
    assert!(reason(&imported, "server_name").contains("answered 421"));
    // A name that leads nowhere beside one that does.
    let nowhere = "server { listen 5000; server_name a.example.com b.example.com; if ($host = b.example.com) { return 404; } \
         location /v2/ { proxy_pass http://127.0.0.1:8081/artifactory/api/docker/a/v2/; } }";
    let imported = import_text(nowhere).unwrap();
    assert_eq!(bound(&imported), ["0.0.0.0:5000 a.example.com -> a plain"]);
    assert!(reason(&imported, "server_name").contains("b.example.com leads to no repository"), "{:?}", imported.notes);
    // One host of the pattern that is meant otherwise, and one that is not.
    let apache = APACHE_SUBDOMAINS
        .replace("ServerAlias *", "ServerAlias x.art.example.com other.art.example.com *")
        .replace("RewriteRule ^/$", "RewriteCond %{HTTP_HOST} ^other\\.\nRewriteRule ^/artifactory/api/docker/other/(.*)$ /artifactory/api/docker/another/$1 [PT]\nRewriteRule ^/$");
    let imported = import_text(&apache).unwrap();
    assert_eq!(
        bound(&imported),
        [
            "0.0.0.0:5001 art.example.com -> console",
            "0.0.0.0:5001 other.art.example.com -> another https://art.example.com:5001",
            "0.0.0.0:5001 *.art.example.com -> host",
        ]
    );
    assert_eq!(objections(&imported), [""; 0]);
}

/// Pulls from a repository of several, pushes to one of them: as a set of locations, by method, and by another backend.
#[test]
fn pushes_that_go_elsewhere_are_refused_and_said() {
    let by_path = r#"server { listen 5000;
        set $repo docker-group;
        location ~ ^/v2/(.*)/manifests/ { if ($request_method ~* PUT) { set $repo docker-hosted; } rewrite ^/(.*)$ /artifactory/api/docker/$repo/$1 last; }
        location ~ ^/v2/.*/blobs/uploads/ { set $repo docker-hosted; rewrite ^/(.*)$ /artifactory/api/docker/$repo/$1 last; }
        location /v2/ { rewrite ^/(.*)$ /artifactory/api/docker/$repo/$1 last; }
        location /artifactory/ { proxy_pass http://127.0.0.1:8081; }
    }"#;
    let by_method = r#"server { listen 5000;
        if ($request_method ~ ^(GET|HEAD)$) { rewrite ^/(v2/.*)$ /artifactory/api/docker/docker-group/$1; }
        if ($request_method !~ ^(GET|HEAD)$) { rewrite ^/(v2/.*)$ /artifactory/api/docker/docker-hosted/$1; }
        location /artifactory/ { proxy_pass http://127.0.0.1:8081; }
    }"#;
    for text in [by_path, by_method] {
        let imported = import_text(text).unwrap();
        assert_eq!(bound(&imported), ["0.0.0.0:5000 * -> docker-group plain read-only"]);
        let said = reason(&imported, "proxy_pass");
        assert!(said.contains("pushes go to another repository, pulls to docker-group"), "{said}");
        assert!(said.contains("docker-hosted needs a port or name of its own"), "{said}");
        let about_repository = |note: &&Note| note.source.contains("docker-hosted") || note.source.contains("$request_method");
        assert!(imported.notes.iter().filter(about_repository).all(|note| note.verdict != Verdict::Unneeded), "{:?}", imported.notes);
        assert_eq!(objections(&imported), [""; 0]);
    }
    let apache = "Listen 5000\n<VirtualHost *:5000>\nRewriteEngine On\nRewriteCond %{REQUEST_METHOD} !^(GET|HEAD)$\n\
         RewriteRule ^/v2/(.*)$ http://10.0.0.2:8081/artifactory/api/docker/docker-local/v2/$1 [P]\n\
         ProxyPass /v2/ http://10.0.0.1:8081/artifactory/api/docker/docker-local/v2/\n</VirtualHost>\n";
    let imported = import_text(apache).unwrap();
    assert_eq!(bound(&imported), ["0.0.0.0:5000 * -> docker-local plain read-only"]);
    let said = reason(&imported, "RewriteRule");
    assert!(said.contains("pushes go to another backend") && said.contains("http://10.0.0.2:8081"), "{said}");
    // A mirror: what keeps pushes out is `read_only`, method by method.
    let mirror = "server { listen 5000; if ($request_method = POST) { return 405 no; } if ($request_method = PUT) { return 405 no; } \
         if ($request_method = DELETE) { return 405 no; } location /v1 { return 405 no; } \
         location /v2/ { proxy_pass http://127.0.0.1:8081/artifactory/api/docker/hub/v2/; } }";
    let imported = import_text(mirror).unwrap();
    assert_eq!(bound(&imported), ["0.0.0.0:5000 * -> hub plain read-only"]);
    assert_eq!(noted(&imported, Verdict::Decide), ["1: listen 5000;", "1: location /v1 { … }"]);
    // Deletions that the other proxy keeps out.
    let kept = "server { listen 5000; if ($request_method = DELETE) { return 405; } \
         location /v2/ { proxy_pass http://127.0.0.1:8081/artifactory/api/docker/a/v2/; } }";
    let imported = import_text(kept).unwrap();
    assert_eq!(bound(&imported), ["0.0.0.0:5000 * -> a plain"]);
    assert!(reason(&imported, "return 405").starts_with("deletions go to nowhere"), "{:?}", imported.notes);
}

/// What the documents of the registry have people write in front of it.
#[test]
fn a_condition_on_old_clients_does_not_hide_what_follows() {
    let text = r#"server {
    listen 5000;
    location /v2/ {
        if ($http_user_agent ~ "^(docker\/1\.(3|4|5(?!\.[0-9]-dev))|Go ).*$" ) { return 404; }
        proxy_pass http://127.0.0.1:8081/artifactory/api/docker/new/v2/;
    }
    location /v1/ { proxy_pass http://127.0.0.1:8081/artifactory/api/docker/old/v1/; }
}"#;
    let imported = import_text(text).unwrap();
    assert_eq!(bound(&imported), ["0.0.0.0:5000 * -> new plain"]);
    assert!(reason(&imported, "proxy_pass http://127.0.0.1:8081/artifactory/api/docker/old").starts_with("V1 goes to another repository"));
    let condition = imported.notes.iter().find(|note| note.source.starts_with("if ")).unwrap();
    assert_ne!(condition.verdict, Verdict::Unneeded);
    // Two registries, neither of which is Artifactory.
    let two = "upstream new { server 127.0.0.1:5001; }\nupstream old { server 127.0.0.1:5002; }\nserver { listen 5000;\n\
         location /v2/ { proxy_pass http://new; }\nlocation / { proxy_pass http://old; }\n}";
    let imported = import_text(two).unwrap();
    assert_eq!(bound(&imported), ["0.0.0.0:5000 * -> path plain"]);
    assert!(reason(&imported, "proxy_pass http://old").contains("V1 goes to another backend than V2"), "{:?}", imported.notes);
}

#[test]
fn what_can_not_be_followed_is_said_and_never_called_needless() {
    // A name that a script has looked up, a pattern of another engine, a header that nobody knows the value of.
    for (line, source) in [
        ("location /v2/ { proxy_pass http://127.0.0.1:8081/artifactory/api/docker/$chosen/v2/; }", "proxy_pass"),
        ("rewrite ^/(?|v(1)|v(2))$ /x; location /v2/ { proxy_pass http://127.0.0.1:8081/artifactory/api/docker/a/v2/; }", "rewrite"),
        (
            "location ~ ^/(?|v(1)|v(2))/ { return 403; } location /v2/ { proxy_pass http://127.0.0.1:8081/artifactory/api/docker/a/v2/; }",
            "location ~",
        ),
        (
            "location /v2/ { proxy_set_header Host $chosen; proxy_pass http://127.0.0.1:8081/artifactory/api/docker/a/v2/; }",
            "proxy_set_header",
        ),
    ] {
        let imported = import_text(&format!("server {{ listen 5000; {line} }}")).unwrap();
        let note =
            imported.notes.iter().find(|note| note.source.starts_with(source)).unwrap_or_else(|| panic!("{line}: {:?}", imported.notes));
        assert_eq!(note.verdict, Verdict::NotUnderstood, "{note}");
    }
    // A variable that no request was tried for may still lead somewhere.
    let unmet = "server { listen 5000; if ($arg_x = y) { set $repo other; } \
         location /v2/ { proxy_pass http://127.0.0.1:8081/artifactory/api/docker/a/v2/; } }";
    let imported = import_text(unmet).unwrap();
    assert_eq!(noted(&imported, Verdict::Unneeded), [""; 0]);
}

#[test]
fn lua_and_what_editors_and_web_pages_do_hide_nothing() {
    let lua = r#"server {
    listen 443 ssl; http2 on;
    server_name registry.example.com;
    ssl_certificate c.pem; ssl_certificate_key c.key;
    rewrite "^/(v[12]{1})/(.*)$" "/artifactory/api/docker/docker-local/$1/$2" last;
    location ~ ^/artifactory/ {
        access_by_lua_block {
            local t = { a = 1 }  -- a } brace
            if t.a == "}" then return end
        }
        proxy_pass http://127.0.0.1:8081;
    }
}"#;
    let imported = import_text(lua).unwrap();
    assert_eq!(bound(&imported), ["0.0.0.0:443 * -> docker-local"]);
    assert!(reason(&imported, "access_by_lua_block").starts_with("no scripts are run"));
    let windows = lua.replace('\n', "\r\n").replace("c.pem", "\"C:/ssl/my cert.pem\"");
    let imported = import_text(&windows).unwrap();
    assert_eq!(bound(&imported), ["0.0.0.0:443 * -> docker-local"]);
    assert!(imported.toml.contains("certificate = \"C:/ssl/my cert.pem\""), "{}", imported.toml);
    assert!(reason(&imported, "ssl_certificate C:").contains("Windows"));
    // As a page of answers shows it, with its dashes and quotes.
    let page = "Listen 6555\n<VirtualHost *:6555>\nRewriteEngine on\nRewriteCond %{SERVER_PORT} (.*)\nRewriteRule (.*) – [E=my_server_port:%1]\n\
         RewriteRule “^/(v1|v2)/([^/]+)/(.*)$” “/artifactory/api/docker/$2/$1/$3” [PT]\nProxyPass /artifactory http://127.0.0.1:8081/artifactory\n</VirtualHost>\n";
    let imported = import_text(page).unwrap();
    assert_eq!(bound(&imported), ["0.0.0.0:6555 * -> path plain"]);
    assert!(imported.notes.iter().filter(|note| note.reason.contains("web pages")).count() == 2, "{:?}", imported.notes);
}

/// An address is one socket, whichever server says `ssl`.
#[test]
fn what_one_server_says_of_an_address_counts_for_all() {
    let text = "server { listen 443 ssl; server_name a.example; ssl_certificate c.pem; ssl_certificate_key c.key; \
         location /v2/ { proxy_pass http://127.0.0.1:8081/artifactory/api/docker/a/v2/; } }\n\
         server { listen 443; server_name b.example; ssl_certificate c.pem; ssl_certificate_key c.key; \
         location /v2/ { proxy_pass http://127.0.0.1:8081/artifactory/api/docker/b/v2/; } }";
    let imported = import_text(text).unwrap();
    assert_eq!(bound(&imported), ["0.0.0.0:443 a.example -> a", "0.0.0.0:443 b.example -> b"]);
    assert_eq!(objections(&imported), [""; 0]);
}

#[test]
fn what_check_has_against_it_is_said_with_its_line() {
    let text = "server { listen 5000; location /v2/ { proxy_pass http://artifactory:8081/artifactory/api/docker/a/v2/; } }\n\
         server { listen 10.0.0.1:5000; location /v2/ { proxy_pass http://artifactory:8081/artifactory/api/docker/b/v2/; } }";
    let imported = import_text(text).unwrap();
    let said: Vec<(usize, &str)> =
        imported.objections.iter().map(|objection| (objection.problem.line, objection.problem.message.as_str())).collect();
    let line = |start: &str| 1 + imported.toml.lines().position(|line| line.starts_with(start)).unwrap();
    assert_eq!(said[0], (line("tcp ="), "\"artifactory:8081\" is no IP address and port"));
    assert!(said[1].1.contains("overlaps") && said[1].0 == line("listen = \"10.0.0.1"), "{said:?}");
    let nothing = import_text("events {}\n").unwrap();
    assert!(objections(&nothing)[0].starts_with("nothing is bound"), "{:?}", nothing.objections);
}
