//! Work that is not part of waiting for something: connections, streams of HTTP/2, and guests that work on after their response.
//!
//! **Invariant:** every spawned task belongs to a [`Tasks`], which stops them all when it is dropped.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// The tasks of a host.
#[derive(Default)]
pub(super) struct Tasks(Mutex<JoinSet<()>>);

impl Tasks {
    /// Runs `task`.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.lock();
        let_go(&mut tasks);
        tasks.spawn(task);
    }

    /// Lets go of those that ended, which keep their memory until then: also where no other begins. To be called several times a
    /// second.
    pub(super) fn let_go(&self) {
        let_go(&mut self.lock());
    }

    /// Waits until all have ended, at most for `grace`; hands over those that have not, if there are any.
    pub(super) async fn finish_within(&self, grace: Duration) -> Option<Left<'_>> {
        let deadline = tokio::time::Instant::now() + grace;
        // A connection that ends may leave a guest's last work behind, so it is asked until nothing is left.
        loop {
            let mut tasks = self.take();
            if tasks.is_empty() {
                return None;
            }
            let all = async { while tasks.join_next().await.is_some() {} };
            if tokio::time::timeout_at(deadline, all).await.is_err() {
                return Some(Left { tasks: self, waited_for: tasks });
            }
        }
    }

    fn take(&self) -> JoinSet<()> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn let_go(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.try_join_next() {
        if let Err(error) = ended
            && error.is_panic()
        {
            tracing::error!(%error, "a task panicked");
        }
    }
}

/// Tasks that outlasted their grace, and those that came meanwhile.
pub(super) struct Left<'t> {
    tasks: &'t Tasks,
    waited_for: JoinSet<()>,
}

impl Left<'_> {
    /// Stops them, and says how many there were.
    pub(super) async fn stop(self) -> usize {
        let mut tasks = self.waited_for;
        let mut stopped = 0;
        // What a task leaves behind when it is stopped is stopped as well.
        while !tasks.is_empty() {
            while tasks.try_join_next().is_some() {}
            stopped += tasks.len();
            tasks.shutdown().await;
            tasks = self.tasks.take();
        }
        stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn those_that_ended_are_let_go_of_though_no_other_begins() {
        let tasks = Tasks::default();
        for _ in 0..10 {
            tasks.spawn(async {});
        }
        tasks.spawn(std::future::pending());
        while tasks.lock().len() > 1 {
            tokio::task::yield_now().await;
            tasks.let_go();
        }
    }

    #[tokio::test]
    async fn tasks_are_waited_for_and_then_stopped() {
        let tasks = Arc::new(Tasks::default());
        let inner = Arc::clone(&tasks);
        tasks.spawn(async move { inner.spawn(tokio::time::sleep(Duration::from_millis(20))) });
        assert!(tasks.finish_within(Duration::from_secs(5)).await.is_none());
        tasks.spawn(std::future::pending());
        tasks.spawn(async {});
        let left = tasks.finish_within(Duration::from_millis(20)).await.unwrap();
        // One that came while the others were waited for.
        tasks.spawn(std::future::pending());
        assert_eq!(left.stop().await, 2);
    }
}
