//! The clients of all classes, found by what they answer.

use std::collections::HashMap;

use crate::client::{Client, Question};

/// One client for every class: the first is the unknown caller, who answers
/// every question with no.
pub(super) struct Clients<'a> {
    all: Vec<Client<'a>>,
    by_namespace: HashMap<&'a str, Vec<usize>>,
    /// By key and value.
    by_label: HashMap<&'a str, HashMap<&'a str, Vec<usize>>>,
    with_addresses: Vec<usize>,
    bypassed: Vec<usize>,
}

impl<'a> Clients<'a> {
    /// Of these, by class; only the first `indexed` are ever [found](Self::yes).
    pub fn new(all: Vec<Client<'a>>, indexed: usize) -> Self {
        let mut clients = Self {
            all,
            by_namespace: HashMap::new(),
            by_label: HashMap::new(),
            with_addresses: Vec::new(),
            bypassed: Vec::new(),
        };
        for (class, client) in clients.all.iter().take(indexed).enumerate() {
            if let Some(namespace) = client.namespace {
                clients.by_namespace.entry(namespace).or_default().push(class);
            }
            for (key, value) in client.labels.into_iter().flatten() {
                let values = clients.by_label.entry(key).or_default();
                values.entry(value).or_default().push(class);
            }
            if !client.addresses.is_empty() {
                clients.with_addresses.push(class);
            }
            if client.bypassed {
                clients.bypassed.push(class);
            }
        }
        clients
    }

    /// The client of a class.
    pub fn get(&self, class: usize) -> Option<Client<'a>> {
        self.all.get(class).copied()
    }

    /// The classes that answer a question with yes, in their order.
    pub fn yes(&self, question: &Question<'_>) -> Vec<usize> {
        let few: &[usize] = match question {
            Question::Namespace(namespace) => {
                let all = self.by_namespace.get(*namespace);
                return all.cloned().unwrap_or_default();
            }
            Question::Labels(labels) => {
                let with = labels.iter().map(|(key, value)| {
                    let classes = self.by_label.get(key);
                    let classes = classes.and_then(|values| values.get(value));
                    classes.map_or(&[][..], Vec::as_slice)
                });
                with.min_by_key(|classes| classes.len()).unwrap_or(&[])
            }
            Question::Within(_) | Question::Address(_) => &self.with_addresses,
            Question::Bypassed => &self.bypassed,
        };
        let yes = |class: &&usize| self.get(**class).is_some_and(|one| one.answer(question));
        few.iter().filter(yes).copied().collect()
    }
}
