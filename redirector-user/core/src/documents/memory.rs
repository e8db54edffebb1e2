//! What was read of a file before, so that only what is other is decoded again.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Read;
use crate::model::Object;
use crate::yaml::{Chunk, Node, Position, Value};

/// The good documents of a file, of which there was nothing to say.
#[derive(Debug, Default)]
pub struct Memory(FxHashMap<Key, Known>);

/// A document: a digest of its text, and its line, which its positions are counted from.
type Key = (u64, u32);

#[derive(Clone, Debug)]
struct Known {
    object: Arc<Object>,
    /// How many nodes its tree has: all of a file count.
    nodes: u32,
}

impl Memory {
    /// How many documents are known.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn recall(&mut self) -> Recalled<'_> {
        let before = std::mem::take(&mut self.0);
        Recalled { before, now: &mut self.0, looked: Vec::new() }
    }
}

/// What is known while a file is read again.
#[derive(Debug)]
pub(super) struct Recalled<'m> {
    before: FxHashMap<Key, Known>,
    /// What is known the next time.
    now: &'m mut FxHashMap<Key, Known>,
    /// The parts of the text, in their order.
    looked: Vec<Key>,
}

impl Recalled<'_> {
    /// How many nodes a part has that is known.
    pub fn look(&mut self, chunk: Chunk<'_>) -> Option<usize> {
        let mut hasher = DefaultHasher::new();
        chunk.text.hash(&mut hasher);
        let key = (hasher.finish(), chunk.line);
        self.looked.push(key);
        self.before.get(&key).and_then(|known| usize::try_from(known.nodes).ok())
    }

    /// What stands in this part, which is known.
    pub fn take(&mut self, part: usize) -> Option<Read> {
        let key = self.looked.get(part)?;
        let known = self.before.remove(key)?;
        let object = known.object.clone();
        self.now.insert(*key, known);
        let tree = Node { value: Value::Null, position: Position { line: key.1 + 1, column: 0 } };
        Some(Read { reference: Some(object.reference()), object: Some(object), tree })
    }

    /// This part holds one good object, and there is nothing to say of it.
    pub fn note(&mut self, part: usize, object: &Arc<Object>, nodes: usize) {
        let (Some(key), Ok(nodes)) = (self.looked.get(part), u32::try_from(nodes)) else { return };
        self.now.insert(*key, Known { object: object.clone(), nodes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::{Reading, read, read_again};

    fn service(index: usize, port: u32) -> String {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{index}}}\nspec:\n  ports: \
             [{{port: {port}}}]\n"
        )
    }

    fn text(documents: &[String]) -> String {
        documents.iter().map(|document| format!("---\n{document}")).collect()
    }

    /// Reads a text by what is known, and says how many documents were decoded.
    fn again(text: &str, memory: &mut Memory) -> (Reading, usize) {
        let file = Some("a.yaml".into());
        let (mut fresh, mut reading) = (read(file.clone(), text), read_again(file, text, memory));
        let decoded = reading.objects.iter().filter(|one| one.tree.value != Value::Null).count();
        for one in fresh.objects.iter_mut().chain(&mut reading.objects) {
            one.tree = Node { value: Value::Null, position: Position::default() };
        }
        assert_eq!(fresh, reading);
        (reading, decoded)
    }

    #[test]
    fn of_a_file_in_which_one_document_is_other_one_is_decoded() {
        let mut documents: Vec<String> = (0..1000).map(|index| service(index, 80)).collect();
        let mut memory = Memory::default();
        assert_eq!(again(&text(&documents), &mut memory).1, 1000);
        assert_eq!(again(&text(&documents), &mut memory).1, 0);
        documents[500] = service(500, 81);
        assert_eq!(again(&text(&documents), &mut memory).1, 1);
        // What was there before is not remembered for ever.
        assert_eq!(memory.len(), 1000);
        // Below a line that came the positions are others.
        documents[990].push_str("# a comment\n");
        let (reading, decoded) = again(&text(&documents), &mut memory);
        assert_eq!(decoded, 10);
        let last = reading.objects.last().and_then(|one| one.object.as_ref());
        assert_eq!(last.map(|one| one.meta.origin.line), Some(999 * 6 + 3));
        documents.truncate(2);
        assert_eq!(again(&text(&documents), &mut memory).1, 0);
        assert_eq!(memory.len(), 2);
    }

    #[test]
    fn what_is_wrong_or_worth_a_word_is_said_each_time() {
        let documents = [
            service(0, 80),
            service(1, 70_000),
            "{".to_owned(),
            "a: b\n".to_owned(),
            service(2, 80).replace("Service", "Servise"),
            service(3, 80) + "spec: {}\n",
            "apiVersion: v1\nkind: List\nitems: []\n".to_owned(),
        ];
        let mut memory = Memory::default();
        let first = again(&text(&documents), &mut memory).0;
        assert!(first.diagnostics.len() > 2, "{:#?}", first.diagnostics);
        assert_eq!(memory.len(), 1);
        assert_eq!(again(&text(&documents), &mut memory).0, first);
    }

    #[test]
    fn known_documents_count_for_the_limit_of_a_file() {
        let list = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: \
                            [{{port: 80}}], externalIPs: [{}]}}\n",
            "'192.0.2.1', ".repeat(300_000)
        );
        let documents: Vec<String> =
            (0..3).map(|index| list.replace("name: a", &format!("name: a{index}"))).collect();
        let mut memory = Memory::default();
        assert!(again(&text(&documents), &mut memory).0.complete);
        let more = [text(&documents), text(&documents[..1]).replace("a0", "a3")].concat();
        assert!(!again(&more, &mut memory).0.complete);
    }
}
