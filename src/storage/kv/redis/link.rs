//! The one connection of a store to its server, which is made when it is first needed, and made again when it is lost.
//!
//! **Invariants:** nothing that changes something is sent twice, for what became of the first cannot be known; nobody waits for
//! a server longer than [`ANSWER_WAIT`]; no error says what the URL says.

use super::super::StoreError;
use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::{Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, cmd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long making a connection may take.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How long the answer to a command may take.
const RESPONSE_WAIT: Duration = Duration::from_secs(5);
/// How long a call waits for all of it: a connection, another attempt, an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Attempts to connect behind the first, before those who wait are told, and the most that passes before each.
const RETRIES: usize = 1;
const RETRY_WAIT: Duration = Duration::from_millis(100);
/// A connection that was not used for so long is asked whether it is still there before anything is changed through it: many
/// servers close those that are idle.
const IDLE: Duration = Duration::from_secs(1);
/// Commands that wait to be sent, beyond which callers wait.
const PIPELINE: usize = 256;
/// The most bytes of what a server says of an error.
const TEXT_BYTES_MAX: usize = 256;

/// A connection, or none yet.
pub(super) struct Link {
    client: Client,
    password: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    manager: Option<ConnectionManager>,
    /// Which of those that were made it is.
    number: u64,
    /// When it last answered.
    answered: Option<Instant>,
}

/// What is sent to a server.
pub(super) enum Message {
    Command(Cmd),
    Transaction(Pipeline),
}

/// What it does there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Reads,
    Changes,
}

impl Link {
    pub(super) fn new(url: &str) -> Result<Self, StoreError> {
        let client = Client::open(url).map_err(|_| StoreError::Url)?;
        let password = client.get_connection_info().redis_settings().password();
        let password = password.filter(|password| !password.is_empty()).map(str::to_owned);
        Ok(Self { client, password, state: Mutex::default() })
    }

    /// The server's answer.
    pub(super) async fn ask<T: FromRedisValue>(&self, message: &Message, effect: Effect) -> Result<T, StoreError> {
        let answer = timeout(ANSWER_WAIT, async {
            let (mut manager, number) = self.awake(effect).await?;
            let first = send(&mut manager, message).await;
            let lost = first.as_ref().is_err_and(|error: &RedisError| error.is_connection_dropped());
            let answer = if lost && effect == Effect::Reads { send(&mut manager, message).await } else { first };
            self.note(number, answer.as_ref().err());
            answer
        });
        if let Ok(answer) = answer.await {
            answer.map_err(|error| self.explain(&error, effect))
        } else {
            self.locked().manager = None;
            Err(unanswered(effect, format!("nothing came within {} s", ANSWER_WAIT.as_secs())))
        }
    }

    /// The connection, which has answered of late if something is to be changed.
    async fn awake(&self, effect: Effect) -> RedisResult<(ConnectionManager, u64)> {
        let (mut manager, number, answered) = self.manager()?;
        if effect == Effect::Changes && answered.is_some_and(|at| at.elapsed() > IDLE) {
            let pong = send::<String>(&mut manager, &Message::Command(cmd("PING"))).await;
            self.note(number, pong.as_ref().err());
            if pong.is_err() {
                let (manager, number, _) = self.manager()?;
                return Ok((manager, number));
            }
        }
        Ok((manager, number))
    }

    fn manager(&self) -> RedisResult<(ConnectionManager, u64, Option<Instant>)> {
        let mut state = self.locked();
        if let Some(manager) = &state.manager {
            return Ok((manager.clone(), state.number, state.answered));
        }
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_WAIT))
            .set_response_timeout(Some(RESPONSE_WAIT))
            .set_number_of_retries(RETRIES)
            .set_min_delay(RETRY_WAIT)
            .set_max_delay(RETRY_WAIT)
            .set_pipeline_buffer_size(PIPELINE);
        let manager = ConnectionManager::new_lazy_with_config(self.client.clone(), config)?;
        *state = State { manager: Some(manager.clone()), number: state.number + 1, answered: None };
        Ok((manager, state.number, None))
    }

    /// Notes that connection `number` answered, or gives it up if it never will. One that was closed is made anew by itself.
    fn note(&self, number: u64, error: Option<&RedisError>) {
        let mut state = self.locked();
        if state.number != number {
            return;
        }
        let will_answer = error.is_none_or(|error| match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::UnexpectedReturnType => true,
            ErrorKind::Io => error.is_connection_dropped(),
            // It was refused as it began, or is in the middle of something.
            _ => false,
        });
        if !will_answer {
            state.manager = None;
        } else if error.is_none() {
            state.answered = Some(Instant::now());
        }
    }

    fn explain(&self, error: &RedisError, effect: Effect) -> StoreError {
        let mut text = error.to_string();
        if text.contains("OOM command not allowed") {
            return StoreError::NoSpace;
        }
        if text.contains("not an integer") {
            return StoreError::NotANumber;
        }
        if text.contains("would overflow") {
            return StoreError::Overflow;
        }
        if let Some(password) = &self.password {
            text = text.replace(password, "***");
        }
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        if error.is_io_error() && !error.is_connection_refusal() {
            return unanswered(effect, text);
        }
        StoreError::Unavailable(text)
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send<T: FromRedisValue>(manager: &mut ConnectionManager, message: &Message) -> RedisResult<T> {
    match message {
        Message::Command(command) => command.query_async(manager).await,
        Message::Transaction(commands) => commands.query_async(manager).await,
    }
}

fn unanswered(effect: Effect, text: String) -> StoreError {
    match effect {
        Effect::Reads => StoreError::Unavailable(text),
        Effect::Changes => StoreError::Unanswered(text),
    }
}
