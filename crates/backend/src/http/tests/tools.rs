//! Backups and imports: the commands, and what clients get afterwards.

use clap::Parser as _;
use serde_json::json;

use super::*;

/// Runs a command as a shell does, in a process of its own as far as that can be; whether it went well.
async fn berth(arguments: Vec<String>) -> bool {
    let (done, outcome) = oneshot::channel();
    std::thread::spawn(move || {
        let arguments = std::iter::once("berth-backend".to_owned()).chain(arguments);
        let ran = crate::run(crate::Arguments::try_parse_from(arguments).unwrap().command);
        let _ = done.send(ran.map(|code| format!("{code:?}")));
    });
    match outcome.await.unwrap() {
        Ok(code) => code == format!("{:?}", std::process::ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("{error:#}");
            false
        }
    }
}

impl Backend {
    async fn stop(&mut self) {
        drop(self.stop.take());
        self.task.take().unwrap().await.unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    async fn command(&self, command: &str, rest: &[&str]) -> bool {
        let start = [command.to_owned(), "--config".to_owned(), self.path("backend.toml")];
        berth(start.into_iter().chain(rest.iter().map(|text| (*text).to_owned())).collect()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_saved_while_it_is_in_use_and_comes_back_elsewhere() {
    let mut backend = Backend::start().await;
    let first = backend.push_image("docker-v2", "team/app", "1").await;
    let large = backend.push_blob("docker-v2", "team/app", &vec![9; 200_000]).await;
    let (backups, backend_toml) = (backend.path("backups"), backend.path("backend.toml"));
    assert!(backend.command("backup", &[&backups]).await);
    backend.put_manifest("docker-v2", "team/app", "2", &first).await;
    // The backend need not run.
    backend.stop().await;
    assert!(backend.command("backup", &[&backups]).await);
    let mut taken: Vec<_> = std::fs::read_dir(&backups).unwrap().map(|entry| entry.unwrap().path()).collect();
    taken.sort();
    assert_eq!(taken.len(), 2);
    let oldest = taken[0].to_str().unwrap();
    assert!(!backend.command("restore", &[oldest]).await, "over a store that is there");

    backend.config = CONFIG.replace("data_dir = \"data\"", "data_dir = \"restored\"");
    std::fs::write(&backend_toml, &backend.config).unwrap();
    assert!(!backend.command("restore", &[&backups]).await, "what is no backup");
    assert!(backend.command("restore", &[oldest]).await);
    assert!(backend.command("check", &[]).await);
    backend.open().await;
    assert_eq!(backend.get("@docker-v2/v2/team/app/manifests/1").await.text(), first);
    assert_eq!(backend.get("@docker-v2/v2/team/app/manifests/2").await.status, 404);
    assert_eq!(backend.get(&format!("@docker-v2/v2/team/app/blobs/{large}")).await.body, vec![9; 200_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_operator_makes_backups() {
    let backend = Backend::start().await;
    let (to, data_dir) = (backend.path("backups"), backend.directory.path().join("data"));
    let body = json!({ "directory": to }).to_string();
    for (method, authorization) in [("POST", None), ("GET", None), ("POST", Some("")), ("GET", Some(""))] {
        // An admin with a password too: it is the machine's directories that this is about.
        let headers: Vec<(&str, &str)> = authorization.map(|value| ("Authorization", value)).into_iter().collect();
        let refused = backend.send(method, "/artifactory/api/system/backup", &headers, body.as_bytes()).await;
        assert_eq!(refused.status, 403, "{method} {authorization:?}: {}", refused.text());
    }
    assert!(!std::path::Path::new(&to).exists());
    let ask = async |method: Method, body| {
        let answer = crate::operator::ask_backend(&data_dir, method.clone(), "system/backup", body).await;
        if let Ok(Some(answer)) = &answer {
            described::check_json(method, "/artifactory/api/system/backup", answer);
        }
        answer
    };
    let idle = ask(Method::GET, None).await.unwrap().unwrap();
    assert_eq!((&idle["running"], &idle["files"]), (&json!(false), &json!(0)));
    for (directory, why) in [("backups", "absolute"), (data_dir.join("data").to_str().unwrap(), "among the store's own files")] {
        let refused = ask(Method::POST, Some(json!({ "directory": directory }))).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    let taken = ask(Method::POST, Some(json!({ "directory": to }))).await.unwrap().unwrap();
    assert!(taken["path"].as_str().unwrap().starts_with(&to));
    assert_eq!(backend.send("PUT", "/artifactory/api/system/backup", &[], b"").await.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_imported_is_pulled_like_what_was_pushed() {
    let mut backend = Backend::start().await;
    let (top, base) = ("2".repeat(64), "1".repeat(64));
    let images =
        [(&base, format!(r#"{{"id":"{base}"}}"#), vec![7; 100_000]), (&top, format!(r#"{{"id":"{top}","parent":"{base}"}}"#), vec![8; 10])];
    for (id, json, layer) in &images {
        let directory = backend.directory.path().join("registry/images").join(id);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("json"), json).unwrap();
        std::fs::write(directory.join("layer"), layer).unwrap();
    }
    let tags = backend.directory.path().join("registry/repositories/library/ubuntu");
    std::fs::create_dir_all(&tags).unwrap();
    std::fs::write(tags.join("tag_12.04"), &top).unwrap();
    let import = ["--repository", "docker-v1", &backend.path("registry")];
    assert!(!backend.command("import-v1", &import).await, "while a backend runs");
    backend.stop().await;
    assert!(backend.command("import-v1", &import).await);
    std::fs::write(tags.join("tag_broken"), "3".repeat(64)).unwrap();
    assert!(!backend.command("import-v1", &import).await, "though something could not be imported");
    assert!(!backend.command("import-archive", &["--repository", "docker-v2", &backend.path("backend.toml")]).await);
    assert!(backend.command("check", &[]).await);
    backend.open().await;
    for spelling in ["ubuntu", "library/ubuntu"] {
        let tags = backend.get(&format!("@docker-v1/v1/repositories/{spelling}/tags")).await;
        assert_eq!(tags.json(), json!({ "12.04": top }));
    }
    assert_eq!(backend.get(&format!("@docker-v1/v1/images/{top}/ancestry")).await.json(), json!([top, base]));
    for (id, json, layer) in &images {
        assert_eq!(backend.get(&format!("@docker-v1/v1/images/{id}/json")).await.text(), *json);
        assert!(backend.get(&format!("@docker-v1/v1/images/{id}/layer")).await.body == *layer);
    }
    assert_eq!(backend.get(&format!("@docker-v1/v1/images/{top}/json")).await.header("X-Docker-Size"), Some("10"));
}
