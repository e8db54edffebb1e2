//! What a text says, event by event, as libyaml reads it: the parser that the one
//! in `kubectl` is a translation of.
//!
//! Only this module touches it: a translation of C, with C's interface.

use std::borrow::Cow;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use libyaml_rs as sys;

/// A step through a document.
#[derive(Debug)]
pub(super) enum Event<'e> {
    Scalar {
        text: Cow<'e, str>,
        /// Whether it is written without quotes and not as a block.
        plain: bool,
        tag: Option<Cow<'e, str>>,
        anchor: Option<Cow<'e, str>>,
    },
    Alias(Cow<'e, str>),
    List(Option<Cow<'e, str>>),
    Map(Option<Cow<'e, str>>),
    /// The innermost list or map ends.
    End,
    DocumentEnd,
    /// The last one.
    StreamEnd,
    /// Of no consequence.
    Other,
}

/// A place: its byte, and its line and column, in characters, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    pub byte: u64,
    pub line: u64,
    pub column: u64,
}

/// Why it cannot be read on.
#[derive(Debug)]
pub(super) struct Refusal {
    pub problem: String,
    pub at: Mark,
    /// What was being read, and where that begins.
    pub context: Option<(String, Mark)>,
}

/// The events of a text.
pub(super) struct Events<'t> {
    /// Boxed: it points into itself.
    parser: Box<MaybeUninit<sys::yaml_parser_t>>,
    /// The one that was given last.
    event: Option<sys::yaml_event_t>,
    text: &'t str,
}

impl<'t> Events<'t> {
    pub fn new(text: &'t str) -> Self {
        let mut parser = Box::new(MaybeUninit::uninit());
        let to = parser.as_mut_ptr();
        // SAFETY: `to` is valid for writing, and initialised before it is used. It and
        // the text stay where they are for as long as the parser lives: one is boxed,
        // the other borrowed. Without memory the library aborts by itself.
        unsafe {
            let made = sys::yaml_parser_initialize(to);
            assert!(made.ok, "a parser's buffers are always made");
            sys::yaml_parser_set_encoding(to, sys::YAML_UTF8_ENCODING);
            sys::yaml_parser_set_input_string(to, text.as_ptr(), text.len() as u64);
        }
        Self { parser, event: None, text }
    }

    /// The next one. Nothing comes after an error or the end of the stream.
    pub fn next(&mut self) -> Result<(Event<'_>, Mark), Refusal> {
        self.forget();
        let mut event = MaybeUninit::uninit();
        // SAFETY: The parser is initialised, and `event` valid for writing.
        let read = unsafe { sys::yaml_parser_parse(self.parser.as_mut_ptr(), event.as_mut_ptr()) };
        if read.fail {
            return Err(self.refusal());
        }
        // SAFETY: It succeeded, so the event is initialised; and it is kept, so that
        // what it points to lives for as long as `self` is borrowed.
        let event = self.event.insert(unsafe { event.assume_init() });
        let mark = mark(event.start_mark);
        // SAFETY: Of `data`, the part that the type says is valid; its pointers are to
        // strings that end with a zero byte, or null, and to as many bytes as it says.
        let event = unsafe {
            match event.type_ {
                sys::YAML_SCALAR_EVENT => {
                    let scalar = &event.data.scalar;
                    let length = usize::try_from(scalar.length).unwrap_or(0);
                    let text = std::slice::from_raw_parts(scalar.value, length);
                    Event::Scalar {
                        text: String::from_utf8_lossy(text),
                        plain: scalar.style == sys::YAML_PLAIN_SCALAR_STYLE,
                        tag: string(scalar.tag),
                        anchor: string(scalar.anchor),
                    }
                }
                sys::YAML_ALIAS_EVENT => {
                    Event::Alias(string(event.data.alias.anchor).unwrap_or_default())
                }
                sys::YAML_SEQUENCE_START_EVENT => {
                    Event::List(string(event.data.sequence_start.anchor))
                }
                sys::YAML_MAPPING_START_EVENT => {
                    Event::Map(string(event.data.mapping_start.anchor))
                }
                sys::YAML_SEQUENCE_END_EVENT | sys::YAML_MAPPING_END_EVENT => Event::End,
                sys::YAML_DOCUMENT_END_EVENT => Event::DocumentEnd,
                sys::YAML_STREAM_END_EVENT | sys::YAML_NO_EVENT => Event::StreamEnd,
                _ => Event::Other,
            }
        };
        Ok((event, mark))
    }

    fn forget(&mut self) {
        if let Some(mut event) = self.event.take() {
            // SAFETY: It is initialised, and nothing borrows from it any longer.
            unsafe { sys::yaml_event_delete(&raw mut event) };
        }
    }

    fn refusal(&self) -> Refusal {
        // SAFETY: The parser is initialised.
        let parser = unsafe { self.parser.assume_init_ref() };
        // SAFETY: Its messages are constants of the library, or null.
        let message = |text: *const i8| unsafe { string(text.cast::<u8>().cast_mut()) };
        let at = match parser.error {
            // Of the bytes only their place is known.
            sys::YAML_READER_ERROR => {
                let offset = usize::try_from(parser.problem_offset).unwrap_or(usize::MAX);
                let before = self.text.get(..offset).unwrap_or(self.text);
                let line = before.rsplit('\n').next().unwrap_or_default();
                let column = line.chars().count() as u64;
                Mark {
                    byte: parser.problem_offset,
                    line: before.matches('\n').count() as u64,
                    column,
                }
            }
            _ => mark(parser.problem_mark),
        };
        let context =
            message(parser.context).map(|text| (text.into_owned(), mark(parser.context_mark)));
        let problem = message(parser.problem).unwrap_or(Cow::Borrowed("it breaks off"));
        Refusal { problem: problem.into_owned(), at, context }
    }
}

impl Drop for Events<'_> {
    fn drop(&mut self) {
        self.forget();
        // SAFETY: The parser is initialised, and not used again.
        unsafe { sys::yaml_parser_delete(self.parser.as_mut_ptr()) };
    }
}

fn mark(mark: sys::yaml_mark_t) -> Mark {
    Mark { byte: mark.index, line: mark.line, column: mark.column }
}

/// # Safety
///
/// `text` is null, or what it points to ends with a zero byte and lives for `'e`.
unsafe fn string<'e>(text: *mut u8) -> Option<Cow<'e, str>> {
    let text = NonNull::new(text)?;
    // SAFETY: As the caller promises.
    Some(unsafe { CStr::from_ptr(text.as_ptr().cast()) }.to_string_lossy())
}
