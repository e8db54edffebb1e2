//! What is read, and where it stands.

use super::{Node, Position, Value, parse};

/// The values of a text and where they begin, in the form `value@line:column`.
fn shown(text: &str) -> String {
    fn show(node: &Node, out: &mut Vec<String>) {
        let Position { line, column } = node.position;
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| show(item, out)),
            Value::Map(entries) => {
                for entry in entries.iter() {
                    let Position { line, column } = entry.position;
                    out.push(format!("{}@{line}:{column}", entry.key));
                    show(&entry.value, out);
                }
            }
            Value::Null => out.push("~".to_owned()),
            Value::String(text) => out.push(format!("{text:?}@{line}:{column}")),
            Value::Bool(_, text) | Value::Int(_, text) | Value::Float(_, text) => {
                out.push(format!("{text}@{line}:{column}"));
            }
        }
    }
    let parsed = parse(text);
    let mut out = Vec::new();
    parsed.documents.iter().for_each(|document| show(&document.root, &mut out));
    out.extend(parsed.errors.iter().map(|error| {
        let Position { line, column } = error.position;
        format!("{}@{line}:{column}", error.message)
    }));
    out.join(" ")
}

#[test]
fn what_kubectl_reads_is_read_with_its_places() {
    for (text, expected) in [
        // A list's items at the column of its key, a bracket at that column, too.
        ("a:\n- b\n- c: 1\n", "a@1:1 \"b\"@2:3 c@3:3 1@3:6"),
        ("a: [b,\n\"c\"\n]\n", "a@1:1 \"b\"@1:5 \"c\"@2:1"),
        ("a: [\n  \"b\"\n]\nc: d\n", "a@1:1 \"b\"@2:3 c@4:1 \"d\"@4:4"),
        // A quoted string that goes on at the column of its key, or behind a tab.
        ("a: \"b\nc\"\nd: 1\n", "a@1:1 \"b c\"@1:4 d@3:1 1@3:4"),
        ("a: \"b\n\tc\"\n", "a@1:1 \"b c\"@1:4"),
        // Comments that nothing separates from what is before them.
        ("a: \"b\"#c\nd: [e,#f\n]#g\n", "a@1:1 \"b\"@1:4 d@2:1 \"e\"@2:5"),
        ("a: >#b\n  c\n", "a@1:1 \"c\\n\"@1:4"),
        ("[-, -]", "\"-\"@1:2 \"-\"@1:5"),
        // What only the parser of Go takes, and twice on a line.
        (r#"{a: "b\'c\'", d: e}"#, "a@1:2 \"b'c'\"@1:5 d@1:15 \"e\"@1:18"),
        ("{a:, b:}\n---\n[a:, c]", "a@1:2 ~ b@1:6 ~ a@3:2 ~ \"c\"@3:6"),
        ("- !!str, 1\n- !!int 2\n", "\"1\"@1:3 2@2:3"),
        ("{? , b: 1}", "null@1:4 ~ b@1:6 1@1:9"),
        // Directives belong to what follows.
        (
            "a: b\n%TAG ! x:\n---\nc: d\n...\n%YAML 1.1\n---\ne: f\n",
            "a@1:1 \"b\"@1:4 c@4:1 \"d\"@4:4 e@8:1 \"f\"@8:4",
        ),
        (
            "a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}\n",
            "a@1:1 b@1:8 1@1:11 c@2:1 b@1:8 1@1:11 d@3:1 e@3:13 2@3:16 b@1:8 1@1:11",
        ),
        // JSON may stand one behind the other.
        (
            "{\"a\":\n 1}\n\n {\"b\": \"ä\"} {\"c\": [2,\n3]}\n",
            "a@1:2 1@2:2 b@4:3 \"ä\"@4:8 c@4:14 2@4:20 3@5:1",
        ),
        ("{\"a\": \"\\ud83d\\ude00\"}\n{\"b\": 1}", "a@0:0 \"😀\"@0:0 b@2:2 1@2:7"),
        (
            "{\"a\": 1}\n ]",
            "a@1:2 1@1:7 this is not YAML: did not find expected <document start>@2:2",
        ),
        // JSON with escapes that YAML lacks has no places.
        ("{\"a\": \"\\ud83d\\ude00\"}", "a@0:0 \"😀\"@0:0"),
    ] {
        assert_eq!(shown(text), expected, "{text}");
    }
}

#[test]
fn what_it_does_not_read_is_refused_at_its_place() {
    for (text, expected) in [
        ("a: *b\n", "the alias *b repeats what no anchor &b names@1:4"),
        ("a: &b [*b]\n", "an alias stands inside of what it repeats@1:8"),
        (
            "a: 1\n---\nb: [1\n---\nc: 2\n",
            "a@1:1 1@1:4 c@5:1 2@5:4 this is not YAML: \
          while parsing a flow sequence (from line 3): did not find expected ',' or ']'@4:1",
        ),
        ("a\n- b: c\n", "this is not YAML: this line is neither a key nor an item of a list@1:1"),
        (
            "a:\n  b:c\n  d: e\n",
            "this is not YAML: this line is neither a key nor an item of a list@2:3",
        ),
        (
            "a:\n  b\n  c: d\n",
            "this is not YAML: this line is neither a key nor an item of a list@2:3",
        ),
        (
            "a:\n- b\n c:\n- d\n",
            "this is not YAML: this key is further in than the item of a list above it, and so a \
             part of that item's text@3:2",
        ),
        (
            "a:\n  -b\nc:\n  -d\n  e: f\n",
            "this is not YAML: the dash that begins an item of a list has no space behind it@4:3",
        ),
        ("a: b: c\n", "this is not YAML: a second colon makes a second key on one line@1:5"),
        ("a: 1\nb: \"c\nd: 2\n", "this is not YAML: this quote is never closed@2:4"),
        ("a: b\n\u{1}: c\n", "this is not YAML: control characters are not allowed@2:1"),
    ] {
        assert_eq!(shown(text), expected, "{text}");
    }
}

#[test]
fn what_is_blamed_for_a_refusal_is_indentation_and_no_text() {
    let text = shown("a: |\n  \u{a0}text\nb: [1\nc: 2\n");
    assert!(text.contains("flow sequence"), "{text}");
    let indentation = shown("a:\n\u{a0} b: 1\nc: [1\n");
    assert!(indentation.contains("no-break space"), "{indentation}");
}

#[test]
fn hostile_texts_cost_no_more_than_their_length() {
    let deep = |open: &str| open.repeat(1 << 20);
    for text in [
        deep("["),
        deep("[[],"),
        deep("{a: "),
        deep("- "),
        deep("? "),
        deep("%TAG !a! b\n"),
        format!("\"{}\"", deep("\\'")),
        format!("[{}]", deep("a:,")),
        deep("- !!str, x\n"),
    ] {
        assert!(!parse(&text).errors.is_empty(), "{}", &text[..20]);
    }
}
