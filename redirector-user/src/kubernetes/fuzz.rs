//! What fuzzers try of what the API server sends.

use std::hash::RandomState;

use serde_json::Value;

use super::api::{Event, event};
use super::item::{self, Reader};
use super::resource::Resource;
use super::split::Split;

/// Lists and watches: whatever comes, reading it ends; a list is taken apart in the same way
/// wherever it is cut, and into what JSON has in it; an object is read the same twice. The first
/// byte says which resource it is, and whether the rest is a list or the lines of a watch.
pub fn objects(bytes: &[u8]) {
    let Some((how, rest)) = bytes.split_first() else { return };
    let resource = Resource::ALL[usize::from(how / 2) % Resource::ALL.len()];
    let mut reader = Reader::new(resource, resource.versions()[0], RandomState::new());
    if how % 2 == 0 {
        let items = list(rest);
        items.iter().filter_map(|item| std::str::from_utf8(item).ok()).for_each(|item| {
            object(&mut reader, item);
        });
        return;
    }
    let Ok(text) = std::str::from_utf8(rest) else { return };
    for event in text.lines().filter_map(|line| event(line).ok()) {
        match event {
            Event::Put(one) => object(&mut reader, one.get()),
            Event::Gone(one) => drop(item::version(one.get())),
            Event::Bookmark { .. } | Event::Error(_) => {}
        }
    }
}

fn object(reader: &mut Reader, text: &str) {
    let Ok(seen) = reader.look(text) else { return };
    let (name, _) = item::version(text).expect("as it was looked at");
    assert_eq!(seen.name, name);
    let once = reader.decode(seen);
    let again = reader.look(text).and_then(|seen| reader.decode(seen));
    assert_eq!(format!("{once:?}"), format!("{again:?}"));
}

/// The items of a list.
fn list(bytes: &[u8]) -> Vec<Vec<u8>> {
    let [whole, cut] = [bytes.len().max(1), 1].map(|portion| {
        let (mut split, mut items) = (Split::default(), Vec::new());
        for portion in bytes.chunks(portion) {
            let each = |item: &[u8]| {
                items.push(item.to_owned());
                Ok::<_, ()>(())
            };
            split.feed(portion, each).expect("all are taken");
        }
        (items, split.rest())
    });
    assert_eq!(whole, cut);
    let (items, rest) = whole;
    // One list, of which nothing is written in a way of its own.
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    if text.matches("\"items\"").count() == 1
        && !text.contains('\\')
        && let Ok(value) = serde_json::from_str::<Value>(text)
        && let Some(expected) = value["items"].as_array()
        && expected.iter().all(Value::is_object)
    {
        let items = items.iter().map(|item| serde_json::from_slice::<Value>(item).ok());
        assert!(items.eq(expected.iter().cloned().map(Some)), "other items");
        let rest: Value = serde_json::from_slice(&rest).expect("the list without them");
        assert_eq!(rest["metadata"], value["metadata"]);
    }
    items
}
