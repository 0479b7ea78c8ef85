//! Managing users, groups, permission targets and tokens from a shell.
//!
//! Every command is a request to the REST API, sent as the operator: over the socket in the data directory if a backend is
//! running on it, else to the same code in this process. Whoever may open that socket could change the store itself.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use berth_names::AccountName;
use berth_registry::access::random_password;
use bytes::Bytes;
use clap::{Args, Subcommand};
use futures::{StreamExt as _, stream};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::UnixStream;

use crate::config::Config;
use crate::http::Service;

/// The directory of the operator's socket within the data directory, closed to everybody else.
pub(crate) const DIRECTORY: &str = "operator";

/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Seconds in a day.
const DAY_S: u64 = 24 * 60 * 60;

/// The socket of the backend that runs on this data directory.
pub(crate) fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join(DIRECTORY).join("backend.sock")
}

#[derive(Subcommand)]
pub(crate) enum UserCommand {
    /// Create a user. Prints a random password unless one is given.
    Add {
        name: AccountName,
        /// Read the password from this file; `-` is standard input.
        #[arg(long)]
        password_file: Option<PathBuf>,
        /// May do everything.
        #[arg(long)]
        admin: bool,
        /// A machine: no password, only access tokens.
        #[arg(long, conflicts_with = "password_file")]
        robot: bool,
        #[arg(long)]
        email: Option<String>,
        /// A group that it belongs to; may be given more than once.
        #[arg(long = "group")]
        groups: Vec<AccountName>,
    },
    /// List the users' names.
    List,
    /// Show a user.
    Show { name: AccountName },
    /// Give a user a new password, which ends everything that was issued before.
    Password {
        name: AccountName,
        /// Read the password from this file; `-` is standard input. Default: a random one, printed.
        #[arg(long)]
        password_file: Option<PathBuf>,
    },
    /// Make a user an admin.
    Promote { name: AccountName },
    /// Make an admin a plain user.
    Demote { name: AccountName },
    /// Let a user log in again.
    Enable { name: AccountName },
    /// Keep a user from logging in, and end everything that was issued before.
    Disable { name: AccountName },
    /// Delete a user, its tokens and its rights.
    Delete { name: AccountName },
}

#[derive(Subcommand)]
pub(crate) enum GroupCommand {
    /// Create a group.
    Add {
        name: AccountName,
        #[arg(long)]
        description: Option<String>,
        /// Users who are created from now on belong to it.
        #[arg(long)]
        auto_join: bool,
        /// A member; may be given more than once.
        #[arg(long = "user")]
        users: Vec<AccountName>,
    },
    /// List the groups' names.
    List,
    /// Show a group and its members.
    Show { name: AccountName },
    /// Set a group's members to exactly these.
    Members { name: AccountName, users: Vec<AccountName> },
    /// Delete a group; its members stay.
    Delete { name: AccountName },
}

#[derive(Subcommand)]
pub(crate) enum PermissionCommand {
    /// Create or replace a permission target.
    Set(PermissionArguments),
    /// List the permission targets' names.
    List,
    /// Show a permission target.
    Show { name: AccountName },
    /// Delete a permission target.
    Delete { name: AccountName },
}

#[derive(Args)]
pub(crate) struct PermissionArguments {
    name: AccountName,
    /// A repository it is about, or ANY; may be given more than once.
    #[arg(long = "repository", required = true)]
    repositories: Vec<String>,
    /// A pattern of image names it is about, `team/**` for instance; may be given more than once.
    #[arg(long = "include", default_value = "**")]
    includes: Vec<String>,
    /// A pattern of image names it is not about; may be given more than once.
    #[arg(long = "exclude")]
    excludes: Vec<String>,
    /// A user and rights, `alice=rwd` (r read, w deploy, n annotate, d delete, m manage); `anonymous=r` is for everybody.
    #[arg(long = "user", value_parser = parse_grant)]
    users: Vec<(AccountName, String)>,
    /// A group and rights, `developers=rw`.
    #[arg(long = "group", value_parser = parse_grant)]
    groups: Vec<(AccountName, String)>,
}

#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// Make an access token for a user or robot, and print it: it is shown only once.
    Add {
        user: AccountName,
        /// What it is for.
        #[arg(long, default_value = "")]
        description: String,
        /// When it ends. Default: never.
        #[arg(long)]
        days: Option<u64>,
        /// What it may be used for, `docker-local:team/**:rw`; may be given more than once. Default: all the user may do.
        #[arg(long = "scope", value_parser = parse_scope)]
        scope: Vec<Value>,
    },
    /// List a user's access tokens.
    List { user: AccountName },
    /// End an access token.
    Revoke { user: AccountName, id: String },
}

fn parse_grant(text: &str) -> Result<(AccountName, String), String> {
    let (name, rights) = text.split_once('=').ok_or("expected name=rights, as in alice=rw")?;
    rights.parse::<berth_registry::access::Rights>().map_err(|error| error.to_string())?;
    Ok((name.parse().map_err(|error: berth_names::InvalidAccountName| error.to_string())?, rights.to_owned()))
}

fn parse_scope(text: &str) -> Result<Value, String> {
    let mut parts = text.splitn(3, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(repository), Some(images), Some(rights)) => Ok(json!({ "repository": repository, "images": images, "rights": rights })),
        _ => Err("expected repository:images:rights, as in docker-local:team/**:rw".to_owned()),
    }
}

/// A request to the REST API, and what is printed before its answer.
struct Order {
    method: Method,
    path: String,
    body: Option<Value>,
    /// Printed if it succeeds: a password that nobody else knows.
    note: Option<String>,
}

impl Order {
    fn new(method: Method, path: impl AsRef<str>) -> Self {
        Self::of_api(method, &format!("security/{}", path.as_ref()))
    }

    fn of_api(method: Method, path: &str) -> Self {
        Self { method, path: format!("/artifactory/api/{path}"), body: None, note: None }
    }

    fn with(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }
}

/// Reads a password from a file or standard input, or makes one up and says so.
fn password(file: Option<&Path>) -> anyhow::Result<(String, Option<String>)> {
    let text = match file {
        None => {
            let password = random_password()?;
            let note = format!("password: {password}   (shown once)");
            return Ok((password, Some(note)));
        }
        Some(path) if path == Path::new("-") => {
            if std::io::stdin().is_terminal() {
                eprint!("password (it will be visible): ");
                std::io::stderr().flush()?;
            }
            let mut line = String::new();
            std::io::stdin().read_line(&mut line)?;
            line
        }
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("can't read the password from {}", path.display()))?,
    };
    Ok((text.trim_end_matches(['\r', '\n']).to_owned(), None))
}

pub(crate) async fn user(config: &Config, command: UserCommand) -> anyhow::Result<()> {
    let change = |name: AccountName, body: Value| Order::new(Method::POST, format!("users/{name}")).with(body);
    let order = match command {
        UserCommand::Add { name, password_file, admin, robot, email, groups } => {
            let (secret, note) =
                if robot { (None, None) } else { password(password_file.as_deref()).map(|(text, note)| (Some(text), note))? };
            let mut body = Map::from_iter([("admin".to_owned(), admin.into()), ("robot".to_owned(), robot.into())]);
            body.extend(secret.map(|text| ("password".to_owned(), text.into())));
            body.extend(email.map(|text| ("email".to_owned(), text.into())));
            if !groups.is_empty() {
                body.insert("groups".to_owned(), json!(groups));
            }
            Order { note, ..Order::new(Method::PUT, format!("users/{name}?create=true")).with(body.into()) }
        }
        UserCommand::List => Order::new(Method::GET, "users"),
        UserCommand::Show { name } => Order::new(Method::GET, format!("users/{name}")),
        UserCommand::Password { name, password_file } => {
            let (secret, note) = password(password_file.as_deref())?;
            Order { note, ..change(name, json!({ "password": secret })) }
        }
        UserCommand::Promote { name } => change(name, json!({ "admin": true })),
        UserCommand::Demote { name } => change(name, json!({ "admin": false })),
        UserCommand::Enable { name } => change(name, json!({ "enabled": true })),
        UserCommand::Disable { name } => change(name, json!({ "enabled": false })),
        UserCommand::Delete { name } => Order::new(Method::DELETE, format!("users/{name}")),
    };
    carry_out(config, order).await
}

pub(crate) async fn group(config: &Config, command: GroupCommand) -> anyhow::Result<()> {
    let order = match command {
        GroupCommand::Add { name, description, auto_join, users } => {
            let body = json!({ "description": description.unwrap_or_default(), "autoJoin": auto_join, "userNames": users });
            Order::new(Method::PUT, format!("groups/{name}?create=true")).with(body)
        }
        GroupCommand::List => Order::new(Method::GET, "groups"),
        GroupCommand::Show { name } => Order::new(Method::GET, format!("groups/{name}")),
        GroupCommand::Members { name, users } => Order::new(Method::POST, format!("groups/{name}")).with(json!({ "userNames": users })),
        GroupCommand::Delete { name } => Order::new(Method::DELETE, format!("groups/{name}")),
    };
    carry_out(config, order).await
}

pub(crate) async fn permission(config: &Config, command: PermissionCommand) -> anyhow::Result<()> {
    let order = match command {
        PermissionCommand::Set(PermissionArguments { name, repositories, includes, excludes, users, groups }) => {
            let letters = |grants: Vec<(AccountName, String)>| {
                let spread = |rights: String| rights.chars().map(String::from).collect::<Vec<_>>();
                grants.into_iter().map(|(name, rights)| (name.to_string(), json!(spread(rights)))).collect::<Map<_, _>>()
            };
            let body = json!({
                "includesPattern": includes.join(","), "excludesPattern": excludes.join(","), "repositories": repositories,
                "principals": { "users": letters(users), "groups": letters(groups) },
            });
            Order::new(Method::PUT, format!("permissions/{name}")).with(body)
        }
        PermissionCommand::List => Order::new(Method::GET, "permissions"),
        PermissionCommand::Show { name } => Order::new(Method::GET, format!("permissions/{name}")),
        PermissionCommand::Delete { name } => Order::new(Method::DELETE, format!("permissions/{name}")),
    };
    carry_out(config, order).await
}

pub(crate) async fn token(config: &Config, command: TokenCommand) -> anyhow::Result<()> {
    let order = match command {
        TokenCommand::Add { user, description, days, scope } => {
            let mut body = json!({ "user": user, "description": description });
            if let Some(days) = days {
                body["expiresIn"] = days.saturating_mul(DAY_S).into();
            }
            if !scope.is_empty() {
                body["scope"] = scope.into();
            }
            Order::new(Method::POST, "tokens").with(body)
        }
        TokenCommand::List { user } => Order::new(Method::GET, format!("tokens?user={user}")),
        TokenCommand::Revoke { user, id } => Order::new(Method::DELETE, format!("tokens/{id}?user={user}")),
    };
    carry_out(config, order).await
}

async fn carry_out(config: &Config, order: Order) -> anyhow::Result<()> {
    let body = order.body.as_ref().map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let (status, answer) = match UnixStream::connect(socket(&config.data_dir)).await {
        Ok(stream) => ask_running(stream, &order, body).await?,
        // Nothing runs on the store (or the last one crashed), so it can be opened here; if one does run, that says so.
        Err(_) => ask_here(config, &order, body).await?,
    };
    let text = accepted(status, &answer)?;
    if let Some(note) = order.note {
        println!("{note}");
    }
    match serde_json::from_str::<Value>(&text) {
        Ok(Value::Array(entries)) => entries.iter().for_each(|entry| println!("{}", line_of(entry))),
        Ok(value) => println!("{value:#}"),
        Err(_) if text.is_empty() => {}
        Err(_) => println!("{text}"),
    }
    Ok(())
}

/// The text of an answer, unless it is a refusal.
fn accepted(status: StatusCode, answer: &[u8]) -> anyhow::Result<std::borrow::Cow<'_, str>> {
    let text = String::from_utf8_lossy(answer);
    if status.is_success() {
        return Ok(text);
    }
    let told = serde_json::from_str::<Value>(&text).ok().and_then(|value| Some(value["errors"][0]["message"].as_str()?.to_owned()));
    anyhow::bail!("{}", told.unwrap_or_else(|| format!("{status}: {text}")))
}

/// What the backend that runs on this data directory answers; `None`: none runs.
///
/// # Errors
/// What it says if it refuses.
pub(crate) async fn ask_backend(data_dir: &Path, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Option<Value>> {
    let Ok(stream) = UnixStream::connect(socket(data_dir)).await else { return Ok(None) };
    let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let (status, answer) = ask_running(stream, &Order::of_api(method, path), bytes).await?;
    Ok(Some(serde_json::from_str(&accepted(status, &answer)?)?))
}

/// A list's entry in one line: its name, or all of it where it has none.
fn line_of(entry: &Value) -> String {
    entry["name"].as_str().map_or_else(|| entry.to_string(), str::to_owned)
}

async fn ask_running(stream: UnixStream, order: &Order, body: Bytes) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder().method(&order.method).uri(&order.path).header("host", "localhost");
    let request = request.header("content-type", "application/json").body(Full::new(body))?;
    let answer = sender.send_request(request).await.context("the running backend does not answer")?;
    let status = answer.status();
    let bytes = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    connection.abort();
    Ok((status, bytes.map_err(|error| anyhow::anyhow!("the running backend's answer: {error}"))?.to_bytes()))
}

async fn ask_here(config: &Config, order: &Order, body: Bytes) -> anyhow::Result<(StatusCode, Bytes)> {
    let opened = crate::open(config)?;
    let (service, writer) = Service::open(config, &opened)?;
    let body = stream::iter([Ok(body)]).boxed();
    let answer = service.answer_operator(order.method.clone(), order.path.parse()?, body).await;
    let status = answer.status();
    let bytes = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    drop(opened);
    let _ = writer.join();
    Ok((status, bytes.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes()))
}
