//! The one that connects, as the rules see it: a namespace, labels, addresses.
//!
//! Everything that depends on the client is asked through an [`Asker`], which
//! can keep a record of what was asked. Another client that answers the same
//! questions alike gets the same result, so one evaluation serves both.

use std::cell::RefCell;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::Labels;

/// Who connects. A caller in no known workload has neither namespace nor
/// labels nor addresses, and answers every question with no.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Client<'c> {
    /// The workload's namespace.
    pub namespace: Option<&'c str>,
    /// The workload's labels.
    pub labels: Option<&'c Labels>,
    /// The workload's own addresses, as far as known.
    pub addresses: &'c [IpAddr],
}

/// What can be asked about a client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Question<'q> {
    /// Is this its namespace?
    Namespace(&'q str),
    /// Does it carry all of these labels?
    Labels(&'q Labels),
    /// Has it an address in this prefix?
    Within(IpNet),
    /// Has it this address?
    Address(IpAddr),
}

impl Client<'_> {
    /// Answers a question.
    pub fn answer(&self, question: &Question<'_>) -> bool {
        match question {
            Question::Namespace(namespace) => self.namespace == Some(*namespace),
            Question::Labels(wanted) => self.labels.is_some_and(|labels| contains(labels, wanted)),
            Question::Within(prefix) => {
                self.addresses.iter().any(|address| prefix.contains(address))
            }
            Question::Address(address) => self.addresses.contains(address),
        }
    }
}

/// Whether `labels` has every pair of `wanted`.
pub fn contains(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Asks a client, and may keep a record.
#[derive(Debug)]
pub struct Asker<'c, 'q> {
    client: Client<'c>,
    record: Option<RefCell<Vec<(Question<'q>, bool)>>>,
}

impl<'c, 'q> Asker<'c, 'q> {
    /// Asks without a record.
    pub fn new(client: Client<'c>) -> Self {
        Self { client, record: None }
    }

    /// Asks and keeps a record of the answers.
    pub fn recording(client: Client<'c>) -> Self {
        Self { client, record: Some(RefCell::default()) }
    }

    /// Who is asked.
    pub fn client(&self) -> Client<'c> {
        self.client
    }

    /// The questions and answers so far.
    pub fn into_record(self) -> Vec<(Question<'q>, bool)> {
        self.record.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Asks.
    pub fn ask(&self, question: Question<'q>) -> bool {
        let answer = self.client.answer(&question);
        if let Some(record) = &self.record {
            record.borrow_mut().push((question, answer));
        }
        answer
    }

    /// Is this its namespace?
    pub fn in_namespace(&self, namespace: &'q str) -> bool {
        self.ask(Question::Namespace(namespace))
    }

    /// Does it carry all of these labels? Not asked when there are none:
    /// whoever it is, it does.
    pub fn has_labels(&self, labels: &'q Labels) -> bool {
        labels.is_empty() || self.ask(Question::Labels(labels))
    }
}
