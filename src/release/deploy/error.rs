//! Why a change was not made.

use super::super::data::AppMigrationError;
use super::super::install::InstallError;
use crate::manifest::{ManifestError, RoutePattern};
use crate::names::Name;
use crate::storage::artifacts::Digest256;
use crate::storage::releases::RecordError;
use std::path::PathBuf;

/// Why a change was not made. Nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The release cannot be installed.
    #[error("{0}")]
    Install(#[from] InstallError),
    /// One of its databases cannot be made what it needs. What was done to it before that stays.
    #[error("{0}")]
    Migration(#[from] AppMigrationError),
    /// The record cannot be read or written.
    #[error("{0}")]
    Record(#[from] RecordError),
    /// The manifest of a recorded release is not understood any more.
    #[error("release {number} of {app} was recorded by another version of fnhost: {cause}")]
    Outdated {
        /// The app.
        app: Name,
        /// The release.
        number: u64,
        /// What is wrong with it now.
        cause: ManifestError,
    },
    /// Another host has the state folder.
    #[error("another fnhost serves from the state folder {}; `up --take-over` takes its place", .0.display())]
    Taken(PathBuf),
    /// The state folder cannot be locked.
    #[error("the state folder {} cannot be locked: {cause}", folder.display())]
    Lock {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// Components that have to be uploaded first.
    #[error("{} components have to be uploaded first", .0.len())]
    Missing(Vec<Digest256>),
    /// Another change of the same app is under way.
    #[error("another change of {0} is under way; name the release that yours builds on, or force it")]
    Busy(Name),
    /// Another process is about to serve in this one's place.
    #[error("the host is being handed over to another process; try again")]
    HandingOver,
    /// The app is not what the change was made for.
    #[error("{app} is at release {}, and not at {base}", live.map_or_else(|| "none".to_owned(), |live| live.to_string()))]
    Moved {
        /// The app.
        app: Name,
        /// What the change was made for.
        base: u64,
        /// What is live.
        live: Option<u64>,
    },
    /// Another app answers the same requests.
    #[error("`{pattern}` of {app} claims the same requests as a route of {owner}")]
    Claimed {
        /// The route.
        pattern: RoutePattern,
        /// Whose it is.
        app: Name,
        /// Who has it already.
        owner: Name,
    },
    /// There is no such app.
    #[error("there is no app {0}")]
    NoApp(Name),
    /// There is no such release, or none any more.
    #[error("{app} has no release {number}")]
    NoRelease {
        /// The app.
        app: Name,
        /// The release.
        number: u64,
    },
    /// Nothing is on trial.
    #[error("{0} has no canary")]
    NoCanary(Name),
    /// Nothing is live that a canary could stand beside.
    #[error("{0} has no live release that a canary could stand beside; deploy it whole first")]
    NoLive(Name),
    /// Nothing was live before.
    #[error("{0} has no earlier release to go back to")]
    NothingBefore(Name),
    /// It is live already.
    #[error("release {number} of {app} is live already")]
    AlreadyLive {
        /// The app.
        app: Name,
        /// The release.
        number: u64,
    },
}
