//! Threads for long work that gives way to requests: making blocks, merging them.
//!
//! Whoever waits for an acknowledgement or an answer waits less, a block can. A thread is made for each piece of work, as a
//! thread that has lowered its priority may not raise it again. How many there are at once is the callers' bound.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use thread_priority::{ThreadPriority, ThreadPriorityValue};
use tokio::sync::oneshot;

/// Of 100, where 50 is ordinary: about nice 5, a quarter of the time of a core that others want too.
const PRIORITY: u8 = 35;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("cannot start a thread")]
    Start(#[source] io::Error),
    #[error("the work panicked: {0}")]
    Panicked(String),
}

/// Does the work on a thread of this name, which goes behind others. It goes on if nobody waits for it any more.
pub async fn run<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failed> {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        give_way();
        // Whoever asked may be gone.
        let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
    });
    thread.map_err(Failed::Start)?;
    match result.await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(panic)) => Err(Failed::Panicked(message(&*panic))),
        Err(_) => Err(Failed::Panicked("its thread ended without a result".to_owned())),
    }
}

/// Puts the calling thread behind others, for ever.
pub fn give_way() {
    let priority = ThreadPriorityValue::try_from(PRIORITY).map(ThreadPriority::Crossplatform).map_err(|_| "out of range");
    if let Err(error) = priority.and_then(|priority| priority.set_for_current().map_err(|_| "refused by the system")) {
        tracing::debug!(error, "background work runs at ordinary priority");
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_result_comes_back_or_what_the_panic_said() {
        let name = run("work", || std::thread::current().name().map(str::to_owned)).await.unwrap();
        assert_eq!(name.as_deref(), Some("work"));
        let number = 7;
        let failed = run("work", move || assert_eq!(number, 8, "wrong number")).await.unwrap_err();
        assert!(failed.to_string().contains("wrong number"), "{failed}");
        let failed = run("work", || panic!("plain")).await.map(|()| ()).unwrap_err();
        assert_eq!(failed.to_string(), "the work panicked: plain");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn it_gives_way() {
        // The 19th field, of which the second is a name in brackets.
        let niceness = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(16)).unwrap().parse::<i32>().unwrap()
        };
        let ordinary = niceness();
        let given = run("work", niceness).await.unwrap();
        // Who is as far behind already stays there.
        assert!(given > ordinary || ordinary >= 5, "nice {given}, of others {ordinary}");
    }
}
