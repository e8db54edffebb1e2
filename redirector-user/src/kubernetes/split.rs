//! A list of the API server, taken apart while it arrives: what is held of it at once
//! is one item, and not the whole, which may be hundreds of megabytes.

/// What of a list has arrived.
#[derive(Debug, Default)]
pub struct Split {
    /// The list without its items.
    rest: Vec<u8>,
    item: Vec<u8>,
    /// Braces and brackets that are open.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// Where the last string of the outermost level begins in `rest`.
    string: usize,
    in_items: bool,
}

/// The field of the items, as it is written.
const ITEMS: &[u8] = b"\"items\"";

impl Split {
    /// Takes more of the text, and gives each item that has come to its end by it.
    ///
    /// # Errors
    /// The first of those that `each` returns.
    pub fn feed<E>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for &byte in bytes {
            self.take(byte);
            if self.in_items && self.depth == 2 && byte == b'}' && !self.in_string {
                each(&self.item)?;
                self.item.clear();
            }
        }
        Ok(())
    }

    fn take(&mut self, byte: u8) {
        let begins = !self.in_string && byte == b'"' && self.depth == 1;
        if self.in_items && (self.depth > 2 || byte == b'{') {
            self.item.push(byte);
        } else if !(self.in_items && byte == b',') {
            if begins {
                self.string = self.rest.len();
            }
            self.rest.push(byte);
        }
        if self.in_string {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => {
                let is_list = byte == b'[' && self.depth == 1;
                self.in_items |= is_list && self.rest[self.string..].starts_with(ITEMS);
                self.depth += 1;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.in_items &= self.depth > 1;
            }
            _ => {}
        }
    }

    /// The text without its items, when all has arrived.
    pub fn rest(self) -> Vec<u8> {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn split(text: &str, at: usize) -> (Vec<Value>, Result<Value, serde_json::Error>) {
        let mut split = Split::default();
        let mut items = Vec::new();
        for chunk in text.as_bytes().chunks(at) {
            let each = |item: &[u8]| serde_json::from_slice(item).map(|item| items.push(item));
            split.feed(chunk, each).expect("an item is whole");
        }
        (items, serde_json::from_slice(&split.rest()))
    }

    #[test]
    fn items_come_one_by_one_wherever_the_text_is_cut() {
        let items = json!([
            { "metadata": { "name": "a\"}],\\", "items": [{ "x": [] }, {}] } },
            {},
            { "text": "\u{e9}[{", "list": [[{ "a": 1 }]] },
        ]);
        let before =
            json!({ "kind": "List", "items": items, "metadata": { "items": [{ "y": 1 }] } });
        let order = format!(
            "{{ \"items\" : {items}, \"metadata\": {{\"resourceVersion\":\"7\", \"a\":\"items\"}} }}\n"
        );
        for text in [before.to_string(), order, serde_json::to_string_pretty(&before).unwrap()] {
            let whole: Value = serde_json::from_str(&text).unwrap();
            for at in 1..text.len() {
                let (split, rest) = split(&text, at);
                assert_eq!(&Value::from(split), &whole["items"], "{at}");
                let rest = rest.unwrap();
                assert_eq!((&rest["metadata"], &rest["items"]), (&whole["metadata"], &json!([])));
            }
        }
    }

    #[test]
    fn a_list_without_items_and_what_is_no_list_are_passed_on() {
        for text in ["{\"items\":null,\"metadata\":{}}", "\"no object\"", "{\"items\":[],\"a\":1}"]
        {
            let (items, rest) = split(text, 3);
            assert!(items.is_empty());
            assert_eq!(rest.unwrap(), serde_json::from_str::<Value>(text).unwrap());
        }
        let (items, rest) = split("{\"items\":[{\"a\":1},{\"b\":", 5);
        assert_eq!(items, [json!({ "a": 1 })]);
        assert!(rest.is_err(), "it was cut");
    }
}
