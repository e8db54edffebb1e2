//! Tests, some at a time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::libtest::{Binary, Case, Outcome};

/// Longer than any test takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// A test of a program.
#[derive(Clone, Debug)]
pub struct Test<'a> {
    /// The program.
    pub binary: &'a Binary,
    /// What it belongs to.
    pub suite: String,
    /// Its path in the program.
    pub name: String,
}

/// How tests are run.
pub struct Pool {
    /// How many at a time.
    pub workers: usize,
    /// What is added to their environment.
    pub environment: Vec<(String, String)>,
    /// The directory of what they print.
    pub logs: PathBuf,
}

/// What happens while tests run.
pub enum Event<'a> {
    /// This one begins.
    Begins(&'a Test<'a>),
    /// One of this suite has ended.
    Ended(String, Case),
    /// It was the last one of its suite.
    SuiteEnded(String),
}

impl Pool {
    /// The file of what a test prints.
    pub fn log(&self, suite: &str, test: &str) -> PathBuf {
        self.logs.join(format!("{suite} {}.log", test.replace("::", "-")))
    }

    /// Runs tests; `tell` is told what happens.
    ///
    /// # Errors
    ///
    /// Those of `tell`.
    pub fn run<'a>(
        &self,
        tests: &'a [Test<'a>],
        mut tell: impl FnMut(Event<'a>) -> Result<()>,
    ) -> Result<()> {
        let mut left: BTreeMap<&str, usize> = BTreeMap::new();
        for test in tests {
            *left.entry(&test.suite).or_default() += 1;
        }
        let queue = Mutex::new(tests.iter());
        let (sender, events) = channel();
        thread::scope(|scope| {
            for _ in 0..self.workers.min(tests.len()) {
                let (queue, sender) = (&queue, sender.clone());
                scope.spawn(move || {
                    let next = || queue.lock().ok()?.next();
                    while let Some(test) = next() {
                        // Nobody listens any more when telling has failed.
                        if sender.send(Event::Begins(test)).is_err() {
                            return;
                        }
                        let log = self.log(&test.suite, &test.name);
                        let case = test
                            .binary
                            .run(&test.name, &self.environment, &log, LIMIT)
                            .unwrap_or_else(|error| Case {
                                name: test.name.clone(),
                                outcome: Outcome::Failed(format!("{error:#}")),
                                seconds: 0.0,
                            });
                        let _ = sender.send(Event::Ended(test.suite.clone(), case));
                    }
                });
            }
            drop(sender);
            for event in events {
                let last = match &event {
                    Event::Ended(suite, _) => left.get_mut(suite.as_str()).and_then(|left| {
                        *left -= 1;
                        (*left == 0).then(|| suite.clone())
                    }),
                    _ => None,
                };
                tell(event)?;
                if let Some(suite) = last {
                    tell(Event::SuiteEnded(suite))?;
                }
            }
            Ok(())
        })
    }
}
