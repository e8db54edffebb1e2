//! The one that connects, as the rules see it: a namespace, labels, addresses.
//!
//! Everything that depends on the client is asked through an [`Asker`], which
//! can keep a record of what was asked. Another client that answers the same
//! questions alike gets the same result, so one evaluation serves both.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

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
    /// It is left alone: see [`Bypass`](crate::model::bypass::Bypass).
    pub bypassed: bool,
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
    /// Is it left alone?
    Bypassed,
}

/// A question that stays when what asked it has gone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(missing_docs, reason = "those of Question, by the same names")]
pub enum Asked {
    Namespace(Arc<str>),
    Labels(Labels),
    Within(IpNet),
    Address(IpAddr),
    Bypassed,
}

impl From<&Question<'_>> for Asked {
    fn from(question: &Question<'_>) -> Self {
        match question {
            Question::Namespace(namespace) => Self::Namespace((*namespace).into()),
            Question::Labels(labels) => Self::Labels((*labels).clone()),
            Question::Within(prefix) => Self::Within(*prefix),
            Question::Address(address) => Self::Address(*address),
            Question::Bypassed => Self::Bypassed,
        }
    }
}

impl<'c> Client<'c> {
    /// Somebody in a namespace, of whom nothing else is known.
    pub fn in_namespace(namespace: &'c str) -> Self {
        Self { namespace: Some(namespace), ..Self::default() }
    }

    /// Answers a question.
    pub fn answer(&self, question: &Question<'_>) -> bool {
        match question {
            Question::Namespace(namespace) => self.namespace == Some(*namespace),
            Question::Labels(wanted) => self.labels.is_some_and(|labels| contains(labels, wanted)),
            Question::Within(prefix) => {
                self.addresses.iter().any(|address| prefix.contains(address))
            }
            Question::Address(address) => self.addresses.contains(address),
            Question::Bypassed => self.bypassed,
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
    record: Option<RefCell<Record<'q>>>,
}

/// What an answer was made from.
#[derive(Debug, Default)]
pub struct Record<'q> {
    /// What the client was asked, and said.
    pub answers: Vec<(Question<'q>, bool)>,
    /// The full names of the hosts that were looked up for it.
    pub hosts: Vec<Arc<str>>,
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

    /// What was asked and looked up so far.
    pub fn into_record(self) -> Record<'q> {
        self.record.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Asks.
    pub fn ask(&self, question: Question<'q>) -> bool {
        let answer = self.client.answer(&question);
        if let Some(record) = &self.record {
            record.borrow_mut().answers.push((question, answer));
        }
        answer
    }

    /// Says that services of this host, or DestinationRules for it, are looked up.
    pub fn looks_up(&self, host: &Arc<str>) {
        if let Some(record) = &self.record {
            record.borrow_mut().hosts.push(host.clone());
        }
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

/// Results by the answers that led to them.
///
/// Whoever asks deterministically always asks the same first question, and the
/// same next one after the same answers: so the records of all evaluations make
/// one tree, and a client's result is found by answering its way down.
#[derive(Debug)]
pub struct Answers<'q, T> {
    nodes: Vec<Node<'q, T>>,
}

#[derive(Debug)]
enum Node<'q, T> {
    Ask(Question<'q>, [Option<usize>; 2]),
    Result(T),
}

impl<T> Default for Answers<'_, T> {
    fn default() -> Self {
        Self { nodes: Vec::new() }
    }
}

impl<'q, T> Answers<'q, T> {
    /// The result for a client, when one that answers alike was evaluated.
    pub fn find(&self, client: &Client<'_>) -> Option<&T> {
        let mut at = 0;
        loop {
            match self.nodes.get(at)? {
                Node::Result(result) => return Some(result),
                Node::Ask(question, next) => at = next[usize::from(client.answer(question))]?,
            }
        }
    }

    /// Keeps a result with the record of its evaluation.
    pub fn insert(&mut self, record: Vec<(Question<'q>, bool)>, result: T) {
        let mut from: Option<(usize, usize)> = None;
        for (question, answer) in record {
            let at = self
                .child(from)
                .unwrap_or_else(|| self.grow(from, Node::Ask(question, [None, None])));
            from = Some((at, usize::from(answer)));
        }
        if self.child(from).is_none() {
            self.grow(from, Node::Result(result));
        }
    }

    /// Whether the result is the same for everybody.
    pub fn is_settled(&self) -> bool {
        matches!(self.nodes.first(), Some(Node::Result(_)))
    }

    fn child(&self, from: Option<(usize, usize)>) -> Option<usize> {
        match from {
            None => (!self.nodes.is_empty()).then_some(0),
            Some((at, answer)) => match self.nodes.get(at)? {
                Node::Ask(_, next) => next[answer],
                Node::Result(_) => None,
            },
        }
    }

    fn grow(&mut self, from: Option<(usize, usize)>, node: Node<'q, T>) -> usize {
        let at = self.nodes.len();
        self.nodes.push(node);
        if let Some((parent, answer)) = from
            && let Some(Node::Ask(_, next)) = self.nodes.get_mut(parent)
        {
            next[answer] = Some(at);
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_answers_alike_has_the_same_result() {
        let labels = Labels::from([("app".to_owned(), "a".to_owned())]);
        let of = |namespace| Client { namespace: Some(namespace), ..Client::default() };
        let evaluate = |client| {
            let who = Asker::recording(client);
            let result = match who.in_namespace("foo") {
                true => who.has_labels(&labels).to_string(),
                false => "elsewhere".to_owned(),
            };
            (who.into_record().answers, result)
        };
        let mut answers = Answers::default();
        let (record, result) = evaluate(of("bar"));
        answers.insert(record, result);
        assert_eq!(answers.find(&of("baz")).map(String::as_str), Some("elsewhere"));
        assert_eq!(answers.find(&of("foo")), None);
        let (record, result) = evaluate(of("foo"));
        answers.insert(record, result);
        assert_eq!(answers.find(&of("foo")).map(String::as_str), Some("false"));
        let with = Client { labels: Some(&labels), ..of("foo") };
        assert_eq!(answers.find(&with), None);
        assert!(!answers.is_settled());
    }

    #[test]
    fn a_result_without_questions_is_everybodys() {
        let mut answers = Answers::default();
        answers.insert(Vec::new(), 7);
        assert!(answers.is_settled());
        assert_eq!(answers.find(&Client::default()), Some(&7));
    }
}
