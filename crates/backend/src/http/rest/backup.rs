//! `POST /api/system/backup {"directory"}` and `GET /api/system/backup`: what `berth-backend backup` asks a backend that
//! runs. Directories are the operator's own, so refusals name them.

use std::path::PathBuf;

use berth_registry::{Body, Clock};
use berth_storage::rocksdb::BackupError;
use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{RestCall, bad, read_json};
use crate::http::errors;
use crate::http::respond::{Answer, json};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Form {
    /// Where to: an absolute path on the machine that the backend runs on.
    #[schemars(with = "String")]
    directory: PathBuf,
}

pub(super) async fn make(call: &RestCall, body: Body) -> Result<Answer, Answer> {
    let Form { directory } = read_json(call, body).await?;
    if !directory.is_absolute() {
        return Err(bad("directory must be an absolute path"));
    }
    let backups = call.backups.clone();
    let taken = tokio::task::spawn_blocking(move || backups.take(&directory, Clock::system().now_ms())).await;
    match taken {
        Ok(Ok(taken)) => {
            tracing::info!(path = %taken.path.display(), data.files = taken.manifest.data_files, "a backup was made");
            Ok(json(StatusCode::OK, &taken))
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "a backup failed");
            Err(errors::rest(status_of(&error), &error.to_string()))
        }
        Err(died) => {
            tracing::error!(%died, "a backup died");
            Err(errors::rest(StatusCode::INTERNAL_SERVER_ERROR, "internal error"))
        }
    }
}

fn status_of(error: &BackupError) -> StatusCode {
    match error {
        BackupError::Busy | BackupError::NotEmpty(_) => StatusCode::CONFLICT,
        BackupError::InsideStore(_) | BackupError::NotWhole { .. } => StatusCode::BAD_REQUEST,
        BackupError::Io { .. } | BackupError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

pub(super) fn progress(call: &RestCall) -> Answer {
    json(StatusCode::OK, &call.backups.progress())
}
